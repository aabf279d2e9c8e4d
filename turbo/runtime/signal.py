"""Signals: what a service has just done, for tests that wait for it instead of sleeping.

    with claimer.claimed.watch() as claims:      # a queue of what is emitted from now on
        insert(...)
        task = await claims.get()

A signal without watchers costs almost nothing.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Signal(Generic[T]):
    """Emitted by one service, on the event loop."""

    def __init__(self) -> None:
        self._watchers: tuple[asyncio.Queue[T], ...] = ()

    def emit(self, value: T) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(value)

    @contextmanager
    def watch(self) -> Iterator["asyncio.Queue[T]"]:
        """What is emitted within the block, in order."""
        watcher: asyncio.Queue[T] = asyncio.Queue()
        self._watchers = (*self._watchers, watcher)
        try:
            yield watcher
        finally:
            self._watchers = tuple(w for w in self._watchers if w is not watcher)
