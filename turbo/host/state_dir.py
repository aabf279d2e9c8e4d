"""The state directory of a host: what its workers keep on disk, and who may touch the files of a dead worker.

    <state_dir>/workers/<worker id>/{lock, database, journal/, spool/}   one per worker process; its lock is held while it lives
    <state_dir>/logs/<task>/<attempt>-<token>.log                one per run, kept for a while (turbo.maintenance.file_retention)
    <state_dir>/tasks/<task>/                                    a task's own working directory, unless one is configured
    <state_dir>/workspaces/<repo>/<task>/                        a task's git worktree and its record (turbo.workspaces)
                                                                 both: of the first task of a conversation, for all of its tasks
    <state_dir>/locks/<hash of a path>.lock                      one per directory of an `exclusive_cwd` executor, workspace, repository
    <state_dir>/database                                         the identity of the database that logs/, tasks/ and
                                                                 workspaces/ belong to: the first one that came here
    <state_dir>/databases/<identity>/{logs, tasks, workspaces}   the same of every other database

All but the locks belongs to one database (turbo.db.identity): what a worker finished for one never reaches another. Locks
are about directories of the host, so all databases share them. `database` is empty in a worker's directory until the worker
knows its database, and missing if a turbo from before identities made it.

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
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from turbo.domain.claim import ClaimRef
from turbo.host.atomic_file import write_atomically
from turbo.host.file_lock import FileLock, try_lock
from turbo.host.regular_file import NotRegular, read_regular
from turbo.host.removal import remove_tree

log = logging.getLogger(__name__)

OWNER = "database"
"""The name of the files that say whose something is."""

IDENTITY = re.compile(r"[A-Za-z0-9-]{1,64}")
"""It becomes a file name."""

OF_A_DATABASE = ("logs", "tasks", "workspaces")
DIRECTORIES = ("workers", "locks", *OF_A_DATABASE)

LOGS_LOOKED_AT = 200
"""How many logs of a turbo from before identities are shown to a database that may own them."""

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


def logs_of(files: Path, task_id: str) -> Path:
    """The directory with the logs of a task's runs on this host: `<attempt>-<token>.log`. `files`: see `files_of`."""
    return files / "logs" / safe_name(task_id)


def owner_of(root: Path) -> str | None:
    """The database that has the files at the top of a state directory; None if it is not known yet."""
    return read_identity(root / OWNER)


def files_of(root: Path, database: str | None) -> Path:
    """Where a state directory has the logs, working directories and worktrees of a database. None: one without identity."""
    if database is None or not IDENTITY.fullmatch(database) or owner_of(root) == database:
        return root
    own = root / "databases" / database
    return root if owner_of(root) is None and not own.is_dir() else own


def all_files(root: Path) -> list[Path]:
    """`files_of` every database that has used a state directory."""
    return [root, *sorted(path for path in (root / "databases").glob("*") if path.is_dir() and not path.is_symlink())]


def refuse_links(root: Path, *directories: Path) -> None:
    """Refuse a link where turbo has a directory: it would make and delete files wherever the link leads. `root` itself may be
    one. `directories`: those whose content is looked at, besides `root`. Raises NotRegular."""
    own = [directory for directory in directories if directory != root]
    for path in [*own, *(directory / name for directory in (root, *own) for name in (*DIRECTORIES, "databases"))]:
        if path.is_symlink():
            raise NotRegular(f"{path} is a symbolic link, which turbo does not follow: put a directory in its place")


def replaceable_by(root: Path) -> str | None:
    """Who else can put another directory in the place of `root`, because of a directory above it; None if nobody can.

    A worker of root's with the HOME of the user who called sudo has such a state directory."""
    for above in (path := root.expanduser().resolve()).parents:
        try:
            state = above.stat()
        except OSError:
            continue
        if state.st_uid not in (0, os.geteuid()):
            return f"{above} belongs to user {state.st_uid}, who can put another directory in the place of {path}"
        if state.st_mode & stat.S_IWOTH and not state.st_mode & stat.S_ISVTX:
            return f"every user can write to {above}, and put another directory in the place of {path}"
    return None


def read_identity(path: Path) -> str | None:
    """What a file `database` says: an identity, '' if it is not known yet. None without a regular file that can be read."""
    try:
        return read_regular(path, 4096).decode("ascii")[:100].strip()
    except (OSError, ValueError):
        return None


def _changed_at(path: Path) -> float:
    """0 for what has disappeared."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def locks_of(root: Path) -> Path:
    """The directory with the locks of directories and repositories."""
    return root / "locks"


def workspaces_of(root: Path) -> Path:
    """The directory with the git worktrees of this host's tasks."""
    return root / "workspaces"


