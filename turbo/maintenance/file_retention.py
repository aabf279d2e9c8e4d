"""Tidying: attempt logs and per-task working directories of this host go when they are old, or too large together.

    a pass an hour ──old enough, or over the limit──▶ is the task over? ──▶ renamed ──nobody came meanwhile──▶ removed
                                                        └── no: kept              └── touched: renamed back

Of age is what no run has touched for `files_days`: every run touches its directory when it begins and writes its log until
it ends. With `files_gb` the longest untouched go first until the rest fits, nothing younger than an hour. Never removed:
what belongs to a task that has been run and is not over (it may be resumed), whatever its age. One worker of a host
tidies at a time. Worktrees (turbo.workspace) have a sweep of their own.
"""

import asyncio
import logging
import os
import random
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from turbo import db
from turbo.db.claim_store import Queue
from turbo.host.state_dir import StateDir, safe_name
from turbo.runtime.service import Service
from turbo.worker.slots import Slots

log = logging.getLogger(__name__)

PASS_SECONDS = 3600.0
YOUNG_SECONDS = 3600.0
TRASH_PREFIX = ".going-"
"""What is being removed is renamed first, to what no task can be called; the next pass ends what this one began."""


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """What one task left: its directories under logs/ and tasks/, when a run last touched one, and their bytes."""

    name: str
    touched: float
    size: int


class FileRetention(Service):
    name = "tidy"

    def __init__(
        self,
        queue: Queue,
        state: StateDir,
        slots: Slots,
        *,
        days: float | None,
        gigabytes: float | None,
        every: float = PASS_SECONDS,
    ) -> None:
        """`days`, `gigabytes`: None for no such bound. `every`: seconds between passes."""
        super().__init__()
        self._queue = queue
        self._state = state
        self._slots = slots
        self._seconds = None if days is None else days * 86_400
        self._bytes = None if gigabytes is None else int(gigabytes * 1e9)
        self._every = every

    async def run(self) -> None:
        while self._seconds is not None or self._bytes is not None:
            try:
                await self.once()
            except (psycopg.Error, OSError) as error:
                log.debug("not tidied: %s", db.reason(error))
            await asyncio.sleep(self._every * random.uniform(0.9, 1.1))

    async def once(self) -> list[str]:
        """One pass. Returns the names of what was removed; raises psycopg.Error when nobody knows what is over."""
        with self._state.tidying() as mine:
            if not mine:
                return []
            await asyncio.to_thread(self._finish)
            wanted = await asyncio.to_thread(self._wanted)
            if not wanted:
                return []
            kept = {safe_name(task_id) for task_id in await self._queue.unfinished()}
            kept |= {safe_name(held.task_id) for held in self._slots.known()}
            going = [left for left in wanted if left.name not in kept]
            removed = await asyncio.to_thread(self._remove, going)
            if removed:
                log.info("removed the logs and working directories of %d tasks, untouched for long", len(removed))
            return removed

    def _wanted(self) -> list[TaskFiles]:
        """What age or size would remove, the longest untouched first."""
        everything = sorted(
            files_by_task(self._state.root, sizes=self._bytes is not None), key=lambda left: left.touched
        )
        now = time.time()
        total = sum(left.size for left in everything)
        wanted = []
        for left in everything:
            old = self._seconds is not None and left.touched < now - self._seconds
            over = self._bytes is not None and total > self._bytes and left.touched < now - YOUNG_SECONDS
            if old or over:
                wanted.append(left)
                total -= left.size
        return wanted

    def _remove(self, going: Iterable[TaskFiles]) -> list[str]:
        return [left.name for left in going if all(_take(place / left.name, left) for place in self._places)]

    def _finish(self) -> None:
        for place in self._places:
            for path in place.glob(f"{TRASH_PREFIX}*"):
                remove_tree(path)

    @property
    def _places(self) -> tuple[Path, Path]:
        return self._state.root / "tasks", self._state.root / "logs"


def files_by_task(root: Path, *, sizes: bool) -> list[TaskFiles]:
    """What is under logs/ and tasks/ of a state directory, by task."""
    found: dict[str, TaskFiles] = {}
    for place in (root / "tasks", root / "logs"):
        for path in place.iterdir():
            if path.name.startswith(TRASH_PREFIX) or path.is_symlink() or not path.is_dir():
                continue
            touched = _touched(path, deep=place.name == "logs")
            before = found.get(path.name, TaskFiles(path.name, 0.0, 0))
            size = before.size + (_size(path) if sizes else 0)
            found[path.name] = TaskFiles(path.name, max(before.touched, touched), size)
    return list(found.values())


def _take(path: Path, seen: TaskFiles) -> bool:
    """Remove one directory, unless a run has touched it since it was seen."""
    going = path.with_name(f"{TRASH_PREFIX}{path.name}")
    try:
        path.rename(going)
    except FileNotFoundError:
        return True
    except OSError as error:
        log.warning("cannot remove %s: %s", path, error.strerror)
        return False
    if _touched(going, deep=path.parent.name == "logs") > seen.touched:
        with suppress(OSError):  # a run that began anew has made one of its own
            going.rename(path)
        return False
    remove_tree(going)
    return not going.exists()


def _touched(path: Path, *, deep: bool) -> float:
    """When a run last touched it: the directory, and of logs each file."""
    newest = path.stat().st_mtime
    if deep:
        for one in path.iterdir():
            with suppress(FileNotFoundError):
                newest = max(newest, one.lstat().st_mtime)
    return newest


def _size(path: Path) -> int:
    """Bytes on disk, links not followed."""
    total = 0
    for directory, _, files in os.walk(path):
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512  # noqa: PTH118 - many files
    return total


def remove_tree(path: Path) -> None:
    """Remove a directory, also one whose owner has taken the right to write from himself. What cannot go stays."""

    def again(call: Callable[..., object], name: str, _error: object) -> None:
        with suppress(OSError):
            parent = Path(name).parent
            parent.chmod(stat.S_IRWXU)
            if call in (os.rmdir, os.unlink):
                call(name)
            else:  # a directory that could not be listed
                Path(name).chmod(stat.S_IRWXU)
                shutil.rmtree(name, ignore_errors=True)

    shutil.rmtree(path, onerror=again)
