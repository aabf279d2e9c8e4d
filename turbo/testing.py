"""Minimal handlers for the `python` executor, for trials, tests and benchmarks.

In worker.yaml: `noop: {kind: python, handler: "turbo.testing:noop"}`.
"""

import asyncio
import time

from turbo.domain.asking import Ask
from turbo.domain.task import Task


async def noop(_task: Task) -> None:
    """Succeed at once."""


async def echo(task: Task) -> object:
    """Return `input_data`, or the description if there is none."""
    return task.task_description if task.input_data is None else task.input_data


async def sleep(task: Task) -> float:
    """Wait `input_data.seconds` [default: 1] and return it."""
    data = task.input_data
    seconds = float(data.get("seconds", 1.0)) if isinstance(data, dict) else 1.0
    await asyncio.sleep(seconds)
    return seconds


async def block(task: Task) -> float:
    """Hold up the event loop for `input_data.seconds` [default: 1], as no handler should, and return it."""
    data = task.input_data
    seconds = float(data.get("seconds", 1.0)) if isinstance(data, dict) else 1.0
    time.sleep(seconds)  # noqa: ASYNC251
    return seconds


async def fail(task: Task) -> None:
    """Raise RuntimeError with the description as its message."""
    raise RuntimeError(task.task_description)


async def fail_once(task: Task) -> str:
    """Raise on the first attempt, succeed on the next."""
    if task.attempt == 1:
        raise RuntimeError("the first attempt fails")
    return f"attempt {task.attempt}"


async def ask(task: Task) -> list[str | None]:
    """Ask the description as a question, `input_data.times` times [default: 1], and return the answers."""
    data = task.input_data
    times = int(data.get("times", 1)) if isinstance(data, dict) else 1
    if len(task.answers) < times:
        raise Ask(task.task_description, options=["yes", "no"])
    return [answered.answer for answered in task.answers]
