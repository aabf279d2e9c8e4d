"""Retention of worktrees: those that are not needed any more are removed, by age and by a cap on disk space.

    kept ──unused for keep_days (unchanged, or keep: never: for a day)──▶ examined ──nothing would be lost──▶ removed
      └── its executor's take more than max_gb: the longest unused first ──▶ examined ──┴── else kept, with a warning

Never removed: a worktree in use; one whose task has run and is not over, or whose conversation has a task that is not; and one
with uncommitted changes or with commits that no other branch has. The
configuration can allow the last (`sweep_unmerged`, or `keep: never`); even then, a branch with such commits stays.
A worktree that cannot be examined, because its repository is gone or broken, stays too.

One worker per host does this at a time, among those that share the state directory.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from turbo.domain.task import NO_TASK
from turbo.host.file_lock import try_lock
from turbo.host.removal import TRASH_PREFIX, remove_tree
from turbo.process.directory_lock import DirectoryLock, lock_path
from turbo.process.environment import ChildEnvironment
from turbo.process.journal import Journal
from turbo.runtime.service import LoopService
from turbo.workspaces import files
from turbo.workspaces.changes import at_risk
from turbo.workspaces.disk_usage import size_elsewhere, size_of
from turbo.workspaces.git import Git, GitFailed, Stopped
from turbo.workspaces.lifecycle import remove_worktree
from turbo.workspaces.record import Policy, Record, Stage, WrongRecord, records, set_aside
from turbo.workspaces.repository import Repository, open_repository

log = logging.getLogger(__name__)

EVERY_SECONDS = 3600.0
DAY = 86_400.0
_DIRECTORY_LOCK = re.compile(r"[0-9a-f]{32}\.lock")  # turbo.process.directory_lock.lock_path

RETRY_SECONDS = DAY
"""How long an unchanged worktree waits for a retry of its task; a later retry makes a new one."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worktree on disk, and the policy that applies to it now. `size` in bytes."""

    home: Path
    record: Record
    policy: Policy
    size: int


