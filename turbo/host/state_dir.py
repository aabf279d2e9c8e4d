"""The state directory of a host: what its workers keep on disk, and who may touch the files of a dead worker.

    <state_dir>/workers/<worker id>/{lock, journal/, spool/}     one per worker process; its lock is held while it lives
    <state_dir>/logs/<task>/<attempt>-<token>.log                one per run, kept for a while (turbo.maintenance.file_retention)
    <state_dir>/tasks/<task>/                                    a task's own working directory, unless one is configured
    <state_dir>/workspaces/<repo>/<task>/                        a task's git worktree and its record (turbo.workspaces)
    <state_dir>/locks/<hash of a path>.lock                      one per directory of an `exclusive_cwd` executor, workspace, repository

A worker is dead if its lock can be taken: the kernel releases the lock however the process ended. The process that
takes it owns the dead worker's files, so two live workers never take over the same ones.

The directory must be on a local disk, because flock over NFS grants every request. Only its owner may read it:
results and logs contain what agents read.
"""

import hashlib
import logging
import os
import re
import stat
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from turbo.host.file_lock import FileLock, try_lock
from turbo.host.removal import remove_tree

log = logging.getLogger(__name__)

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class StateDirUnusable(Exception):
    """The state directory cannot be used. The message names the remedy."""


def safe_name(task_id: str) -> str:
    """A readable and collision-free file name for any task id: the id itself if that is safe, else cut and hashed.

    Ids with capitals are hashed too: two tasks must not share a directory on a file system that treats `A` and `a`
    alike.
    """
    if re.fullmatch(r"[a-z0-9_-][a-z0-9._-]{0,79}", task_id):
        return task_id
    digest = hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{_UNSAFE.sub('_', task_id)[:40].lstrip('.')}~{digest}"


def logs_of(root: Path, task_id: str) -> Path:
    """The directory with the logs of a task's runs on this host: `<attempt>-<token>.log`."""
    return root / "logs" / safe_name(task_id)


def locks_of(root: Path) -> Path:
    """The directory with the locks of directories and repositories."""
    return root / "locks"


def workspaces_of(root: Path) -> Path:
    """The directory with the git worktrees of this host's tasks."""
    return root / "workspaces"


class WorkerHome:
    """One worker's directory, with its lock held. Gives each run its working directory and log path."""

    def __init__(self, root: Path, worker_id: str, lock: FileLock) -> None:
        self._root = root
        self._lock = lock
        self.worker_id = worker_id
        self.path = root / "workers" / worker_id
        self.journal = self.path / "journal"
        self.spool = self.path / "spool"

    def work_dir(self, task_id: str) -> Path:
        return self._root / "tasks" / safe_name(task_id)

    def log_path(self, task_id: str, attempt: int, token: int) -> Path:
        return logs_of(self._root, task_id) / f"{attempt}-{token}.log"

    def remove(self) -> None:
        """Remove the directory, unless it still has results, and release the lock."""
        results = ("*.json", "done/*.json", "quarantine/*", "corrupt/*")
        if not any(any(self.spool.glob(kept)) for kept in results) and (remains := remove_tree(self.path)):
            log.warning("cannot remove all of a dead worker's directory: %s", remains)
        self.close()

    def close(self) -> None:
        self._lock.release()


class StateDir:
    def __init__(self, root: str | Path) -> None:
        """Creates `root` if it is missing (mode 0700). Raises StateDirUnusable."""
        self.root = Path(root).expanduser()
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            state = self.root.stat()
            for name in ("workers", "logs", "tasks", "locks", "workspaces"):
                (self.root / name).mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise StateDirUnusable(f"state_dir {self.root}: cannot be used: {error.strerror}") from error
        if state.st_uid != os.geteuid():
            raise StateDirUnusable(
                f"state_dir {self.root}: belongs to user {state.st_uid}: give this worker a different one"
            )
        if stat.S_IMODE(state.st_mode) & 0o077:
            raise StateDirUnusable(f"state_dir {self.root}: other users can read it: run chmod 700 {self.root}")

    @property
    def locks(self) -> Path:
        """The directory with the locks of directories (turbo.executors.exclusive_directories)."""
        return locks_of(self.root)

    @property
    def workspaces(self) -> Path:
        return workspaces_of(self.root)

    def retention_lock(self) -> AbstractContextManager[bool]:
        """True for one worker of the host at a time."""
        return try_lock(self.locks / "tidy")

    def open_worker(self, worker_id: str) -> WorkerHome:
        """This process's own directory. Its lock is held until `close`, or until the process ends."""
        home = self.root / "workers" / worker_id
        draft = home.with_name(f".{worker_id}")
        draft.mkdir(mode=0o700, exist_ok=True)
        lock = FileLock(draft / "lock")
        if not lock.take() or home.exists():
            raise StateDirUnusable(f"{home}: another process uses it, although the worker id is unique")
        draft.rename(home)  # so that another worker, looking for dead ones, never sees it unlocked
        return WorkerHome(self.root, worker_id, lock)

    def dead_workers(self) -> list[WorkerHome]:
        """The directories of workers whose process has died, with their locks taken: the caller owns them now."""
        dead = []
        for home in sorted((self.root / "workers").iterdir()):
            if not home.is_dir() or home.name.startswith("."):
                continue
            lock = FileLock(home / "lock")
            with suppress(OSError):  # another worker has taken it over and removed it
                if lock.take():
                    dead.append(WorkerHome(self.root, home.name, lock))
        return dead
