"""Waiting for what other processes do: there is no event to wait on, so a fact is asked for again and again.

Within one process, wait for the event itself: a signal of turbo.runtime.signal, an asyncio.Event, a future.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil

PAUSE = 0.02


def until(
    predicate: Callable[[], object],
    seconds: float = 20.0,
    what: str | Callable[[], str] = "",
    pause: float = PAUSE,
) -> Any:
    """Ask until the answer is true; that answer. Raises AssertionError with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = predicate()
        if value:
            return value
        time.sleep(pause)
    raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what or predicate}")


async def until_async(
    predicate: Callable[[], Awaitable[object]] | Callable[[], object],
    seconds: float = 20.0,
    what: str = "",
    pause: float = PAUSE,
) -> Any:
    """The same in a running event loop; the predicate may be a coroutine function."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        await asyncio.sleep(pause)
    raise AssertionError(f"not within {seconds} s: {what or predicate}")


def gone(process: int | psutil.Process) -> bool:
    """No such process, or only its zombie: that runs nothing, and PID 1 of a container may be late to collect it."""
    try:
        one = psutil.Process(process) if isinstance(process, int) else process
        return bool(one.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
