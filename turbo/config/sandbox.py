"""The `sandbox:` of executors: what their programs may touch, what cannot work about it, and which doors stay open.

sandbox: {network: true}                                     an agent's: its directory, its sessions, the network
sandbox: {network: true, write: [~/.cache/pip], deny_read: [/srv/customers]}
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from turbo.config.loader import Section, home
from turbo.domain.finding import Finding, fail
from turbo.domain.states import Level

MOST_PATHS = 100
CodexMode = Literal["workspace-write", "read-only", "danger-full-access"]

NEEDS_NETWORK = "an agent reaches its model over the network: write network: true. That opens all of it, this host's own services too"


def place(path: str) -> str:
    """An absolute path without `..`. Raises ValueError."""
    expanded = home(path) or ""
    if not expanded.startswith("/"):
        raise ValueError(f"{path!r} must be an absolute path, or begin with ~/")
    if "\0" in path or ".." in expanded.split("/"):
        raise ValueError(f"{path!r} must be a plain path, without ..")
    return os.path.normpath("/" + expanded.lstrip("/"))


def _part(path: str) -> str:
    if (found := place(path)) == "/":
        raise ValueError("/ is everything: name the directories that are meant, or leave sandbox out")
    return found


Places = Annotated[list[Annotated[str, AfterValidator(_part)]], Field(max_length=MOST_PATHS)]


class SandboxSection(Section):
    """What the programs may touch beside their directory. All else may be read, and neither written nor signalled."""

    required: bool = Field(
        default=True, description="true: no run without it. false: a host that cannot make a sandbox runs them without."
    )
    network: bool = Field(
        default=False,
        description="The whole network of the host, as an agent needs it. false: none, not even services of this host.",
    )
    write: Places = Field(default=[], description="Files and directories that may be written, such as a cache.")
    read: Places = Field(default=[], description="May be read, although they are hidden by default, such as ~/.npmrc.")
    deny_read: Places = Field(default=[], description="Hidden, beside logins, turbo's own files, and sockets.")


class CodexSandbox(SandboxSection):
    """Of a Codex executor: its text alone is the mode of the CLI's own sandbox; with more keys turbo makes one around the CLI."""

    mode: CodexMode = Field(
        default="workspace-write",
        description="The CLI's own: the agent's commands may write its directory and what git needs there, nothing, or anything.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> "CodexSandbox":
        if not self.model_fields_set:
            raise ValueError(f"is empty: {NEEDS_NETWORK}")
        return self

    @property
    def around(self) -> bool:
        """Whether turbo makes one around the CLI."""
        return bool(self.model_fields_set - {"mode"})


def as_codex_sandbox(value: Any) -> Any:
    """A mode as a section. Raises ValueError."""
    if not isinstance(value, str):
        return value
    if value not in get_args(CodexMode):
        *others, last = map(repr, get_args(CodexMode))
        raise ValueError(f"must be {', '.join(others)} or {last}, or a section (found {value!r})")
    return {"mode": value}


def sandbox_problems(at: str, section: SandboxSection, kept: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    """What cannot work. `kept`: the worker's own files and directories, each with the key that names it."""
    own = [(Path(path), key) for path, key in kept]
    for name in ("write", "read"):
        for path in map(Path, getattr(section, name)):
            for known, key in own:
                if path.is_relative_to(known):
                    yield fail(
                        f"{path} belongs to the worker ({key}), and stays hidden: remove it", subject=f"{at}.{name}"
                    )
    both = set(section.write) & set(section.deny_read) | set(section.read) & set(section.deny_read)
    for where in sorted(both):
        yield fail(
            f"{where} is to be hidden and to be open: remove it from one of the lists", subject=f"{at}.deny_read"
        )


def sandbox_doors(at: str, section: SandboxSection, state_dir: str, repositories: Iterable[str]) -> Iterator[Finding]:
    """What the section opens, one finding for each door. `repositories`: those of workspaces."""

    def door(key: str, what: str) -> Finding:
        return Finding(Level.WARN, what, subject=f"{at}.{key}")

    if not section.required:
        yield door("required", "a host that cannot make a sandbox runs the programs without one, and logs it once")
    if section.network:
        yield door(
            "network",
            "programs can send what they read anywhere, and reach the services of this host (127.0.0.1), such as its database",
        )
    homes = os.path.expanduser("~")  # noqa: PTH111
    for path in section.write:
        if Path(homes).is_relative_to(path):
            yield door(
                "write", f"{path} holds a home: programs can write ~/.profile, which a login runs without a sandbox"
            )
        elif Path(state_dir).is_relative_to(path):
            yield door("write", f"{path} holds worker.state_dir ({state_dir}), which stays hidden: name what is meant")
        for repository in repositories:
            if Path(repository).is_relative_to(path):
                yield door(
                    "write",
                    f"{path} holds the repository {repository}: what is written there, git may run without a sandbox "
                    "(.git/hooks, .git/config)",
                )
            elif Path(path).is_relative_to(Path(repository, ".git")):
                yield door("write", f"{path} is what git runs or obeys in {repository}, without a sandbox")
    for path in section.read:
        yield door("read", f"programs can read {path}; with network, they can send it anywhere")


NO_WALL = "may do all that the worker's user may: add sandbox:, or run_as: with a user that can do little"
