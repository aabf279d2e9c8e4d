"""The state directory of a host: what its workers leave on disk, and who may touch what a dead one left.

    <state_dir>/workers/<worker id>/{lock, journal/, spool/}     one per worker process, its lock held while it lives
    <state_dir>/logs/<task>/<attempt>-<token>.log                one per run, kept for a while (turbo.maintenance.file_retention)
    <state_dir>/tasks/<task>/                                    a task's own working directory, unless configured
    <state_dir>/workspaces/<repo>/<task>/                        a task's git worktree and its record (turbo.workspaces)
    <state_dir>/locks/<hash of a path>.lock                      one per directory of an `exclusive_cwd` executor, workspace, repository

A worker is dead when its lock can be taken: the kernel gives the lock back however the process ended. Whoever takes it
owns what is left, so two live workers never adopt the same one. The directory must be on a local disk (flock over NFS
says yes to everybody) and its owner's alone: results and logs hold what agents read.
"""

import hashlib
import os
import re
import shutil
import stat
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from turbo.host.file_lock import FileLock, try_lock

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class StateDirUnusable(Exception):
    """The state directory cannot be used; the message says what to do."""


def safe_name(task_id: str) -> str:
    """A readable, collision-free file name for any task id: itself where that is safe, else cut and hashed.

    Capitals are hashed too: where a file system takes `A` and `a` for one name, two tasks must not share a directory.
    """
    if re.fullmatch(r"[a-z0-9_-][a-z0-9._-]{0,79}", task_id):
        return task_id
    digest = hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{_UNSAFE.sub('_', task_id)[:40].lstrip('.')}~{digest}"


def logs_of(root: Path, task_id: str) -> Path:
    """Where the logs of a task's runs on this host are: `<attempt>-<token>.log`."""
    return root / "logs" / safe_name(task_id)


def locks_of(root: Path) -> Path:
    """Where the locks of directories and repositories are."""
    return root / "locks"


def workspaces_of(root: Path) -> Path:
    """Where the git worktrees of this host's tasks are."""
    return root / "workspaces"


class WorkerHome:
    """One worker's directory, its lock held. `places` for the runner: work_dir and log_path."""

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
        """The directory goes, unless results are still in it; so does the lock."""
        if not any(any(self.spool.glob(kept)) for kept in ("*.json", "done/*.json", "quarantine/*", "corrupt/*")):
            shutil.rmtree(self.path, ignore_errors=True)
        self.close()

    def close(self) -> None:
        self._lock.release()


class StateDir:
    def __init__(self, root: str | Path) -> None:
        """Makes `root` if it is not there (0700). Raises StateDirUnusable."""
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
                f"state_dir {self.root}: belongs to user {state.st_uid}; give this worker one of its own"
            )
        if stat.S_IMODE(state.st_mode) & 0o077:
            raise StateDirUnusable(f"state_dir {self.root}: other users can read it: run chmod 700 {self.root}")

    @property
    def locks(self) -> Path:
        """Where the locks of directories are (turbo.executors.exclusive_directories)."""
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
            raise StateDirUnusable(f"{home}: is somebody else's, though the id is this process's own")
        draft.rename(home)  # a sibling that looks for the dead never sees it without its lock held
        return WorkerHome(self.root, worker_id, lock)

    def dead_workers(self) -> list[WorkerHome]:
        """Directories of workers whose process is gone, their locks taken: the caller has adopted them."""
        dead = []
        for home in sorted((self.root / "workers").iterdir()):
            if not home.is_dir() or home.name.startswith("."):
                continue
            lock = FileLock(home / "lock")
            with suppress(OSError):  # its adopter removed it meanwhile
                if lock.take():
                    dead.append(WorkerHome(self.root, home.name, lock))
        return dead
