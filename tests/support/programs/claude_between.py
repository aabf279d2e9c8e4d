"""Stands between turbo and the real Claude CLI, and makes one moment certain: `claude_between.py MOMENT CLI ARGUMENTS…`.

late           stdin reaches a resumed CLI only when its deferred call waits for a permission, or is done
late-ungated   the same, without the CLI's `--settings`: what the gate is for
dies           the CLI is killed right after its result line
"""

import os
import subprocess
import sys
import threading

moment, cli, *arguments = sys.argv[1:]
resumed = "--resume" in arguments
if moment == "late-ungated" and resumed:
    place = arguments.index("--settings")
    del arguments[place : place + 2]

# The login comes in descriptors that stay open.
process = subprocess.Popen([cli, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False)
assert process.stdin is not None
assert process.stdout is not None
go = threading.Event()
if not (moment.startswith("late") and resumed):
    go.set()


def forward() -> None:
    assert process.stdin is not None
    go.wait()
    while data := os.read(0, 65536):
        os.write(process.stdin.fileno(), data)
    process.stdin.close()


threading.Thread(target=forward, daemon=True).start()
for line in process.stdout:
    os.write(1, line)
    if b'"can_use_tool"' in line or b'"tool_result"' in line:
        go.set()
    if moment == "dies" and b'"type":"result"' in line:
        process.kill()
os._exit(process.wait() % 256)
