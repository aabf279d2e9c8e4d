"""The work area: where the programs of one executor run.

It is the only interface between an executor and its directories: an executor hands its program to a work area and
gets the outcome back. turbo.executors.directories is the plain one; turbo.workspaces.worktrees gives each task a
worktree.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
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


class CannotExamine(Exception):
    """What a task has done in its workspace cannot be seen. `away`: what is unavailable (turbo.domain.dependency), if that is
    why; otherwise the workspace itself is at fault, and the task with it."""

    def __init__(self, why: str, away: str | None = None) -> None:
        super().__init__(why)
        self.away = away


class TooManyFiles(CannotExamine):
    """More files match the patterns than are kept in mind. The message says what to do."""


@dataclass(frozen=True, slots=True)
class WorkDone:
    """Since the start of what is judged (see WorkspaceView). `commits`: of its own, without those that others had made before.
    `branch`: the one that has to have them; `on_branch`: it has what is checked out. `files_changed`: committed or not, new ones
    included, ignored ones not.
    `uncommitted`: the files with changes that are in no commit, a new directory as one that ends in a slash."""

    commits: int
    files_changed: int
    uncommitted: tuple[str, ...]
    branch: str = ""
    on_branch: bool = True


class ProtectedFiles(Protocol):
    """The files of a workspace that match some patterns, as they were before the agent's first turn. A file is what is in it, and
    whether it may be executed; a link is what it names. All methods raise CannotExamine, and OSError."""

    async def baseline_ran(self) -> None:
        """What differs now was not done by the agent, which has not begun."""
        ...

    async def agent_begins(self) -> None:
        """Before each of its turns: keep what is known for later runs. What is new from now on is the agent's. A baseline has run
        before."""
        ...

    async def changed(self) -> tuple[str, ...]:
        """Those that were changed, added or deleted, committed or not, ignored or not; also those that only a commit has changed.
        A new nested repository is named as one, with a slash. Where there are none, a check begins, and later runs know that."""
        ...

    async def check_ran(self) -> None:
        """What is new since `changed` found nothing is the check's own. Does nothing where it found something. If a run is cut off in
        its check, the next one does this as it begins. What was there before the agent began must stay as it was, whoever changes
        it: a check runs what the agent wrote."""
        ...


class WorkspaceView(Protocol):
    """What may be asked of a workspace while a task has it. All methods raise CannotExamine, also when the run is asked to end,
    and OSError.

    What is judged begins with the task. A follow-up of a task that did not complete has that one's start, and so on: nobody has
    accepted what is there. Where a start is not known, it is that of the worktree."""

    @property
    def fresh(self) -> bool:
        """Whether it was made for this run: it holds nothing of an earlier one."""
        ...

    async def note_commits(self, *, begun: bool) -> None:
        """Note what others have committed, before the agent's first turn, so that `work_done` counts none of that. `begun`: the
        agent may have begun."""
        ...

    async def work_done(self) -> WorkDone: ...

    async def protect(self, patterns: Sequence[str], *, begun: bool) -> ProtectedFiles:
        """The files that match now, or did before the agent's first turn, if an earlier run has listed them. A pattern counts from
        the top; `**` matches across directories; `!` in front exempts. `begun`: the agent may have begun."""
        ...

    async def diff(self, most_bytes: int) -> tuple[str, bool]:
        """What has been changed since the start, new files included, ignored ones not; and whether that is all of it. One that
        is too long is cut, behind a list of its files."""
        ...


Program = Callable[[Path, WorkspaceView | None], Awaitable[Outcome]]
"""Runs an executor's program in a directory (absolute), to its end. The second argument is None in a plain directory."""


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
