"""A user unit of a worker or a page: the equivalent of its plist for systemd.

    KeepAlive {SuccessfulExit: false}   Restart=on-failure, and no limit on how often
    ThrottleInterval                    RestartSec (counted from the end of the last run, launchd's from its start)
    ExitTimeOut                         TimeoutStopSec

KillMode=mixed: only the worker gets TERM, and drains. The default would send it to every process of the unit, including the
agents in the middle of their work. Processes left over when the worker has exited are killed. OOMPolicy=continue: an agent
that the kernel kills for its memory is a failed run, not a failed worker.
"""

import re

from turbo.fleet.instance import Instance
from turbo.fleet.launchd import OPEN_FILES

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


def _word(text: str, *, command: bool = False) -> str:
    """A word of a unit file: `%` doubled, quoted if needed; in a command line `$` is doubled too."""
    text = text.replace("%", "%%")
    if command:
        text = text.replace("$", "$$")
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unit(instance: Instance) -> str:
    """The file's text."""
    command = " ".join(_word(word, command=True) for word in instance.arguments)
    environment = "\n".join(f"Environment={_word(f'{name}={value}')}" for name, value in instance.environment.items())
    home = instance.home.replace("%", "%%")
    return f"""\
# Written by `turbo fleet render`. Change the fleet file, not this.
[Unit]
Description={instance.description}
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
WorkingDirectory={home}
{environment}
Restart=on-failure
RestartSec={instance.throttle_seconds}
TimeoutStopSec={instance.stop_seconds}
KillMode=mixed
OOMPolicy=continue
LimitNOFILE={OPEN_FILES}:524288

[Install]
WantedBy=default.target
"""
