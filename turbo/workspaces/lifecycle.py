"""A task's worktree found again, made, or taken down. The caller holds the lock of its home (turbo.executors.exclusive_directories).

    nothing ──branch made, worktree added──▶ creating ──files checked out──▶ made      (turbo.workspaces.record)
       ▲                                        │ failed, or found so: taken down, as if it had never begun
       └────────────────────────────────────────┘
    made, or ready ──somebody removed the worktree, its branch is there──▶ creating ──▶ made

Nobody else is in the worktree, so locks of git's that lie there were left by a killed program, and are removed.
"""

import asyncio
import logging
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from turbo.domain.run import StopSignal
from turbo.workspaces.git import GitFailed, Stopped
from turbo.workspaces.record import Record, Stage, load
from turbo.workspaces.repository import CHECKOUT_SECONDS, Repository, branch_exists

log = logging.getLogger(__name__)


async def find_worktree(repository: Repository, home: Path) -> Record | None:
    """The worktree of an earlier run, with its files; None when nothing is left of it, not even the branch.

    Raises GitFailed, Stopped, OSError, as all of this module.
    """
    record = load(home)
    if record is not None and record.stage is Stage.CREATING:  # its worker died, or could not tidy up
        async with repository.alone():
            await remove_worktree(repository, record, home)
        record = load(home)  # still there if its branch has commits
    if record is None:
        return None
    tree = Path(record.tree)
    if tree.exists():
        if not Path(record.git_dir).is_dir():
            raise GitFailed(
                f"{tree} holds an earlier run, but {repository.git.where} no longer knows it: save what you want to keep "
                f"of it, then remove {home}"
            )
        _unlock(repository, record)
        return record
    async with repository.alone():
        await repository.remove(tree)
        if await repository.branch_tip(record.branch) is None:
            return None
        record = replace(record, stage=Stage.CREATING)
        record.save(home)
        record = await _add(repository, record, home)
    return await _fill(repository, record, home)


async def make_worktree(repository: Repository, new: Record, home: Path, *, fetch: bool) -> Record:
    """A branch and a worktree as `new` says, whose base is not known yet. When it fails, nothing of it is left."""
    requested_at = time.time()
    async with repository.alone():
        if fetch and not repository.fetched_since(new.ref, requested_at):
            await repository.fetch(new.ref)
        record = replace(new, base=await repository.commit_of(new.ref))
        if await repository.branch_tip(record.branch) is not None:
            raise GitFailed(branch_exists(record.branch, repository.git.where))
        record.save(home)
        try:
            await repository.make_branch(record.branch, record.base)
        except GitFailed:
            shutil.rmtree(home, ignore_errors=True)  # that branch, if there is one, is not ours
            raise
        record = await _add(repository, record, home)
    return await _fill(repository, record, home)


async def remove_worktree(repository: Repository, record: Record, home: Path) -> None:
    """Remove the worktree, and branch and record too unless the branch has commits that no other has. Within `alone`."""
    await repository.remove(Path(record.tree))
    if await repository.delete_branch(record.branch, record.base):
        await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)


async def _add(repository: Repository, record: Record, home: Path) -> Record:
    """The worktree on its branch, still empty. Within `alone`."""
    try:
        return replace(record, git_dir=str(await repository.add(Path(record.tree), record.branch)))
    except (GitFailed, Stopped, OSError):
        await _undo(repository, record, home)
        raise


async def _fill(repository: Repository, record: Record, home: Path) -> Record:
    """Its files. Outside of `alone`: this is what takes long."""
    git = replace(repository.git, where=Path(record.tree), git_dir=Path(record.git_dir))
    try:
        await git("reset", "--hard", "--quiet", "--no-recurse-submodules", seconds=CHECKOUT_SECONDS)
        record = replace(record, stage=Stage.MADE)
        record.save(home)
    except (GitFailed, Stopped, OSError):
        unstopped = repository.with_stop(StopSignal())
        async with unstopped.alone():
            await _undo(unstopped, record, home)
        raise
    return record


async def _undo(repository: Repository, record: Record, home: Path) -> None:
    """As if it had never begun. What cannot be removed now is by the next run, or the sweep."""
    with suppress(GitFailed, OSError):
        await remove_worktree(repository.with_stop(StopSignal()), record, home)


def _unlock(repository: Repository, record: Record) -> None:
    left = [Path(record.git_dir) / "index.lock", Path(record.git_dir) / "HEAD.lock"]
    for path in (*left, repository.common / "refs" / "heads" / f"{record.branch}.lock"):
        with suppress(FileNotFoundError):
            path.unlink()
            log.warning("removed %s, which a killed program had left", path, extra={"task": record.task_id})
