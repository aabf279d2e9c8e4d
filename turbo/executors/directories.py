"""Where a program runs: the configured directory, one that the row names, or the task's own.

A row may name a directory only inside the roots that the operator has allowed. Otherwise everyone who can INSERT
could choose where commands run. Symbolic links are resolved before the comparison.

A program of another user (`run_as`) cannot enter the state directory. Its task's own directory is in that user's home; the
one in the state directory only names it (turbo.executors.foreign), so that retention finds it.

`Directories` is the plain work area (turbo.workspaces.area). turbo.workspaces gives each task a git worktree instead.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from turbo.domain.limits import PATH_BYTES, bytes_of, too_long
from turbo.domain.outcome import FailureKind, Outcome, Probe
from turbo.domain.run import Run
from turbo.executors import foreign
from turbo.process.identity import Identity
from turbo.workspaces.area import Exclusive, Program, no_lock


@dataclass(frozen=True, slots=True)
class Directories:
    """The configured directory, the row's within `allowed_roots`, or the task's own."""

    fixed: Path | None = None
    allowed_roots: tuple[Path, ...] = ()
    exclusive: Exclusive = no_lock
    run_as: Identity | None = None

    @classmethod
    def at(
        cls, cwd: Path | None, allowed_roots: Iterable[Path], exclusive: Exclusive, run_as: Identity | None
    ) -> "Directories":
        """`cwd`: the fixed directory as configured, where `~` is the worker's home."""
        fixed = cwd.expanduser().absolute() if cwd is not None else None
        return cls(fixed, tuple(allowed_roots), exclusive, run_as)

    def missing(self, environment: Mapping[str, str]) -> str | None:
        """See `WorkArea`. The program check finds a missing fixed directory (turbo.process.launch.obstacle)."""
        del environment
        return None

    def dependencies(self, environment: Callable[[], Mapping[str, str]]) -> Mapping[str, Probe]:
        """See `WorkArea`."""
        del environment
        return {}

    async def run(self, run: Run, environment: Mapping[str, str], program: Program) -> Outcome:
        """See `WorkArea`."""
        del environment
        directory = working_directory(run, self.fixed, self.allowed_roots)
        if isinstance(directory, Outcome):
            return directory
        if self.run_as is not None and directory == run.work_dir.absolute():
            directory = await asyncio.to_thread(foreign.use, self.run_as, directory)
        async with self.exclusive(directory, run.task):
            return await program(directory, None)


def working_directory(run: Run, configured: Path | None, allowed_roots: Iterable[Path]) -> Path | Outcome:
    """The absolute directory, or the outcome of a task that may not run in the directory it names.

    `input_data.cwd` comes first (of a follow-up without one, that of the first task of its conversation), then `configured`,
    then `run.work_dir`, which is created. Raises OSError if that fails.
    """
    if (named := run.task.directory_data.get("cwd")) is not None:
        return _row_directory(named, allowed_roots)
    if configured is not None:
        return configured.expanduser().absolute()
    run.work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.utime(run.work_dir)  # now in use (turbo.maintenance.file_retention)
    return run.work_dir.absolute()


@asynccontextmanager
async def scratch_directory(user: Identity | None) -> AsyncIterator[tuple[Path, Path]]:
    """An empty directory for a short call of a program, and a file for its log. Both are gone afterwards. Raises OSError."""
    with tempfile.TemporaryDirectory(prefix="turbo-call-") as own:
        if user is None:
            yield Path(own), Path(own) / "log"
            return
        directory = await asyncio.to_thread(user.scratch)
        try:
            yield directory, Path(own) / "log"
        finally:
            await asyncio.to_thread(user.remove, directory)


def _row_directory(requested: object, allowed_roots: Iterable[Path]) -> Path | Outcome:
    if not isinstance(requested, str) or not requested.startswith("/") or "\0" in requested:
        return _refused(f"input_data.cwd must be an absolute path, not {_shown(requested)}")
    if (problem := too_long("input_data.cwd", bytes_of(requested), PATH_BYTES, "bytes")) is not None:
        return _refused(problem)
    roots = [root.expanduser().resolve() for root in allowed_roots]
    try:
        directory = Path(requested).resolve()
        inside = any(directory.is_relative_to(root) for root in roots)
        if inside and not directory.is_dir():
            # Another host may have it, so this counts as an attempt, but does not fail the task for good.
            return Outcome.failed(
                f"input_data.cwd {requested} is not a directory on this host", FailureKind.BAD_REQUEST
            )
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or a name that is too long
        return _refused(f"input_data.cwd {requested:.200} cannot be used: {error}")
    if not inside:
        allowed = ", ".join(map(str, roots)) or "none configured"
        return _refused(f"input_data.cwd {requested} is outside allowed_roots ({allowed})")
    return directory


def _shown(requested: object) -> str:
    """A value of a row in a message, without writing all of it down first."""
    return repr(requested[:200]) if isinstance(requested, str) else f"{type(requested).__name__}"


def _refused(why: str) -> Outcome:
    return Outcome.failed(why, FailureKind.REFUSED, final=True)
