"""The small protocol behind every loop of a worker: start, stop, run.

A loop is one concern with one task. `run` goes on until it is cancelled; whatever else leaves it is a defect, which the
worker reports and does not survive (its supervisor, launchd or systemd, starts it again; the spool and the lease see to
what it was doing).
"""

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress

from turbo.runtime.background import Background, Crashed, report


class Service(ABC):
    name: str

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self.jobs = Background()  # what it starts beside itself; ended with it

    def start(self, crashed: Crashed) -> None:
        """Run in the background. `crashed(name, error)` is called if the loop, or a job of it, ends by an exception."""
        self.jobs.crashed = crashed
        self._task = asyncio.create_task(self.run(), name=self.name)
        self._task.add_done_callback(lambda task: report(task, crashed))

    async def stop(self) -> None:
        """Cancel it and its jobs, and wait until they are gone. Right to call twice, and before start."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
        await self.jobs.close()

    @abstractmethod
    async def run(self) -> None: ...