def may_live(worker_id: str) -> bool:
    """Whether a process with the pid in a worker's id runs. Trying its lock could make a starting worker find it taken."""
    pid = re.search(r"-(\d{1,9})-[0-9a-f]{6}$", worker_id)
    if pid is None:
        return False
    try:
        os.kill(int(pid[1]), 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


class WorkerHome:
    """One worker's directory, with its lock held. Gives each run its working directory and log path."""

    def __init__(self, state: "StateDir", worker_id: str, lock: FileLock) -> None:
        self._state = state
        self._lock = lock
        self.worker_id = worker_id
        self.path = state.root / "workers" / worker_id
        self.journal = self.path / "journal"
        self.spool = self.path / "spool"

    def work_dir(self, directory_id: str) -> Path:
        """See Task.directory_id: the tasks of a conversation share one."""
        return self._state.files / "tasks" / safe_name(directory_id)

    def logs(self, task_id: str) -> Path:
        """See `logs_of`."""
        return logs_of(self._state.files, task_id)

    def log_path(self, task_id: str, attempt: int, token: int) -> Path:
        return logs_of(self._state.files, task_id) / f"{attempt}-{token}.log"

    def belongs_to(self, database: str) -> None:
        """Note whose results it keeps, before there are any. Raises OSError."""
        write_atomically(self.path / OWNER, database, durable=True)

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
        self.files = self.root  # of this worker's database, once it is known
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            state = self.root.stat()
            refuse_links(self.root)
            for name in DIRECTORIES:
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
        return workspaces_of(self.files)

    def has_files(self, directory_id: str) -> bool:
        """Whether this host has a working directory or a worktree of that name (Task.directory_id)."""
        name = safe_name(directory_id)
        if (self.files / "tasks" / name).exists():
            return True
        try:
            return any((home / name).exists() for home in self.workspaces.iterdir())
        except OSError:
            return False

    def retention_lock(self) -> AbstractContextManager[bool]:
        """True for one worker of the host and of the database at a time."""
        return try_lock(self.locks / ("tidy" if self.files == self.root else f"tidy-{self.files.name}"))

    def use(self, database: str, *, claim: bool) -> None:
        """From now on `files` is the database's. `claim`: take the top of the directory, if no other has it. Raises OSError."""
        if claim and owner_of(self.root) is None:
            draft = self.root / f".{OWNER}-{os.getpid()}"
            write_atomically(draft, database, durable=True)
            with suppress(FileExistsError):  # another database was faster
                os.link(draft, self.root / OWNER)
            draft.unlink(missing_ok=True)
        self.files = self.root if owner_of(self.root) == database else self.root / "databases" / database
        refuse_links(self.root, self.root / "databases", self.files)
        for name in OF_A_DATABASE:
            (self.files / name).mkdir(exist_ok=True, mode=0o700, parents=True)

    def unowned_logs(self) -> list[ClaimRef]:
        """The latest runs that have logs at the top of the directory: evidence of whose they are. Only ids that are file names
        as they are."""
        paths = [path for path in self.root.glob("logs/*/*.log") if "~" not in path.parent.name]
        latest = sorted(paths, key=_changed_at, reverse=True)[:LOGS_LOOKED_AT]
        found = [(path.parent.name, path.stem.rpartition("-")[2]) for path in latest]
        return [ClaimRef(task_id, int(token)) for task_id, token in found if token.isdecimal() and len(token) < 19]

    def workers(self) -> dict[str, str | None]:
        """The ids of the workers that have a directory, dead or alive, and the database of each (see `read_identity`)."""
        return {home.name: read_identity(home / OWNER) for home in self._homes()}

    def _homes(self) -> list[Path]:
        return [home for home in sorted((self.root / "workers").iterdir()) if _is_home(home)]

    def open_worker(self, worker_id: str) -> WorkerHome:
        """This process's own directory. Its lock is held until `close`, or until the process ends."""
        home = self.root / "workers" / worker_id
        draft = home.with_name(f".{worker_id}")
        draft.mkdir(mode=0o700, exist_ok=True)
        write_atomically(draft / OWNER, "")
        lock = FileLock(draft / "lock")
        if not lock.take() or home.exists():
            raise StateDirUnusable(f"{home}: another process uses it, although the worker id is unique")
        draft.rename(home)  # so that another worker, looking for dead ones, never sees it unlocked
        return WorkerHome(self, worker_id, lock)

    def dead_workers(
        self, among: Iterable[str] | None = None, odd: Callable[[Path, OSError], object] | None = None
    ) -> list[WorkerHome]:
        """The directories of workers whose process has died, with their locks taken: the caller owns them now. `among`: the
        ids of those to look at, so that no lock of another database's worker is ever in the way of its own successor. `odd`
        gets each directory whose lock is not one, and the reason: whether its worker is dead is not known.

        Each of them keeps a file open."""
        dead = []
        for home in self._homes() if among is None else filter(_is_home, map((self.root / "workers").joinpath, among)):
            lock = FileLock(home / "lock")
            try:
                if lock.take():
                    dead.append(WorkerHome(self, home.name, lock))
            except FileNotFoundError:  # another worker has taken it over and removed it
                continue
            except OSError as error:
                if odd is not None:
                    odd(home, error)
        return dead


def _is_home(path: Path) -> bool:
    """Whether it is the directory of a worker. No worker has an id that is not UTF-8, and none makes a link."""
    return not path.name.startswith(".") and _is_text(path.name) and path.is_dir() and not path.is_symlink()
