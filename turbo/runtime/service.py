"""Services: the long-lived parts of a worker, all behind one protocol.

    start ──▶ running ──started is set──▶ at work ──stop──▶ gone
                 └── its code raises: a defect, reported; the worker drains and its supervisor starts another

A service is one concern. It handles expected errors itself, such as a database that is away. Any other exception in its
code, or in a job it started, is a defect: it is reported, and the worker stops. No work is lost: results are in the spool,
and tasks are rescued when the lease ends.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

Crashed = Callable[[str, BaseException], None]
"""`crashed(name, error)`: called with a defect, and the name of the service or job that raised it."""


class Service(Protocol):
    """What starts and stops with a worker."""

    @property
    def name(self) -> str:
        """For the log."""
        ...

    @property
    def started(self) -> asyncio.Event:
        """Set once the service does its work."""
        ...

    def start(self, crashed: Crashed) -> None:
        """Begin, in the background."""
        ...

    async def stop(self) -> None:
        """End, and wait until it has ended. May be called twice, and before `start`."""
        ...


class Jobs:
    """Work in the background that nothing awaits: kept alive until it ends, and ended with its owner."""

    def __init__(self, crashed: Crashed | None = None) -> None:
        """Without `crashed`, and until `report_to`, asyncio reports a defect."""
        self._crashed = crashed
        self._jobs: set[asyncio.Task[Any]] = set()

    def report_to(self, crashed: Crashed) -> None:
        self._crashed = crashed

    def start(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        """Begin `work`. `name` is for the log, in case it crashes."""
        job = asyncio.create_task(work, name=name)
        self._jobs.add(job)
        job.add_done_callback(self._ended)
        return job

    def _ended(self, job: "asyncio.Task[Any]") -> None:
        self._jobs.discard(job)
        if self._crashed is not None:
            report(job, self._crashed)

    async def ended(self, seconds: float | None = None) -> bool:
        """Wait until all jobs have ended, at most `seconds`. False when some go on."""
        if self._jobs:
            await asyncio.wait(set(self._jobs), timeout=seconds)
        return not self._jobs

    async def close(self) -> None:
        """Cancel all jobs, and wait until they have ended."""
        for job in set(self._jobs):
            job.cancel()
        await self.ended()


class LoopService(ABC):
    """A service that is one coroutine on the worker's event loop. `jobs`: further work that it starts."""

    name: str

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self.started = asyncio.Event()
        self.jobs = Jobs()

    def start(self, crashed: Crashed) -> None:
        """See Service. `crashed` is also called for its jobs."""
        self.jobs.report_to(crashed)
        self._task = asyncio.create_task(self.run(), name=self.name)
        self._task.add_done_callback(lambda task: report(task, crashed))

    async def stop(self) -> None:
        """See Service."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
        await self.jobs.close()

    @abstractmethod
    async def run(self) -> None:
        """Go on until cancelled. Sets `started` once it is at work."""


def report(task: "asyncio.Task[Any]", crashed: Crashed) -> None:
    """Call `crashed` if `task` ended by an exception."""
    if not task.cancelled() and (error := task.exception()) is not None:
        crashed(task.get_name(), error)
