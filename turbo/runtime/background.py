"""Jobs that nobody awaits: kept alive until they end, ended with their owner, and never failing in silence.

A job handles what it can foresee (a database that is away) itself. What else leaves it is a defect, reported as a loop's
is (turbo.runtime.service): the worker drains and its supervisor starts another.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
Crashed = Callable[[str, BaseException], None]
"""`crashed(name, error)`: told of a defect, by what it happened in."""


def report(task: "asyncio.Task[Any]", crashed: Crashed) -> None:
    """Tell `crashed` how `task` ended, if that was by an exception."""
    if not task.cancelled() and (error := task.exception()) is not None:
        crashed(task.get_name(), error)


class Background:
    """`crashed` may be given later; until then a defect is asyncio's to report."""

    def __init__(self, crashed: Crashed | None = None) -> None:
        self.crashed = crashed
        self._jobs: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        """Begin `work`. `name` says in the log what crashed."""
        job = asyncio.create_task(work, name=name)
        self._jobs.add(job)
        job.add_done_callback(self._ended)
        return job

    def _ended(self, job: "asyncio.Task[Any]") -> None:
        self._jobs.discard(job)
        if self.crashed is not None:
            report(job, self.crashed)

    async def ended(self, seconds: float | None = None) -> bool:
        """Wait until all have ended, at most `seconds`. False when some go on."""
        if self._jobs:
            await asyncio.wait(set(self._jobs), timeout=seconds)
        return not self._jobs

    async def close(self) -> None:
        """End all, and wait until they are gone."""
        for job in set(self._jobs):
            job.cancel()
        await self.ended()
