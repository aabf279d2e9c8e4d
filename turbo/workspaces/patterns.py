"""Patterns of files in a workspace, as `check.protect` has them, in the words of git.

tests/**          all below tests             *.lock       in the top directory only
**/conftest.py    in every directory          tests/       the same as tests/**
!tests/data/**    not these                   (gitglossary(7), pathspec, with the magic `glob`)
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from turbo.domain.task import NO_TASK
from turbo.process.environment import ChildEnvironment
from turbo.workspaces.diff import stream_git
from turbo.workspaces.git import OUTPUT_BYTES, SECONDS, git_environment
from turbo.workspaces.isolation import git_dirs, isolate
from turbo.workspaces.odd_files import Places

MATCHES_PATTERNS = {"GIT_LITERAL_PATHSPECS": "0"}
"""A variable for git, which otherwise takes a pattern for a name."""


def pathspec(pattern: str) -> str:
    """A pattern as an argument of git, behind `--`; not one that exempts."""
    parts = "/".join(part for part in pattern.split("/") if part not in ("", "."))
    return f":(top,glob){parts}{'/**' if pattern.endswith('/') else ''}"


def unmatched(repo: Path, ref: str, patterns: Sequence[str], config: Path | None = None) -> list[str]:
    """The patterns that match no file of `ref`, exemptions left out: probably a slip. Runs nothing that the repository names.
    `config`: the executor's `workspace.git_config`. Blocks. Raises GitFailed, SpawnFailed, OSError."""
    environment, dirs = ChildEnvironment({}).for_task(NO_TASK), git_dirs(repo)
    with tempfile.TemporaryDirectory(prefix="turbo-patterns-") as place:
        isolated = isolate(Path(place) / "git", dirs, environment.get("HOME"), config)
        variables = git_environment(environment, repo, dirs.own, isolated, config) | MATCHES_PATTERNS
        variables["GIT_INDEX_FILE"] = str(Path(place) / "index")
        places = Places(repo, environment, dirs.own, isolated)

        def listed(*words: str) -> bytes:
            return b"".join(stream_git(words, variables, places, seconds=SECONDS, limit=OUTPUT_BYTES))

        listed("read-tree", f"{ref}^{{tree}}")  # no ref begins with `-` (turbo.workspaces.names)
        plain = [pattern for pattern in patterns if not pattern.startswith("!")]
        return [pattern for pattern in plain if not listed("ls-files", "-z", "--", pathspec(pattern))]