class WorkspaceRetention(LoopService):
    name = "workspace sweep"

    def __init__(
        self,
        root: Path | Callable[[], Path],
        locks: Path,
        journal: Journal,
        policies: Mapping[str, Policy],
        *,
        git_configs: Mapping[str, Path] | None = None,
        unfinished: Callable[[], Awaitable[Iterable[str] | None]] | None = None,
        every: float = EVERY_SECONDS,
    ) -> None:
        """`root`: the workspaces of this worker's database, which it may learn later.

        `policies` by executor, as configured now. A worktree of another executor keeps the policy of its last use.
        `git_configs` by executor: `workspace.git_config`. They name programs, so no record has them.
        `unfinished`: the tasks whose worktrees are needed, asked where one is old enough to go. None: nobody can say now, and
        nothing is removed in this pass."""
        super().__init__()
        self._root = root if callable(root) else lambda: root
        self._locks = locks
        self._journal = journal
        self._policies = policies
        self._git_configs = git_configs or {}
        self._unfinished = unfinished
        self._every = every
        self._warned: set[str] = set()

    async def run(self) -> None:
        self.started.set()
        while True:
            # Not at once: a worker that is restarted every minute must not do this every minute.
            await asyncio.sleep(self._every * random.uniform(0.5, 1.0))
            try:
                await self.once()
            except OSError as error:
                log.warning("cannot sweep the workspaces: %s", error)

    async def once(self, now: float | None = None) -> list[str]:
        """One pass, unless another worker of the host is busy with one. `now`: Unix seconds.

        Returns the tasks whose worktrees were removed.
        """
        now = time.time() if now is None else now
        gone = []
        with try_lock(self._locks / "workspace-sweep.lock") as mine:
            if not mine:
                return []
            await self._finish_removals()
            candidates = await asyncio.to_thread(self._candidates)
            excess_by_executor = self._excess(candidates)
            needed: frozenset[str] | None = None
            for candidate in sorted(candidates, key=lambda c: c.record.used_at):
                over = excess_by_executor.get(candidate.record.executor, 0) > 0
                if not over and now - candidate.record.used_at < min(candidate.policy.keep_days * DAY, RETRY_SECONDS):
                    continue
                if needed is None:
                    answer = await self._unfinished() if self._unfinished is not None else ()
                    if answer is None:
                        break
                    needed = frozenset(answer)
                if candidate.record.task_id in needed:
                    continue
                if await self._remove_if_allowed(candidate, now, over=over):
                    gone.append(candidate.record.task_id)
                    if candidate.record.executor in excess_by_executor:
                        excess_by_executor[candidate.record.executor] -= candidate.size
            for executor, excess in excess_by_executor.items():
                if excess > 0:
                    self._warn_once(
                        f"the workspaces of executor {executor} take {excess / 1e9:.1f} GB more than max_gb, but the rest "
                        "are in use or hold work that would be lost; `turbo doctor` lists them"
                    )
            self._prune_locks(now)
        return gone

    async def _finish_removals(self) -> None:
        """What a worker that died was removing, and what could not be removed."""
        for path in sorted(self._root().glob(f"{TRASH_PREFIX}*")):
            if remains := await asyncio.to_thread(remove_tree, path):
                self._warn_once(f"cannot remove the rest of a workspace: {remains}")

    def _prune_locks(self, now: float) -> None:
        """Remove locks of directories unused for a day; most belonged to worktrees that were removed after their run."""
        for path in self._locks.glob("*.lock"):
            with suppress(OSError):
                if _DIRECTORY_LOCK.fullmatch(path.name) and now - path.stat().st_mtime > DAY:
                    lock = DirectoryLock(path)
                    if lock.take():
                        lock.remove()
                        lock.release()

    def _candidates(self) -> list[Candidate]:
        return [
            Candidate(
                home,
                record,
                self._policies.get(record.executor, record.policy),
                size_of(home) + size_elsewhere(record),
            )
            for home, record in records(self._root(), self._set_aside)
        ]

    def _set_aside(self, home: Path, error: WrongRecord) -> None:
        with suppress(OSError):
            set_aside(home)
        self._warn_once(f"{error}; set aside")

    def _excess(self, candidates: list[Candidate]) -> dict[str, int]:
        """Bytes over the cap, by executor."""
        excess: dict[str, int] = {}
        for candidate in candidates:
            if candidate.policy.max_bytes is not None:
                excess[candidate.record.executor] = (
                    excess.get(candidate.record.executor, -candidate.policy.max_bytes) + candidate.size
                )
        return excess

    # ── one worktree ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _remove_if_allowed(self, candidate: Candidate, now: float, *, over: bool) -> bool:
        """Remove it, if that is allowed. No run can start in it meanwhile."""
        lock = DirectoryLock(lock_path(self._locks, candidate.home.resolve()))
        try:
            if not lock.take():  # in use, or its program may still run
                return False
        except OSError:
            return False
        try:
            repository = await self._repository(candidate.record)
            async with repository.alone():
                if not await self._may_remove(repository, candidate, now, over=over):
                    return False
                tree = await files.exists(repository.git.run_as, Path(candidate.record.tree))
                await remove_worktree(repository, candidate.record, candidate.home)
            if tree:
                log.info("swept the workspace %s", candidate.record.tree, extra={"task": candidate.record.task_id})
            return tree
        except (GitFailed, Stopped, OSError) as error:
            self._warn_once(f"cannot sweep {candidate.home}: {error}")
            return False
        except Exception as error:  # whatever an agent has made of it costs no other, and not the worker
            self._warn_once(f"cannot sweep {candidate.home}: {type(error).__name__}: {error}")
            return False
        finally:
            lock.release()

    async def _repository(self, record: Record) -> Repository:
        environment = ChildEnvironment({}).for_task(NO_TASK)
        user = files.owner_of(record.user)
        environment = environment if user is None else user.own(environment)
        config = self._git_configs.get(record.executor)
        git = Git(Path(record.repo), environment, self._journal, config=config, run_as=user)
        return await open_repository(git, self._locks)

    async def _may_remove(self, repository: Repository, candidate: Candidate, now: float, *, over: bool) -> bool:
        record, policy = candidate.record, candidate.policy
        unused = now - record.used_at
        old = unused >= policy.keep_days * DAY
        if policy.keep == "never" and (over or old or unused >= RETRY_SECONDS):
            return True
        tree = Path(record.tree)
        git = None
        # No program ever ran in an unfinished one.
        if record.stage is not Stage.CREATING and await files.exists(repository.git.run_as, tree):
            git = repository.in_tree(record)
        risk = await at_risk(git, repository, record)
        if not old and not over and (policy.keep == "always" or await self._changed(repository, git, record, risk)):
            return False
        if risk is not None and not policy.sweep_unmerged:
            if git is not None:
                self._warn_once(f"{tree} is kept, unused for {unused / DAY:.0f} days: {risk}")
            return False
        return True

    async def _changed(self, repository: Repository, git: Git | None, record: Record, risk: str | None) -> bool:
        """Whether the task has left changes, merged or not."""
        if risk is not None:
            return True
        tips = {await repository.branch_tip(record.branch), record.start}
        if git is not None:
            tips.add((await git("rev-parse", "--verify", "--end-of-options", "HEAD")).strip())
        return len(tips) > 1

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s", text)
