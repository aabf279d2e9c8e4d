"""Files of a repository that git would wait for, or read without end: a FIFO or a device in the place of a file, a huge list.

An agent may have made them. git opens `.gitignore` and its like without looking, and a FIFO holds it until it is ended. Where turbo
knows the place, it looks before git starts, which takes some microseconds. The others, in any directory, are looked for once git
has taken longer than usual.
"""

import os
import pwd
import re
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from turbo.host.regular_file import read_regular
from turbo.process.identity import Identity
from turbo.workspaces.entries import entries_below
from turbo.workspaces.isolation import Isolated
from turbo.workspaces.odd_files_of_user import first_odd

IN_A_TREE = (".gitignore", ".gitattributes", ".gitmodules")
"""What git reads in any directory of a worktree, or in the top one. It follows no link there."""

_IN_A_REPOSITORY = (
    "HEAD", "packed-refs", "shallow", "commondir", "gitdir", "config.worktree", "info/exclude", "info/attributes", "info/grafts",
    "info/sparse-checkout", "objects/info/alternates", "logs/HEAD",
)  # fmt: skip
_OF_A_USER = ("ignore", "attributes")
"""In ~/.config/git."""

_KEYS = tuple(f"id_{kind}" for kind in ("rsa", "dsa", "ecdsa", "ecdsa_sk", "ed25519", "ed25519_sk", "xmss"))
OF_SSH = (
    "known_hosts",
    "known_hosts2",
    *(f"{key}{end}" for key in _KEYS for end in ("", ".pub", "-cert", "-cert.pub")),
)
"""What ssh reads in ~/.ssh without being told to."""

OF_SSH_AND_ITS_OWN = ("config", *OF_SSH)
"""The same for the git of another user, which obeys that user's configuration."""

LIST_BYTES = 16 * 1024**2
"""A longer list of patterns is read whole all the same."""

MOST_ALTERNATES = 100
ALTERNATES_BYTES = 64 * 1024

_ESCAPES = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}

LOOK_SECONDS = 20.0

USUAL_SECONDS = 2.0
"""git has ended by then, unless it works on much, or waits for a file that is none."""

REASON = "is a FIFO, a device, or larger than git should read: remove it"


class OddFile(OSError):
    """Such a file. The message names it."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where git reads such files. `environment`, `git_dir`, `isolated`: as for turbo.workspaces.git. `user`: whose they are, if not
    this process's own."""

    where: Path
    environment: Mapping[str, str]
    git_dir: Path | None = None
    isolated: Isolated | None = None
    user: Identity | None = None

    def refuse_known(self) -> None:
        """Refuse the first of the files in known places that is odd: reads a few directory entries. Raises OddFile.

        Another user's are not looked at: see refuse_known_of_user."""
        if self.user is None and (odd := self._known()) is not None:
            raise OddFile(f"{odd} {REASON}")

    def refuse_known_of_user(self) -> None:
        """The same for another user's: starts a process. Raises OddFile."""
        if self.user is None:
            return
        odd = first_odd(
            self.user, self.where, self.git_dir, self.environment, _IN_A_REPOSITORY, OF_SSH_AND_ITS_OWN, walk=False
        )
        if odd is not None:
            raise OddFile(f"{odd} {REASON}")

    def _known(self) -> Path | None:
        for path in (self.where / name for name in IN_A_TREE):
            if _is_odd(path, follow=False):
                return path
        places = [self.git_dir, self.isolated.common if self.isolated is not None else None]
        paths = [place / name for place in places if place is not None for name in _IN_A_REPOSITORY]
        paths += _users(self.isolated, self.environment)
        paths += _of_ssh()
        return next((path for path in paths if _is_odd(path, follow=True)), None)

    def anywhere(self) -> Path | None:
        """The first odd file that is found in the worktree, and in the repository. Blocks: reads all their directories, for some
        seconds at most. Never raises."""
        if self.user is not None:
            return first_odd(
                self.user, self.where, self.git_dir, self.environment, _IN_A_REPOSITORY, OF_SSH_AND_ITS_OWN, walk=True
            )
        until = time.monotonic() + LOOK_SECONDS
        for entry in entries_below(self.where, until):
            if entry.name in IN_A_TREE and _is_odd(Path(entry.path), follow=False):
                return Path(entry.path)
        places = [] if self.git_dir is None else [self.git_dir]
        if self.isolated is not None:  # links to the repository's own
            places += [path.resolve() for path in _entries(self.isolated.common)]
        for place in places:
            if _is_special(place):
                return place
            for entry in entries_below(place, until):
                if _is_special(Path(entry.path)):
                    return Path(entry.path)
        if self.isolated is not None:
            for store in alternates((self.isolated.common / "objects").resolve()):
                for path in _of_a_store(store):
                    if time.monotonic() > until:
                        return None
                    if _is_special(path):
                        return path
        return None


