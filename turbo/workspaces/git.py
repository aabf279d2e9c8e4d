"""How turbo runs git: a fixed argv, no hooks, no prompts, no daemon, a time limit and bounded output.

Each call is journalled like every program of a worker. So a killed worker's fetch or checkout is ended before the
directory is used again.

An agent may have written to the repository's configuration and to the user's. So git reads neither, but what
turbo.workspaces.isolation makes of them, and the file of `workspace.git_config`.

The environment is the executor's, without its account's secrets. GIT_* variables that would lead git elsewhere are
removed. Messages are in English (LC_ALL=C), so that a full disk can be recognised.
"""

import asyncio
import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from turbo.domain.run import StopSignal
from turbo.domain.states import StopCause
from turbo.observability.log import scrub
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.launch import SpawnFailed
from turbo.process.running import Ending, ProcessSpec, run_process
from turbo.workspaces.isolation import Isolated
from turbo.workspaces.odd_files import REASON, USUAL_SECONDS, OddFile, Places

SECONDS = 60.0
"""For commands that only read; commands that move data have their own limits."""

OUTPUT_BYTES = 32 * 1024 * 1024
"""More is an error: a worktree with millions of new files cannot be measured."""

ERROR_CHARACTERS = 600

SETTINGS = {
    "core.hooksPath": os.devnull,  # turbo runs no hooks of a repository; the agent's own git does
    "core.fsmonitor": "false",  # would leave a daemon per worktree
    "gc.auto": "0",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
    "core.quotePath": "false",
    "advice.detachedHead": "false",
    "diff.ignoreSubmodules": "dirty",  # else git runs git in them, with their configuration
    "core.safecrlf": "false",
    "core.untrackedCache": "false",
    "core.pager": "cat",
}
"""Passed as GIT_CONFIG_*, which overrides every file."""

SSH_VARIABLES = ("GIT_SSH", "GIT_SSH_COMMAND")

KEPT_VARIABLES = (
    *SSH_VARIABLES,
    "GIT_SSL_CAINFO",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_ALLOW_PROTOCOL",
)
"""Variables that an operator may set in an executor's `env` to reach a remote."""

PROTOCOLS = "file:git:http:https:ssh"
"""No other remote helper is run: the URL is the repository's, and `ext::` is a command."""

FULL_BYTES = 1024 * 1024
"""With less free space than this, a failure of git is blamed on the disk."""

_FILTER_FAILED = " filter "
"""In the message of a file whose filter is required and not configured: smudge filter x failed."""

_UNSEEN = "could not open directory"
"""A warning of git: it has left out whatever may be in a directory that it cannot read."""

_SAID_BY_GIT = ("fatal:", "error:", "ssh:", "remote:", "! [")

_FULL = {"No space left on device": errno.ENOSPC, "Disk quota exceeded": errno.EDQUOT}


class GitFailed(Exception):
    """git failed. The message contains the command, the directory and git's own message."""


class InTheWay(GitFailed):
    """git would wait for a file, or read it without end. The message names it."""


class OutputTooLong(GitFailed):
    """git has more to say than turbo reads."""


class RepositoryAway(GitFailed):
    """The repository cannot be used: it is missing, damaged, locked or not ours. No task is the cause."""


class RemoteAway(GitFailed):
    """The remote cannot be reached, or refuses the login. No task is the cause."""


class Stopped(Exception):
    """The run was asked to end meanwhile."""


def git_environment(
    environment: Mapping[str, str],
    where: Path,
    git_dir: Path | None = None,
    isolated: Isolated | None = None,
    config: Path | None = None,
) -> dict[str, str]:
    """The environment for git in the directory `where`.

    With `git_dir`, git works on exactly that repository and this worktree, even if an agent has changed `.git`.
    Without it, `where` must be a repository itself: one further up (dotfiles in a home directory) is never used.
    `isolated` replaces the repository's configuration and the user's, that of ssh too; `config` is read instead of the user's.
    """
    clean = {k: v for k, v in environment.items() if not k.startswith("GIT_") or k in KEPT_VARIABLES}
    if "PATH" in clean:  # a relative entry counts from the worktree, where an agent may have put a program
        clean["PATH"] = os.pathsep.join(entry for entry in clean["PATH"].split(os.pathsep) if entry.startswith("/"))
    clean |= {
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "SSH_ASKPASS_REQUIRE": "never",
        "GCM_INTERACTIVE": "never",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_PAGER": "cat",
        "GIT_EDITOR": "true",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_ALLOW_PROTOCOL": clean.get("GIT_ALLOW_PROTOCOL", PROTOCOLS),
        "GIT_CEILING_DIRECTORIES": str(where.parent),
        "GIT_CONFIG_COUNT": str(len(SETTINGS)),
    }
    for number, (key, value) in enumerate(SETTINGS.items()):
        clean |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    if git_dir is not None:
        clean["GIT_DIR"] = str(git_dir)
        if git_dir != where:  # bare: it has no files
            clean["GIT_WORK_TREE"] = str(where)
    if config is not None:
        clean["GIT_CONFIG_GLOBAL"] = str(config)
    elif isolated is not None and "GIT_CONFIG_GLOBAL" not in clean:
        clean["GIT_CONFIG_GLOBAL"] = str(isolated.user)
    if isolated is not None:
        clean["GIT_COMMON_DIR"] = str(isolated.common)
        clean.setdefault("GIT_SSH", str(isolated.ssh))  # GIT_SSH_COMMAND and core.sshCommand go before it
    return clean


