"""Waiting for what other processes do: there is no event to wait on, so a fact is asked for again and again.

Within one process, wait for the event itself: a signal of turbo.runtime.signal, an asyncio.Event, a future.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil

PAUSE, SOON, LATER_PAUSE = 0.02, 0.5, 0.05
"""Seconds between two questions, at first and after SOON. A question to the database costs 0.8 ms of CPU, and several tests wait
at a time."""


def until(
    predicate: Callable[[], object],
    seconds: float = 45.0,
    what: str | Callable[[], str] = "",
    pause: float | None = None,
) -> Any:
    """Ask until the answer is true; that answer. Raises AssertionError with `what` after `seconds`."""
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        value = predicate()
        if value:
            return value
        time.sleep(pause or _pause(begun))
    raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what or predicate}")


def _pause(begun: float) -> float:
    return PAUSE if time.monotonic() - begun < SOON else LATER_PAUSE


async def until_async(
    predicate: Callable[[], Awaitable[object]] | Callable[[], object],
    seconds: float = 45.0,
    what: str = "",
    pause: float | None = None,
) -> Any:
    """The same in a running event loop; the predicate may be a coroutine function."""
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        await asyncio.sleep(pause or _pause(begun))
    raise AssertionError(f"not within {seconds} s: {what or predicate}")


def gone(process: int | psutil.Process) -> bool:
    """No such process, or only its zombie: that runs nothing, and PID 1 of a container may be late to collect it."""
    try:
        one = psutil.Process(process) if isinstance(process, int) else process
        return bool(one.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
