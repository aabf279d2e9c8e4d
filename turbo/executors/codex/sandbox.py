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
from pathlib import Path

from turbo.process.git_directories import OBEYED, OBEYED_OF_WORKTREE, GitDirectories, git_directories

PROFILE = "turbo"

LEFT_BEHIND = (".git", ".codex", ".agents", ".aws")
"""Empty directories that the sandbox makes in each place it may write to. They stay if the CLI ends while a command runs."""


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
    for name in OBEYED:
        yield str(git.common / name), "read"
    if git.own != git.common:
        yield str(git.own), "write"
        for name in OBEYED_OF_WORKTREE:
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
