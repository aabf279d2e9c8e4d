"""The process of one run with `isolation: process` (turbo.executors.python_process). A script: it imports turbo late.

    stdin: {"path": sys.path, "handler": "module:function", "task": {…}}    stdout: {"output": …}, {"ask": {…}} or {"error": "…"}

What the handler prints goes to stderr, and so to the log of the attempt: stdout is for the answer alone.
"""

import asyncio
import inspect
import json
import os
import signal
import sys
import traceback
from collections.abc import Awaitable
from typing import Any


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")  # not inherited by what the handler starts
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    sys.path[:] = request["path"]
    try:
        text = json.dumps(_answer(request))
    except BaseException as error:  # whatever it raises is its own failure
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        text = json.dumps({"error": what})
    answers.write(text)
    answers.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads that the handler left behind are not waited for


def _answer(request: dict[str, Any]) -> dict[str, object]:
    from turbo.domain.asking import ask_of

    try:
        return {"output": _output(request)}
    except Exception as error:
        ask = ask_of(error)
        if ask is None:
            raise
        return {"ask": ask.form}


def _output(request: dict[str, Any]) -> object:
    from turbo.domain.asking import answers_from_json
    from turbo.domain.task import Task
    from turbo.domain.work import work_from_json
    from turbo.executors.python import load_handler

    handler = load_handler(request["handler"], "this process", sync=True)
    task = request["task"]
    output = handler(Task(**task | {"answers": answers_from_json(task["answers"])} | work_from_json(task)))
    if inspect.isawaitable(output):
        output = asyncio.run(_await(output))
    try:
        json.dumps(output)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{request['handler']} returned a value that is not JSON: {error}") from None
    return output


async def _await(work: Awaitable[object]) -> object:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


if __name__ == "__main__":
    main()
