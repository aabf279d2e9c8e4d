"""The work area: where the programs of one executor run. The one seam between an executor and its directories.

An executor hands its program to a work area and gets the outcome back. `executors.directories` is the plain one;
`workspaces.worktrees` gives each task a git worktree.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from turbo.domain.outcome import Outcome
from turbo.domain.run import Run
from turbo.domain.task import Task

Exclusive = Callable[[Path, Task], AbstractAsyncContextManager[None]]
"""Holds a directory for a task while its program runs. Raises Snooze when another task is at work there."""


def no_lock(_directory: Path, _task: Task) -> AbstractAsyncContextManager[None]:
    """Anybody may work in it at the same time."""
    return nullcontext()


Program = Callable[[Path], Awaitable[Outcome]]
"""Runs an executor's program in a directory (absolute), to its end."""


class WorkArea(Protocol):
    """Where the programs of one executor run."""

    @property
    def fixed(self) -> Path | None:
        """The directory, where it is the same for every task."""
        ...

    def missing(self, environment: Mapping[str, str]) -> str | None:
        """Why no task could be run on this host now, or None. Cheap: no process."""
        ...

    async def run(self, run: Run, environment: Mapping[str, str], program: Program) -> Outcome:
        """Make the directory ready, run `program` in it, and see to what it left there.

        `environment`: what the program gets. Returns the program's outcome, or that of a task that cannot run here.
        Raises Snooze (before anything was started), OSError, and what `program` raises.
        """
        ...
