"""File retention: attempt logs and per-task working directories of this host are deleted by age and by total size.

    a pass an hour ──old enough, or over the limit──▶ is the task finished? ──▶ renamed ──no run used it meanwhile──▶ deleted
                                                        └── no: kept                └── used: renamed back

Old is what no run has used for `files_days`: every run touches its directory when it begins, and writes its log until it
ends. With `files_gb` the longest unused are deleted first until the rest fits, nothing younger than an hour. Files of a
task that has run and is not finished are never deleted (it may be resumed), nor the directory of a conversation that has a
task which is not finished. One worker of a host does this at a time.
Each database has files, and bounds, of its own. Worktrees have their own retention (turbo.workspaces.sweep). The directories
of another user's programs (`run_as`) go with the ones that name them, and are not counted in `files_gb`.
"""

import asyncio
import logging
import os
import random
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psycopg

from turbo import db
from turbo.db.worker_registry import WorkerRegistry
from turbo.domain.claim import ClaimRef
from turbo.executors import foreign
from turbo.host.removal import TRASH_PREFIX, remove_tree
from turbo.host.state_dir import StateDir, refuse_links, safe_name
from turbo.process.identity import FOREIGN
from turbo.runtime.service import LoopService
from turbo.workspaces.disk_usage import size_of

log = logging.getLogger(__name__)

PASS_SECONDS = 3600.0
YOUNG_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """The directories of one task under logs/ and tasks/: when a run last touched one (Unix seconds), and their bytes."""

    name: str
    touched: float
    size: int


class KnownClaims(Protocol):
    """The slots of this worker (turbo.worker.slots)."""

    def known(self) -> Iterable[ClaimRef]:
        """Claims whose runs go on here, or whose results are not recorded yet."""
        ...

    def directories(self) -> Iterable[str]:
        """The tasks whose directories those runs are in: the first of a conversation, for all of its tasks."""
        ...


