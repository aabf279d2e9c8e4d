"""The work area: where the programs of one executor run.

It is the only interface between an executor and its directories: an executor hands its program to a work area and
gets the outcome back. turbo.executors.directories is the plain one; turbo.workspaces.worktrees gives each task a
worktree.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from turbo.domain.outcome import Outcome, Probe
from turbo.domain.run import Run
from turbo.domain.task import Task

Exclusive = Callable[[Path, Task], AbstractAsyncContextManager[None]]
"""Holds a directory for a task while its program runs. Raises Snooze if another task runs there."""


def no_lock(_directory: Path, _task: Task) -> AbstractAsyncContextManager[None]:
    """Any number of tasks may work in the directory at the same time."""
    return nullcontext()


Program = Callable[[Path], Awaitable[Outcome]]
"""Runs an executor's program in a directory (absolute), to its end."""


class WorkArea(Protocol):
    """Where the programs of one executor run."""

    @property
    def fixed(self) -> Path | None:
        """The directory, if it is the same for every task."""
        ...

    def missing(self, environment: Mapping[str, str]) -> str | None:
        """Why no task could run on this host now, or None. Cheap: no process."""
        ...

    def dependencies(self, environment: Callable[[], Mapping[str, str]]) -> Mapping[str, Probe]:
        """What may be away: by name (turbo.domain.dependency), each with its probe. `environment`: for the probes."""
        ...

    async def run(self, run: Run, environment: Mapping[str, str], program: Program) -> Outcome:
        """Prepare the directory, run `program` in it, and deal with what it left there.

        `environment` is what the program gets. Returns the program's outcome, or that of a task that cannot run here.
        Raises Snooze (before anything is started), OSError, and what `program` raises.
        """
        ...
