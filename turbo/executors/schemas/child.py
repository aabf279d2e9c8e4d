"""The process in which an answer is compared with a schema that may take long. A script: it imports turbo late.

    stdin: {"path": sys.path, "seconds": 10, "schema": "…", "answer": "…"}    stdout: {"misfit": "…"} or {"misfit": null}

It ends itself when it has computed for that many seconds: an expression that backtracks cannot be ended in any other way.
"""

import json
import resource
import sys
import threading
from typing import Any

STACK_BYTES = 256 * 1024 * 1024
FRAMES = 30_000
"""An answer nested as deep as answers may be, against a schema that refers to itself on every level."""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"] + 1))
    sys.path[:] = request["path"]
    sys.setrecursionlimit(FRAMES)
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=_compare, args=(request,))
    thread.start()
    thread.join()


def _compare(request: dict[str, Any]) -> None:
    from turbo.executors.schemas.comparison import misfit, validator_of

    schema, answer = json.loads(request["schema"]), json.loads(request["answer"])
    try:
        why = misfit(validator_of(schema), answer)
    except RecursionError:
        why = "it is nested too deep to be compared"
    sys.stdout.write(json.dumps({"misfit": why}))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