class FileRetention(LoopService):
    name = "file retention"

    def __init__(
        self,
        registry: WorkerRegistry,
        state: StateDir,
        claims: KnownClaims,
        *,
        days: float | None,
        gigabytes: float | None,
        every: float = PASS_SECONDS,
    ) -> None:
        """`days`, `gigabytes`: None for no such bound. `every`: seconds between passes."""
        super().__init__()
        self._registry = registry
        self._state = state
        self._claims = claims
        self._seconds = None if days is None else days * 86_400
        self._bytes = None if gigabytes is None else int(gigabytes * 1e9)
        self._every = every
        self._warned: set[str] = set()

    async def run(self) -> None:
        self.started.set()
        while self._seconds is not None or self._bytes is not None:
            try:
                await self.once()
            except (psycopg.Error, TimeoutError) as error:
                log.debug("file retention: %s", db.reason(error))
            except OSError as error:
                self._warn_once(f"cannot look through the files of tasks: {error}")
            await asyncio.sleep(self._every * random.uniform(0.9, 1.1))

    async def once(self) -> list[str]:
        """One pass. Returns the names of what was removed; raises `db.DATABASE_ERRORS`, also if a link has taken the place of
        a directory: then nothing is removed."""
        refuse_links(self._state.root, self._state.root / "databases", self._state.files)
        with self._state.retention_lock() as mine:
            if not mine:
                return []
            await asyncio.to_thread(self._finish)
            candidates = await asyncio.to_thread(self._candidates)
            if not candidates:
                return []
            kept = {safe_name(task_id) for task_id in await self._registry.unfinished()}
            kept |= {safe_name(claim.task_id) for claim in self._claims.known()}
            kept |= {safe_name(task_id) for task_id in self._claims.directories()}
            removed = await asyncio.to_thread(self._remove, [files for files in candidates if files.name not in kept])
            if removed:
                log.info(
                    "deleted the logs and working directories of %d tasks that no run has used for long", len(removed)
                )
            return removed

    def _candidates(self) -> list[TaskFiles]:
        """What age or size would remove, the longest unused first."""
        everything = sorted(
            files_by_task(self._state.files, sizes=self._bytes is not None), key=lambda files: files.touched
        )
        now = time.time()
        total = sum(files.size for files in everything)
        candidates = []
        for files in everything:
            old = self._seconds is not None and files.touched < now - self._seconds
            over = self._bytes is not None and total > self._bytes and files.touched < now - YOUNG_SECONDS
            if old or over:
                candidates.append(files)
                total -= files.size
        return candidates

    def _remove(self, candidates: Iterable[TaskFiles]) -> list[str]:
        return [
            files.name
            for files in candidates
            if all(self._take(parent / files.name, files) for parent in self._parents)
        ]

    def _take(self, path: Path, seen: TaskFiles) -> bool:
        """Delete one directory, unless a run has touched it since it was listed. True: its name is free."""
        going = path.with_name(f"{TRASH_PREFIX}{path.name}")
        if os.path.lexists(going):  # the rest of an earlier one, which could not be deleted
            going = path.with_name(f"{TRASH_PREFIX}.{secrets.token_hex(4)}-{path.name}")
        try:
            path.rename(going)
            touched = _touched(going, deep=path.parent.name == "logs")
        except FileNotFoundError:
            return True
        except OSError as error:
            self._warn_once(f"cannot remove {path}: {error.strerror}")
            return False
        if touched > seen.touched:
            with suppress(OSError):  # a new run has made another directory already
                going.rename(path)
            return False
        self._remove_tree(going)
        return True

    def _remove_tree(self, path: Path) -> None:
        """Whatever a program has made of it costs no other directory, and not the worker: it is logged, and tried again."""
        try:
            known_as = foreign.name_before(path)
            # In use again, the name has another directory of that user's, which may be the same one.
            if path.parent.name == "tasks" and not os.path.lexists(known_as):
                foreign.remove(path, known_as)
            if remains := remove_tree(path):
                self._warn_once(f"cannot remove all of {path}: {remains}. Each pass tries again")
        except Exception as error:
            self._warn_once(f"cannot remove the directory that belongs to {path}: {error}. Each pass tries again")
            self._empty(path)

    def _empty(self, path: Path) -> None:
        """Remove what is in it, but for the file that names another user's directory."""
        with suppress(OSError):
            for inside in list(path.iterdir()):
                if inside.name != FOREIGN:
                    remove_tree(inside)

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s", text)

    def _finish(self) -> None:
        for parent in self._parents:
            for path in sorted(parent.glob(f"{TRASH_PREFIX}*")):
                self._remove_tree(path)

    @property
    def _parents(self) -> tuple[Path, Path]:
        return self._state.files / "tasks", self._state.files / "logs"


def files_by_task(root: Path, *, sizes: bool) -> list[TaskFiles]:
    """The files under logs/ and tasks/, by task. `root`: turbo.host.state_dir.files_of."""
    found: dict[str, TaskFiles] = {}
    for parent in (root / "tasks", root / "logs"):
        for path in parent.iterdir():
            if path.name.startswith(TRASH_PREFIX) or path.is_symlink() or not path.is_dir():
                continue
            try:
                touched = _touched(path, deep=parent.name == "logs")
            except OSError:  # it went meanwhile
                continue
            before = found.get(path.name, TaskFiles(path.name, 0.0, 0))
            size = before.size + (size_of(path) if sizes else 0)
            found[path.name] = TaskFiles(path.name, max(before.touched, touched), size)
    return list(found.values())


def _touched(path: Path, *, deep: bool) -> float:
    """When a run last touched it: the directory, and of logs each file."""
    newest = path.stat().st_mtime
    if deep:
        with suppress(OSError):  # a directory that cannot be read is as old as it looks
            for one in path.iterdir():
                with suppress(OSError):
                    newest = max(newest, one.lstat().st_mtime)
    return newest
