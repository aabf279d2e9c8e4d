"""What the files of a worktree are, by a walk of its own: git compares them through attributes and settings that an agent can write.

    path ──▶ "file x 120 <sha256>" | "link <sha256 of its target>" | "large …" | "closed …" | "special …" | "repository"

Two files with the same words are the same. What is in a nested repository is listed too, only `.git` itself is not. No link is
followed. What cannot be read, or is larger than HASHED_BYTES, is told by its size, inode and times: nobody but root can set back
the time of its last change (ctime).
"""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from turbo.host.regular_file import open_regular
from turbo.process.identity import Identity
from turbo.workspaces.area import CannotExamine, TooManyFiles
from turbo.workspaces.globs import Globs

MOST_FILES = 20_000
MOST_BYTES = 4 * 1024 * 1024
"""Of all that is kept in mind: paths, and the words for each."""

HASHED_BYTES = 256 * 1024 * 1024
SECONDS = 60.0

_CHUNK = 1024 * 1024
_BATCH_CHARACTERS = 64 * 1024
_BATCH_BYTES = 1024**3
_LISTED_BYTES = 64 * 1024 * 1024

Contents = Mapping[str, str]
"""By the path from the top of the worktree. That of a nested repository, and of a closed directory, ends in a slash."""


def contents(top: Path, globs: Globs, stopped: Callable[[], bool], user: Identity | None = None) -> dict[str, str]:
    """The files that match. `stopped`: whether the run is to end. `user`: whose they are, if not this process's own.

    Blocks for at most about SECONDS. Raises CannotExamine, OSError."""
    listing = _Listing(top, globs, stopped)
    if user is None:
        listing.walk()
    else:
        listing.ask(user)
    return listing.found


