"""Finds, creates and removes a task's worktree. The caller holds its lock (turbo.executors.exclusive_directories).

    nothing ──branch made, worktree added──▶ creating ──files checked out──▶ made      (turbo.workspaces.record)
       ▲                                        │ failed, or found in this state: removed, as if it had never begun
       └────────────────────────────────────────┘
    made, or ready ──the worktree was removed by hand, its branch exists──▶ creating ──▶ made

No other process uses the worktree, so any git lock file in it was left by a killed program, and is removed.
"""

import asyncio
import logging
import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from turbo.domain.run import StopSignal
from turbo.host.removal import remove_tree, set_aside
from turbo.workspaces import files
from turbo.workspaces.git import GitFailed, Stopped
from turbo.workspaces.record import FILE, Record, Stage, WrongRecord, load
from turbo.workspaces.record import set_aside as put_aside
from turbo.workspaces.repository import CHECKOUT_SECONDS, Repository, branch_exists

log = logging.getLogger(__name__)


async def find_worktree(repository: Repository, home: Path) -> Record | None:
    """The worktree of an earlier run, with its files. None if nothing is left of it, not even the branch.

    Raises GitFailed, Stopped, OSError, as every function of this module.
    """
    record = _load(home)
    if record is not None:
        _require_same_user(repository, record, home)
    if record is not None and record.stage is Stage.CREATING:  # its worker died, or could not clean up
        async with repository.alone():
            await remove_worktree(repository, record, home)
        record = _load(home)  # still there if its branch has commits
    if record is None:
        return None
    tree, user = Path(record.tree), repository.git.run_as
    if await files.exists(user, tree):
        if not await files.exists(user, repository.git_dir_of(record), directory=True):
            raise GitFailed(
                f"{tree} has the files of an earlier run, but {repository.git.where} has no entry for it: save what you want to keep "
                f"of it, then remove {home}"
            )
        await _unlock(repository, record)
        return record
    async with repository.alone():
        await repository.remove(tree)
        if await repository.branch_tip(record.branch) is None:
            return None
        record = replace(record, stage=Stage.CREATING)
        record.save(home)
        record = await _add(repository, record, home)
    return await _fill(repository, record, home)


def _require_same_user(repository: Repository, record: Record, home: Path) -> None:
    """Another user could not see the files, and would take them for gone. Raises GitFailed."""
    user = repository.git.run_as
    if record.user == (user.user if user is not None else ""):
        return
    whose = f"user {record.user}" if record.user else "the worker's own user"
    raise GitFailed(
        f"the workspace {record.tree} belongs to {whose}, but run_as has been changed since: save what you want to keep of it, then "
        f"remove it with its branch {record.branch} and {home}, or set run_as back"
    )


def _load(home: Path) -> Record | None:
    """The record, unless turbo did not write it: then it is set aside, and the task begins anew."""
    try:
        return load(home)
    except WrongRecord as error:
        log.warning("%s; set aside", error)
        put_aside(home)
        return None


async def make_worktree(repository: Repository, new: Record, home: Path, *, fetch: bool, tip: str = "") -> Record:
    """Create a branch and a worktree as in `new`: at its base, if it has one, else at its ref. `tip`: the commit of the branch, if
    others have made some since its base. If that fails, nothing is left."""
    requested_at = time.time()
    async with repository.alone():
        if fetch and not new.base:
            await repository.fetch(new.ref, requested_at)
        record = replace(new, base=await repository.commit_of(new.base or new.ref))
        if await repository.branch_tip(record.branch) is not None:
            raise GitFailed(branch_exists(record.branch, repository.git.where))
        if not (home / FILE).exists():
            # The branch and the record go last, so this is the rest of a removal that could not be finished.
            await _remove_tree_of(repository, record, home)
        record.save(home)
        try:
            await repository.make_branch(record.branch, tip or record.base)
        except GitFailed:
            remove_tree(home)  # an existing branch of that name is not ours
            raise
        record = await _add(repository, record, home)
    return await _fill(repository, record, home)


async def remove_worktree(repository: Repository, record: Record, home: Path) -> None:
    """Remove the worktree. Within `alone`.

    The branch and the record go too, unless the branch has commits that no other branch has. Files that cannot be
    removed are logged, and left to the sweep under a name that is in nobody's way. Raises OSError if the worktree cannot
    even be moved: a mount point.
    """
    _require_same_user(repository, record, home)
    if repository.git.run_as is not None:
        await _remove_tree_of(repository, record, home)
        await repository.remove(Path(record.tree))
    else:
        aside = set_aside(Path(record.tree), _trash_of(home))
        await repository.remove(Path(record.tree))
        if aside is not None:
            await _remove(aside, record.tree)
    if await repository.delete_branch(record.branch, record.start):
        await _remove_files(home, home)


async def _remove_tree_of(repository: Repository, record: Record, home: Path) -> None:
    """The files of a worktree, and nothing of git's."""
    tree, user = Path(record.tree), repository.git.run_as
    if user is None:
        if os.path.lexists(tree):
            await _remove_files(tree, home)
        return
    try:
        await files.remove(user, tree.parent)  # which holds nothing but the worktree and its `objects`
    except OSError as error:
        log.warning("cannot remove all of %s: %s", tree, error, extra={"task": record.task_id})


async def _remove_files(path: Path, home: Path) -> None:
    aside = set_aside(path, _trash_of(home))
    if aside is not None:
        await _remove(aside, str(path))


async def _remove(aside: Path, known_as: str) -> None:
    remains = await asyncio.to_thread(remove_tree, aside)
    if remains:
        log.warning("%s is removed, but not all of its files: %s. The sweep tries again", known_as, remains)


def _trash_of(home: Path) -> Path:
    """Where the sweep looks for what is being removed: the directory of all workspaces of the host."""
    return home.parent.parent


async def _add(repository: Repository, record: Record, home: Path) -> Record:
    """Add the worktree on its branch, without files yet. Within `alone`."""
    try:
        return replace(record, git_dir=str(await repository.add(Path(record.tree), record.branch)))
    except (GitFailed, Stopped, OSError):
        await _undo(repository, record, home)
        raise


async def _fill(repository: Repository, record: Record, home: Path) -> Record:
    """Check out its files. Outside `alone`, because this may take long."""
    git = repository.in_tree(record)
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
    """Remove everything again. What cannot be removed now is left to the next run, or to retention."""
    with suppress(GitFailed, OSError):
        await remove_worktree(repository.with_stop(StopSignal()), record, home)


async def _unlock(repository: Repository, record: Record) -> None:
    left = [Path(record.git_dir) / "index.lock", Path(record.git_dir) / "HEAD.lock"]
    left.append(repository.common / "refs" / "heads" / f"{record.branch}.lock")
    for path in await files.unlink(repository.git.run_as, left):
        log.warning("removed %s, left by a killed program", path, extra={"task": record.task_id})