@dataclass(frozen=True, slots=True)
class Git:
    """git in the directory `where`, for one task. `git_dir`, `isolated` and `config`: see `git_environment`. `run_as`: whose the
    repository is."""

    where: Path
    environment: Mapping[str, str]
    journal: Journal
    git_dir: Path | None = None
    isolated: Isolated | None = None
    config: Path | None = None
    stop: StopSignal = field(default_factory=StopSignal)
    task_id: str = ""
    run_as: Identity | None = None

    async def __call__(self, *arguments: str, seconds: float | None = None, stdin: str = "", **variables: str) -> str:
        """Run it, and return its standard output. Raises GitFailed, Stopped, and OSError for a full disk.

        A directory that git could not read is a failure, too: what is in it must not be taken for nothing."""
        seconds = SECONDS if seconds is None else seconds
        what = f"git {arguments[0]} in {self.where}"
        places = Places(self.where, self.environment, self.git_dir, self.isolated, self.run_as)
        try:
            places.refuse_known()
        except OddFile as odd:
            raise InTheWay(f"{what}: {odd}") from None
        spec = ProcessSpec(
            argv=("git", *arguments),
            env=git_environment(self.environment, self.where, self.git_dir, self.isolated, self.config) | variables,
            cwd=self.where,
            log_path=Path(os.devnull),
            wall_seconds=seconds,
            stdout_bytes=OUTPUT_BYTES,
            stdin=stdin.encode("utf-8", "surrogateescape"),
            task_id=self.task_id,
            run_as=self.run_as,
        )
        stop = StopSignal()
        watch = asyncio.create_task(self._watch(stop, places))
        try:
            result = await run_process(spec, stop=stop, journal=self.journal)
        except SpawnFailed as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(error.errno, str(error)) from error
            raise GitFailed(str(error)) from error
        finally:
            watch.cancel()
        if result.ended_by is Ending.STOPPED:
            if watch.done() and not watch.cancelled() and (found := watch.result()) is not None:
                raise InTheWay(f"{what}: {found} {REASON}")
            raise Stopped
        if result.ended_by is not Ending.EXITED:
            raise GitFailed(f"{what} was ended after {seconds:g} s")
        if result.returncode != 0:
            for words, number in _FULL.items():
                if words in result.stderr_tail:
                    raise OSError(number, f"{what}: {words}")
            if any(_full(path) for path in (self.where, self.git_dir) if path is not None):
                raise OSError(errno.ENOSPC, f"{what}: No space left on device")
            unread = unread_filters(result.stderr_tail, self.isolated, self.config)
            raise GitFailed(f"{what}: {error_text(result.stderr_tail) or result.exit_text}{unread}")
        if result.stdout_cut:
            raise OutputTooLong(f"{what}: it lists more than {OUTPUT_BYTES // 1024**2} MiB of names")
        if _UNSEEN in result.stderr_tail:
            raise GitFailed(f"{what}: {error_text(result.stderr_tail)}")
        return result.stdout.decode("utf-8", "surrogateescape")

    async def _watch(self, stop: StopSignal, places: Places) -> Path | None:
        """End git when the run is to end, or when it waits for a file that is none: that one is returned."""
        odd = None
        try:
            async with asyncio.timeout(USUAL_SECONDS):
                await self.stop.wait()
        except TimeoutError:
            odd = await asyncio.to_thread(places.anywhere)
            if odd is None:
                await self.stop.wait()
        stop.set(self.stop.cause or StopCause.CANCEL)
        return odd

    @property
    def global_config(self) -> Path | None:
        """What git reads in place of ~/.gitconfig; None if the environment names a file."""
        if self.config is not None or self.isolated is None or "GIT_CONFIG_GLOBAL" in self.environment:
            return self.config
        return self.isolated.user

    async def succeeds(self, *arguments: str) -> bool:
        """Whether it exits with 0. Raises Stopped, InTheWay, OSError."""
        try:
            await self(*arguments)
        except InTheWay:
            raise
        except GitFailed:
            return False
        return True


def unread_filters(stderr: str, isolated: Isolated | None, config: Path | None) -> str:
    """What to add to git's message if it failed for want of a filter that turbo's git does not use. Or ""."""
    if isolated is None or config is not None or _FILTER_FAILED not in stderr:
        return ""
    return isolated.settings.unread_for("filter")


def _full(path: Path) -> bool:
    """git does not always report why it could not write a file."""
    try:
        return shutil.disk_usage(path).free < FULL_BYTES
    except OSError:
        return False


def error_text(stderr: str) -> str:
    """git's message on one line, without its advice."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith("hint:")]
    errors = [line for line in lines if line.startswith(_SAID_BY_GIT) or "errno=" in line] or lines
    text = "; ".join(line.removeprefix("fatal: ").removeprefix("error: ") for line in errors)
    return scrub(text)[:ERROR_CHARACTERS]  # a remote's URL may contain a password
