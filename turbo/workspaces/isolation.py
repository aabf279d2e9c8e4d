"""A repository as turbo's own git sees it: its objects and refs, without its configuration and its hooks.

    <place>/config                 written by turbo: what is data of the repository's configuration (git_config)
           /user                   the same of the user's; git reads it instead of ~/.gitconfig
           /ssh                    runs ssh without ~/.ssh/config, where the operator names no other command
           /HEAD, objects, refs, packed-refs, logs, worktrees, shallow, …      links to the repository's own
           /info/exclude, attributes                                          links; an attribute only names a filter

git takes this directory for the common one (GIT_COMMON_DIR), and the repository's for the rest: HEAD and the index. So
no program that an agent has written into `.git/config`, ~/.gitconfig or ~/.ssh/config is known to it. /etc/gitconfig and
/etc/ssh/ssh_config are read: only an administrator can write them.
"""

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from turbo.host.regular_file import read_regular
from turbo.workspaces.git_config import Settings, data_of, filters_of, missing_filters
from turbo.workspaces.ssh_program import ssh_program

_SHARED = ("HEAD", "objects", "refs", "packed-refs", "worktrees", "shallow", "reftable")
_IF_PRESENT = ("logs", "lfs")
"""git makes these directories where they are missing: then in the place, not in the repository."""
_INFO = ("exclude", "attributes")
_POINTER_BYTES = 65536

SSH_CONFIG = Path("/etc/ssh/ssh_config")


class NotARepository(OSError):
    """The directory is not the top of a repository."""


@dataclass(frozen=True, slots=True)
class GitDirs:
    """`own`: with HEAD and the index. `common`: with objects, refs and configuration. Absolute, links resolved."""

    own: Path
    common: Path


@dataclass(frozen=True, slots=True)
class Isolated:
    """`common`: the directory that git takes for the common one. `user`: the configuration instead of the user's. `ssh`: the program
    that git runs as ssh, unless the environment or a configuration that is used names a command. `ssh_config`: whether the user has
    a ~/.ssh/config, which that one does not read."""

    common: Path
    user: Path
    ssh: Path
    settings: Settings
    ssh_config: bool = False


def git_dirs(top: Path) -> GitDirs:
    """Of the repository whose top directory is `top`, bare ones and worktrees included. Raises NotARepository, OSError."""
    try:
        pointed = top / ".git"
        if pointed.is_dir():
            own = pointed
        elif os.path.lexists(pointed):
            own = top / _pointer(pointed, "gitdir: ")
        else:
            own = top
        common = own / _pointer(own / "commondir", "") if (own / "commondir").exists() else own
        dirs = GitDirs(own.resolve(), common.resolve())
    except (ValueError, RuntimeError) as error:  # a circle of links is a RuntimeError
        raise NotARepository(str(error)) from error
    if not (
        os.path.lexists(dirs.own / "HEAD") and (dirs.common / "objects").is_dir() and (dirs.common / "refs").is_dir()
    ):
        raise NotARepository(f"{top} is not a git repository")
    return dirs


def _pointer(file: Path, prefix: str) -> str:
    text = os.fsdecode(read_regular(file, _POINTER_BYTES))
    if not text.startswith(prefix) or "\0" in text:
        raise ValueError(f"{file}: not a pointer of git's")
    return text.removeprefix(prefix).rstrip("\n")


def isolate(place: Path, dirs: GitDirs, home: str | None, config: Path | None = None) -> Isolated:
    """Make `place` such a directory, or bring it up to date. Any number of processes may do so at once.

    `home`: the user's home directory. `config`: the operator's file, which git reads instead of the user's. A filter that
    neither has, and that the repository requires, fails: a checkout without it would be wrong. Raises OSError.
    """
    (place / "info").mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in _SHARED:
        _link(place / name, dirs.common / name)
    for name in _IF_PRESENT:
        if (dirs.common / name).exists() and ((place / name).is_symlink() or not (place / name).exists()):
            _link(place / name, dirs.common / name)
    for name in _INFO:
        _link(place / "info" / name, dirs.common / "info" / name)
    user = _with_absolute_lists(data_of(*_users_files(home)), home)
    repository = _with_absolute_lists(data_of(dirs.common / "config"), home)
    absent = missing_filters((*user.entries, *repository.entries), filters_of(config))
    _replace(place / "config", Settings((*repository.entries, *absent)).written())
    _replace(place / "user", user.written())
    _replace(place / "ssh", ssh_program(SSH_CONFIG), mode=0o700)
    settings = Settings(
        (*user.entries, *repository.entries), tuple(dict.fromkeys((*user.left_out, *repository.left_out)))
    )
    ssh_config = home is not None and os.path.lexists(f"{home}/.ssh/config")
    return Isolated(place, place / "user", place / "ssh", settings, ssh_config)


def _with_absolute_lists(settings: Settings, home: str | None) -> Settings:
    """The settings with `core.excludesFile` as an absolute path, so that turbo can look at the file before git does. One that
    counts from git's own directories, or from wherever git is started, is left out."""

    def absolute(path: str) -> str | None:
        named = f"{home}/{path[2:]}" if home and path.startswith("~/") else os.path.expanduser(path)  # noqa: PTH111
        return named if named.startswith("/") else None

    kept = []
    for entry in settings.entries:
        section, subsection, key, value = entry
        if (section, key) == ("core", "excludesfile") and value:
            if (named := absolute(value)) is None:
                continue
            entry = (section, subsection, key, named)
        kept.append(entry)
    return replace(settings, entries=tuple(kept))


def _users_files(home: str | None) -> tuple[Path, ...]:
    if not home:
        return ()
    return Path(home) / ".config" / "git" / "config", Path(home) / ".gitconfig"


def _link(link: Path, target: Path) -> None:
    with suppress(OSError):
        if link.readlink() == target:
            return
    draft = link.with_name(f".{link.name}.{secrets.token_hex(4)}")
    draft.symlink_to(target)
    draft.replace(link)


def _replace(path: Path, content: str, mode: int = 0o600) -> None:
    data = content.encode("utf-8", "surrogateescape")
    with suppress(OSError):
        if read_regular(path, len(data)) == data:
            return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
        file.write(data)
    draft.replace(path)