def alternates(objects: Path) -> list[Path]:
    """The directories of objects that the one of a repository names, and those that they name (gitrepository-layout(5))."""
    found, waiting = list[Path](), [objects]
    while waiting and len(found) < MOST_ALTERNATES:
        store = waiting.pop()
        try:
            named = read_regular(store / "info" / "alternates", ALTERNATES_BYTES)
        except OSError:
            continue
        for line in named.splitlines():
            if line and not line.startswith(b"#"):
                path = store / os.fsdecode(_unquoted(line))
                if path not in found:
                    found.append(path)
                    waiting.append(path)
    return found


def _unquoted(line: bytes) -> bytes:
    """git takes a name in quotes as C does."""
    if not (line.startswith(b'"') and line.endswith(b'"')):
        return line
    return re.sub(rb"\\([0-7]{3}|.)", _escaped, line[1:-1])


def _escaped(found: re.Match[bytes]) -> bytes:
    code = found[1]
    return bytes([int(code, 8) & 0xFF]) if len(code) > 1 else _ESCAPES.get(code, code)


def _of_a_store(store: Path) -> Iterator[Path]:
    """The files of a directory of objects, which may lie anywhere: only those that git reads."""
    for directory in (
        store / "info",
        store / "pack",
        store / "info" / "commit-graphs",
        *store.glob("[0-9a-f][0-9a-f]"),
    ):
        yield from _entries(directory)


def _users(isolated: Isolated | None, environment: Mapping[str, str]) -> list[Path]:
    home = environment.get("HOME", "")
    base = environment.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    paths = [Path(base) / "git" / name for name in _OF_A_USER] if base else []
    for section, _, key, value in isolated.settings.entries if isolated is not None else ():
        if (section, key) == ("core", "excludesfile") and value:
            paths.append(Path(value))  # absolute (turbo.workspaces.isolation)
    return [path for path in paths if path.is_absolute()]


def _of_ssh() -> list[Path]:
    """ssh goes by the user database, and not by HOME."""
    try:
        directory = Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".ssh"
    except KeyError:  # ssh refuses to run then
        return []
    return [directory / name for name in OF_SSH] if directory.is_dir() else []


def _is_odd(path: Path, *, follow: bool) -> bool:
    try:
        state = path.stat() if follow else path.lstat()
    except (OSError, ValueError):
        return False
    if path.name != "packed-refs" and stat.S_ISREG(state.st_mode) and state.st_size > LIST_BYTES:
        return True
    return _special(state)


def _is_special(path: Path) -> bool:
    try:
        return _special(path.lstat())
    except OSError:
        return False


def _special(state: os.stat_result) -> bool:
    """Whether reading it could wait, or never end. /dev/null is empty, and people link to it."""
    null = stat.S_ISCHR(state.st_mode) and state.st_rdev == os.makedev(1, 3)
    return (stat.S_ISFIFO(state.st_mode) or stat.S_ISCHR(state.st_mode) or stat.S_ISBLK(state.st_mode)) and not null


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []
