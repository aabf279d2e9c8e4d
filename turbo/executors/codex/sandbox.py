"""What the commands of a Codex agent may write: its directory, and of a git repository what a commit needs.

    workspace-write     its directory, TMPDIR, and the repository's .git without its hooks and its configuration
    read-only           nothing
    danger-full-access  whatever the user may: where a container is the wall

By itself the sandbox keeps .git read-only, so no agent could commit; in a worktree both the worktree's own git directory and the
repository's have to be named (measured with 0.169.0 on Linux). What git runs outside the sandbox next, its hooks and what its
configuration names, stays read-only: the agent could have written it.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from turbo.host.regular_file import read_regular

PROFILE = "turbo"
_LINE_BYTES = 8192

LEFT_BEHIND = (".git", ".codex", ".agents", ".aws")
"""Empty directories that the sandbox makes in each place it may write to. They stay if the CLI ends while a command runs."""


@dataclass(frozen=True, slots=True)
class GitDirectories:
    """`own`: the git directory of what is checked out. `common`: the repository's; the same but in a worktree."""

    own: Path
    common: Path


def git_directories(directory: Path) -> GitDirectories | None:
    """Those of a checkout whose top is `directory`; None: it is none, or one that does not hold together.

    What is in the directory may have been written by an agent, so a worktree counts only if its repository names it in turn: to
    forge that, one has to be able to write there already."""
    marker = directory / ".git"
    try:
        if marker.is_symlink():
            return None
        if marker.is_dir():
            return GitDirectories(marker, marker) if (marker / "HEAD").is_file() else None
        own = _path_in(marker, "gitdir: ")
        if own is None or own.is_symlink() or own.parent.name != "worktrees":
            return None
        common = own.parent.parent
        if _path_in(own / "gitdir") != marker.absolute() or not (common / "HEAD").is_file():
            return None
        return GitDirectories(own, common)
    except OSError:
        return None


def _path_in(file: Path, prefix: str = "") -> Path | None:
    """The absolute path on the only line of a file."""
    text = os.fsdecode(read_regular(file, _LINE_BYTES)).rstrip("\n")
    path = text.removeprefix(prefix)
    return Path(path) if text.startswith(prefix) and path.startswith("/") and os.path.normpath(path) == path else None


def flags(mode: str, directory: Path, *, network: bool) -> tuple[str, ...]:
    """The flags of a run. They are given again when a thread is resumed: the CLI does not keep them."""
    if mode == "danger-full-access":
        return ("-c", 'sandbox_mode="danger-full-access"')
    git = git_directories(directory) if mode == "workspace-write" else None
    # /tmp is everybody's, and the sandbox would leave empty directories there.
    rules = {":slash_tmp": "read", **(dict(_git_rules(git)) if git is not None else {})}
    if mode == "read-only":
        rules = {}
    filesystem = ",".join(f"{_quoted(path)}={_quoted(access)}" for path, access in rules.items())
    extends = ":workspace" if mode == "workspace-write" else ":read-only"
    online = "true" if network else "false"
    profile = f"{{extends={_quoted(extends)},filesystem={{{filesystem}}},network={{enabled={online}}}}}"
    return ("-c", f"default_permissions={_quoted(PROFILE)}", "-c", f"permissions.{PROFILE}={profile}")


def _git_rules(git: GitDirectories) -> Iterator[tuple[str, str]]:
    yield str(git.common), "write"
    for name in ("hooks", "config"):
        yield str(git.common / name), "read"
    if git.own != git.common:
        yield str(git.own), "write"
        for name in ("gitdir", "commondir", "config.worktree"):
            if (git.own / name).exists():
                yield str(git.own / name), "read"


def _quoted(text: str) -> str:
    """A basic string of TOML: those of JSON without \\u escapes of surrogates are, too."""
    return json.dumps(text, ensure_ascii=False)


def existing(directory: Path) -> frozenset[str]:
    """Which of LEFT_BEHIND a directory has before a run."""
    return frozenset(name for name in LEFT_BEHIND if os.path.lexists(directory / name))


def clear(directory: Path, before: frozenset[str]) -> None:
    """Remove what the sandbox has left: empty directories that were not there before the run."""
    for name in LEFT_BEHIND:
        if name not in before:
            try:
                os.rmdir(directory / name)  # noqa: PTH106 - never what is not empty, never a link
            except OSError:
                continue
