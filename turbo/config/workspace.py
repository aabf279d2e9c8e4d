"""The `workspace` section of an executor in worker.yaml."""

import os
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from turbo.config.loader import Real, Section
from turbo.workspaces.names import branch_problem, ref_problem

_REMOTE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class Workspace(Section):
    """A git worktree and a branch for each task (docs/workspaces.md)."""

    kind: Literal["worktree"] = Field(description="A git worktree, with a branch for each task.")
    repo: str = Field(description="Top directory of a repository on this host.")
    ref: str = Field(default="HEAD", description="Where a task starts: HEAD, origin/main, a tag, a commit.")
    from_: Literal["ref", "needs"] = Field(
        default="ref",
        alias="from",
        description="needs: a task begins at the commit that the task it needed has left, where that left one.",
    )
    refs: list[str] = Field(default=[], description="Patterns that a task's input_data.ref may match: release/*.")
    branch: str = Field(default="turbo/{task_id}", description="The task's branch.")
    fetch: bool = Field(default=False, description="Fetch the remote's branch first.")
    push: str | None = Field(
        default=None,
        description="Push the task's branch to this remote after each run, so that another host can go on: origin.",
    )
    setup: list[str] = Field(default=[], description="Command to run in a new worktree, before the program: [npm, ci].")
    setup_seconds: Real = Field(
        default=600, gt=0, le=1_000_000_000, description="Time limit of setup; timeout_seconds limits the program."
    )
    git_config: str | None = Field(
        default=None,
        description="Configuration file for turbo's own git: credential helpers, proxies, filters. It uses no program "
        "that ~/.gitconfig or the repository's configuration names.",
    )
    keep: Literal["changed", "always", "never"] = Field(
        default="changed", description="Which worktrees to keep after a task succeeds."
    )
    keep_days: Real = Field(
        default=14, ge=1, le=36_500, description="Days without use until the sweep may delete a worktree."
    )
    max_gb: Annotated[Real, Field(gt=0, le=1_000_000)] | None = Field(
        default=None,
        description="Size limit of this executor's worktrees on this host; the longest unused are deleted first.",
    )
    sweep_unmerged: bool = Field(
        default=False, description="The sweep also deletes worktrees with uncommitted changes or unmerged commits."
    )

    @field_validator("repo", "git_config")
    @classmethod
    def _absolute(cls, repo: str | None) -> str | None:
        if repo is None:
            return None
        path = os.path.expanduser(repo)  # noqa: PTH111 - kept a string until it is used
        if not path.startswith("/") or "\0" in path:
            raise ValueError(f"{repo!r} must be an absolute path, or begin with ~/")
        return path

    @field_validator("ref")
    @classmethod
    def _ref(cls, ref: str) -> str:
        if (problem := ref_problem(ref)) is not None:
            raise ValueError(f"{ref!r} {problem}; write HEAD, origin/main, a branch, a tag or a commit")
        return ref

    @field_validator("push")
    @classmethod
    def _remote(cls, push: str | None) -> str | None:
        if push is not None and (not _REMOTE.fullmatch(push) or ref_problem(push) is not None):
            raise ValueError(f"{push!r:.100} is not the name of a remote: write origin, not its address")
        return push

    @field_validator("refs")
    @classmethod
    def _patterns(cls, refs: list[str]) -> list[str]:
        for pattern in refs:
            if not pattern or pattern.startswith("-") or any(c.isspace() for c in pattern):
                raise ValueError(f"{pattern!r} is not a ref pattern: write main, release/*, v[0-9]*")
        return refs

    @field_validator("branch")
    @classmethod
    def _template(cls, branch: str) -> str:
        if (problem := branch_problem(branch)) is not None:
            raise ValueError(f"{branch!r} {problem}")
        return branch

    @field_validator("setup")
    @classmethod
    def _argv(cls, setup: list[str]) -> list[str]:
        if any("\0" in part for part in setup) or setup[:1] == [""]:
            raise ValueError("is not a command: write the program and its arguments as a list, [npm, ci]")
        return setup

    def problem_of_fetch(self) -> str | None:
        """The problem with `fetch` and `ref` together, if any."""
        if self.fetch and "/" not in self.ref and not self.refs:
            return f"has nothing to fetch: ref {self.ref!r} is not a remote branch; write origin/main"
        return None
