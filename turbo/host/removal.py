"""Removes a directory with everything in it, whatever its programs made of it.

    <name> ──renamed──▶ .going-… ──emptied from below──▶ gone
                            └── what cannot go stays there; the next pass tries again

Read-only directories are made writable first. Links are removed and never followed. Another file system that is mounted
inside is neither entered nor touched. The tree may be deeper than a path can be long. A half-removed directory never has
its old name, so whoever needs that name finds it free.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

TRASH_PREFIX = ".going-"
"""What is being removed is renamed first, to a name that no task has."""

_REASONS = {
    errno.EPERM: "not permitted (immutable? lsattr shows it)",
    errno.EBUSY: "a mount point",
    errno.EACCES: "permission denied (another user's directory?)",
}


@dataclass(frozen=True, slots=True)
class Remains:
    """What could not be removed: the first such path with its reason, and how many there are. False if all is gone."""

    first: str = ""
    count: int = 0

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        return f"{self.first}{f', and {self.count - 1} more' if self.count > 1 else ''}"


def set_aside(path: Path, trash: Path) -> Path | None:
    """Move `path` into the directory `trash`, under a name that begins with TRASH_PREFIX. Returns the new path.

    None if there is no such file. Raises OSError: a mount point, for example.
    """
    going = trash / f"{TRASH_PREFIX}{secrets.token_hex(8)}"
    with contextlib.suppress(OSError), _of_parent(path) as parent:
        os.close(_open(path.name, parent.number))  # its own `..` changes, so it must be writable
    try:
        path.rename(going)
    except FileNotFoundError:
        return None
    return going


def remove_tree(path: Path) -> Remains:
    """Remove a directory, or a link or file. What cannot go stays, and does not stop the rest. Never raises OSError.

    Only the process's own user may change modes, so another user's directories stay unless they are empty.
    """
    removal = _Removal(str(path))
    try:
        with _of_parent(path) as parent:
            removal.run(path.name, parent.number)
    except FileNotFoundError:  # another process removes it, too
        pass
    except OSError as error:
        removal.keep("", error)
    return Remains(removal.first, removal.count)


@dataclass(slots=True)
class _Directory:
    """An open directory. Closed as a context manager."""

    number: int

    def __enter__(self) -> "_Directory":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.number)


@dataclass(slots=True)
class _Level:
    """A directory on the way down: its name, its identity, and what is still to be done in it."""

    name: str
    identity: tuple[int, int]
    entries: list[tuple[str, bool]]
    """Names, and whether each is a directory."""
    kept: bool = False


@dataclass(slots=True)
class _Removal:
    """One walk through a tree. It holds one descriptor at a time, and goes back up through `..`."""

    root: str
    first: str = ""
    count: int = 0
    levels: list[_Level] = field(default_factory=list)

    def run(self, name: str, parent: int) -> None:
        try:
            state = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(state.st_mode):
            os.unlink(name, dir_fd=parent)
            return
        mounts = _mounts_below(self.root)
        if "" in mounts:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        here = os.dup(parent)
        try:
            here = self._down(here, name, state.st_dev)
            while self.levels:
                level = self.levels[-1]
                if not level.entries:
                    here = self._up(here)
                    continue
                entry, is_directory = level.entries.pop()
                try:
                    if is_directory and mounts and self._path(entry) in mounts:
                        raise OSError(errno.EBUSY, "")
                    if is_directory:
                        here = self._down(here, entry, state.st_dev)
                    else:
                        os.unlink(entry, dir_fd=here)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self.keep(self._path(entry), error)
        finally:
            os.close(here)

    def keep(self, below: str, error: OSError) -> None:
        """Something stays, and so do the directories that it is in."""
        for level in self.levels:
            level.kept = True
        self.count += 1
        if self.count == 1:
            reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
            self.first = f"{self.root}{f'/{below}' if below else ''}: {reason}"

    def _down(self, here: int, name: str, device: int) -> int:
        """Enter a directory; an empty one that cannot be entered is removed."""
        try:
            inside = _open(name, here)
        except PermissionError:
            os.rmdir(name, dir_fd=here)
            return here
        state = os.fstat(inside)
        try:
            if state.st_dev != device:
                raise OSError(errno.EBUSY, "")
            with os.scandir(inside) as found:
                entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
        except OSError:
            os.close(inside)
            raise
        self.levels.append(_Level(name, (state.st_dev, state.st_ino), entries))
        os.close(here)
        return inside

    def _up(self, here: int) -> int:
        """Leave the directory, which is empty now unless something was kept, and remove it."""
        level = self.levels.pop()
        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
        if self.levels:
            state = os.fstat(above)
            if (state.st_dev, state.st_ino) != self.levels[-1].identity:
                os.close(above)
                raise OSError(errno.ESTALE, "its directories were moved meanwhile")
        os.close(here)
        if not level.kept:
            try:
                os.rmdir(level.name, dir_fd=above)
            except FileNotFoundError:
                pass
            except OSError as error:
                self.keep(self._path(level.name), error)
        return above

    def _path(self, name: str) -> str:
        return "/".join([*(level.name for level in self.levels[1:]), name])


def _of_parent(path: Path) -> _Directory:
    parent = path.parent
    with contextlib.suppress(OSError):
        _make_writable(parent)
    return _Directory(os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _make_writable(directory: Path) -> None:
    state = directory.stat()
    if state.st_uid == os.geteuid() and state.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        directory.chmod(stat.S_IMODE(state.st_mode) | stat.S_IRWXU)


def _open(name: str, number: int) -> int:
    """Open a directory, made writable, without following a link. `number`: its parent. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        inside = os.open(name, flags, dir_fd=number)
    except PermissionError:
        _chmod(name, number)
        inside = os.open(name, flags, dir_fd=number)
    state = os.fstat(inside)
    if state.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        with contextlib.suppress(PermissionError):  # another user's: it may be empty
            os.fchmod(inside, stat.S_IMODE(state.st_mode) | stat.S_IRWXU)
    return inside


def _chmod(name: str, number: int) -> None:
    """chmod 700 of a directory that cannot be opened, and of no link's target."""
    if sys.platform != "linux":
        os.chmod(name, stat.S_IRWXU, dir_fd=number, follow_symlinks=False)
        return
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=number)
    try:
        os.chmod(f"/proc/self/fd/{handle}", stat.S_IRWXU)  # noqa: PTH101 - Linux has no lchmod
    finally:
        os.close(handle)


_OCTAL = re.compile(r"\\([0-7]{3})")


def _mounts_below(root: str) -> set[str]:
    """The mount points in `root`, relative to it; "" for `root` itself. A bind mount has the device of its surroundings."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not Linux: then the device tells them apart
        return set()
    real = os.path.realpath(root)
    points = (_OCTAL.sub(lambda found: chr(int(found[1], 8)), line.split(" ")[4]) for line in lines)
    return {point[len(real) :].lstrip("/") for point in points if point == real or point.startswith(f"{real}/")}