class _Listing:
    def __init__(self, top: Path, globs: Globs, stopped: Callable[[], bool]) -> None:
        self._top = top
        self._globs = globs
        self._stopped = stopped
        self._until = time.monotonic() + SECONDS
        self._bytes = 0
        self.found: dict[str, str] = {}

    def _go_on(self) -> None:
        if self._stopped():
            raise CannotExamine("it is to end")
        if time.monotonic() > self._until:
            raise CannotExamine(f"its protected files cannot be read in {SECONDS:g} s: narrow check.protect")

    def _add(self, name: str, words: str) -> None:
        self.found[name] = words
        self._bytes += len(name) + len(words)
        if len(self.found) > MOST_FILES or self._bytes > MOST_BYTES:
            raise TooManyFiles(
                f"check.protect matches more than {MOST_FILES:,} files, or more than {MOST_BYTES // 1024**2} MiB of names "
                "and hashes: narrow the patterns, or exempt directories with !"
            )

    def _is_listed(self, repository: str) -> bool:
        """Of a nested repository: it matches, or files directly in it do, among which is its `.git`."""
        return self._globs.match(repository) or self._globs.match(f"{repository}/.git")

    # ── with this process's rights ──────────────────────────────────────────────────────────────────────────────────

    def walk(self) -> None:
        waiting = [""]
        while waiting:
            self._go_on()
            name = waiting.pop()
            try:
                with os.scandir(self._top / name) as entries:
                    waiting.extend(self._directory(name, entries))
            except OSError as error:
                if not name:
                    raise
                self._add(f"{name}/", self._closed(name, error))

    def _directory(self, name: str, entries: Iterator["os.DirEntry[str]"]) -> list[str]:
        """The directories in it that may hold a file that matches."""
        below = []
        for entry in entries:
            path = f"{name}/{entry.name}" if name else entry.name
            if entry.name == ".git":
                if name and self._is_listed(name):
                    self._add(f"{name}/", "repository")
            elif entry.is_dir(follow_symlinks=False):
                if self._globs.may_hold(path):
                    below.append(path)
            elif self._globs.match(path):
                self._go_on()
                self._add(path, self._words(path, entry))
        return below

    def _words(self, path: str, entry: "os.DirEntry[str]") -> str:
        try:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                return f"link {hashlib.sha256(os.fsencode(os.readlink(entry.path))).hexdigest()}"  # noqa: PTH115 - bytes
            if not stat.S_ISREG(status.st_mode):
                return f"special {stat.S_IFMT(status.st_mode):o} {status.st_rdev}"
            if status.st_size > HASHED_BYTES:
                return f"large {_by_status(status)}"
            return self._read(Path(entry.path))
        except OSError as error:
            return self._closed(path, error)

    def _read(self, file: Path) -> str:
        digest, size = hashlib.sha256(), 0
        with os.fdopen(open_regular(file), "rb", buffering=0) as opened:
            mode = os.fstat(opened.fileno()).st_mode
            while size <= HASHED_BYTES and (chunk := opened.read(_CHUNK)):
                digest.update(chunk)
                size += len(chunk)
                self._go_on()
        return _file(bool(mode & stat.S_IXUSR), size, digest.hexdigest())

    def _closed(self, name: str, error: OSError) -> str:
        try:
            return f"closed {_by_status(os.lstat(self._top / name))}"
        except OSError:
            return f"closed {error.errno}"

    # ── with another user's ─────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, user: Identity) -> None:
        """find and sha256sum of that user. A busybox without `sha256sum -z` reads nothing: then all goes by size and times."""
        fields = user.run(_FIND, self._top, str(_LISTED_BYTES)).split("\0")
        if len(fields) < 5 or fields[1] != "." or fields[-3:] != ["end", "", ""]:
            raise CannotExamine(f"find, as user {user.user}, does not list all of {self._top}")
        unread: list[tuple[str, bool, int, str]] = []
        for words, path in zip(fields[2:-3:2], fields[3:-3:2], strict=True):
            self._go_on()
            kind, mode, size, status, target = words.split(" ", 4)
            name = path.removeprefix("./")
            if kind == "git":
                name = name.rpartition("/")[0]
                if name and self._is_listed(name):
                    self._add(f"{name}/", "repository")
            elif kind == "closed":
                if self._globs.may_hold(name):
                    self._add(f"{name}/", f"closed {status}")
            elif not self._globs.match(name):
                continue
            elif kind == "l":
                self._add(name, f"link {hashlib.sha256(os.fsencode(target)).hexdigest()}")
            elif kind != "f":
                self._add(name, f"special {kind}")
            elif int(size) > HASHED_BYTES:
                self._add(name, f"large {status}")
            else:
                self._add(name, f"closed {status}")
                unread.append((name, bool(int(mode, 8) & stat.S_IXUSR), int(size), path))
        self._hash(user, unread)

    def _hash(self, user: Identity, unread: list[tuple[str, bool, int, str]]) -> None:
        while unread:
            self._go_on()
            batch: dict[str, tuple[str, bool, int]] = {}
            characters = total = 0
            while unread and characters < _BATCH_CHARACTERS and total < _BATCH_BYTES:
                name, executable, size, path = unread.pop()
                batch[path] = (name, executable, size)
                characters, total = characters + len(path), total + size
            result = user.script('cd -- "$1" && shift && exec sha256sum -z -- "$@"', self._top, *batch)
            for line in result.stdout.decode("utf-8", "surrogateescape").split("\0"):
                digest, _, path = line.partition("  ")
                if path in batch:
                    name, executable, size = batch[path]
                    self.found[name] = _file(executable, size, digest)


_FIND = """
cd -- "$1" || exit 1
{
find . -path . -printf 'top\\0.\\0' -o -name .git -printf 'git 0 0 - \\0%p\\0' -prune -o \\
    -type d \\( ! -readable -o ! -executable \\) -printf 'closed 0 0 %i:%T@:%C@ \\0%p\\0' -prune -o \\
    ! -type d -printf '%y %m %s %s:%i:%T@:%C@ %l\\0%p\\0'
[ $? -le 1 ] && printf 'end\\0\\0'
} | head -c "$2"
"""
"""Two fields an entry; cut off if there are too many of them."""


def _file(executable: bool, size: int, digest: str) -> str:
    return f"file {'x' if executable else '-'} {size} {digest}"


def _by_status(status: os.stat_result) -> str:
    return f"{status.st_size}:{status.st_ino}:{status.st_mtime_ns}:{status.st_ctime_ns}"
