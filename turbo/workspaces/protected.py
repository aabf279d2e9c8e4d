"""The files that a task must leave as they are (`check.protect`), compared by what is in them.

    before the agent's first turn ──listed──▶ kept in memory, and beside the worktree's record for later runs
    after each of its turns ──listed again──▶ what differs was changed      after a check ──▶ what is new is the check's own

Before a check it is noted on disk that one goes on. So what a check left that was cut off is known as its own: to the next run,
which finds the note before its agent begins.

The list in memory is out of an agent's reach. The file is not, where the agent is the worker's user: with `run_as` it is.
A list of other patterns is of no use, and neither is none, once the agent has begun: then git says what differs from the
commit with which the task began, and of the ignored files only those count that change from now on. Those that differ already are
left to git from then on, so that they can be put back.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from turbo.host import json_file
from turbo.host.atomic_file import write_atomically
from turbo.workspaces.area import CannotExamine
from turbo.workspaces.contents import MOST_FILES, contents
from turbo.workspaces.git import Git
from turbo.workspaces.globs import Globs

log = logging.getLogger(__name__)

FORMAT = 1
FILE_BYTES = 64 * 1024 * 1024
"""A name that is no UTF-8 takes six bytes for one in JSON."""


SaidByGit = Callable[[bool], Awaitable[Iterable[str]]]
"""The files that match a pattern, exempt or not, and that commits have changed. True: those as well that differ in the worktree."""


class ProtectedList:
    """See `ProtectedFiles`. `git` runs in the worktree: its directory, its user and its stop signal count. `file`: where the list
    is kept."""

    def __init__(self, git: Git, patterns: Sequence[str], file: Path, said_by_git: SaidByGit) -> None:
        self._git = git
        self._said_by_git = said_by_git
        self._patterns = tuple(patterns)
        self._globs = Globs(patterns)
        self._file = file
        self._began: Mapping[str, str] = {}
        self._of_checks: Mapping[str, str] = {}
        self._unlisted = False
        self._left_to_git: frozenset[str] = frozenset()
        self._loaded = False
        self._checking = False
        self._stored = False  # the list in the file is this one
        self._noted = False  # the file says that a check goes on

    async def begin(self, *, begun: bool, fresh: bool) -> None:
        """List the files, if no earlier run has. `begun`: the agent may have begun. `fresh`: the worktree was made for this run, so
        that an older list is of no use. Raises CannotExamine."""
        self._loaded = not fresh and await asyncio.to_thread(self._load)
        if self._loaded:
            await self.check_ran()  # one that was cut off
            return
        self._began = await self._now()
        self._unlisted = begun and not fresh
        if self._unlisted:
            self._left_to_git = frozenset(await self._by_git())

    async def agent_begins(self) -> None:
        """See `ProtectedFiles`."""
        self._checking = False
        if not self._stored or self._noted:
            await asyncio.to_thread(self._store)

    async def baseline_ran(self) -> None:
        """See `ProtectedFiles`."""
        if self._loaded:  # an agent has begun all the same
            return
        now = await self._now()
        self._of_checks = {name: words for name, words in now.items() if self._began.get(name) != words}
        self._began = {name: words for name, words in now.items() if name not in self._of_checks}

    async def changed(self) -> tuple[str, ...]:
        """See `ProtectedFiles`."""
        now = await self._now()
        found = {name for name, words in self._began.items() if now.get(name) != words}
        new = {name for name, words in now.items() if name not in self._began and self._of_checks.get(name) != words}
        found = (found | _outermost(new)) - self._left_to_git
        found.update(await self._by_git())
        self._checking = not found
        if self._checking:
            await asyncio.to_thread(self._store)
        return tuple(sorted(found))

    async def check_ran(self) -> None:
        """See `ProtectedFiles`."""
        if not self._checking:
            return
        now = await self._now()
        self._checking = False
        self._of_checks = {name: words for name, words in now.items() if name not in self._began}
        await asyncio.to_thread(self._store)

    async def _by_git(self) -> set[str]:
        """What git says has changed, without what is exempt. A new nested repository ends in a slash there."""
        found = await self._said_by_git(self._unlisted)
        return {name for name in found if self._globs.match(name.rstrip("/"))}

    async def _now(self) -> dict[str, str]:
        git = self._git
        try:
            return await asyncio.to_thread(contents, git.where, self._globs, git.stop.is_set, git.run_as)
        except (OSError, ValueError) as error:
            raise CannotExamine(f"its protected files cannot be listed: {error}") from error

    # ── for later runs ──────────────────────────────────────────────────────────────────────────────────────────────

    def _load(self) -> bool:
        try:
            fields = json_file.read(self._file, FILE_BYTES)
            if json_file.whole(fields, "format", 0, 2**31) != FORMAT or fields.get("patterns") != list(self._patterns):
                return False
            self._began, self._of_checks = _files(fields, "began"), _files(fields, "of_checks")
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            log.warning("the list of protected files cannot be used: %s", error, extra={"task": self._git.task_id})
            return False
        self._unlisted = fields.get("unlisted") is not False
        self._checking = fields.get("checking") is True
        left = fields.get("left_to_git")
        self._left_to_git = (
            frozenset(name for name in left if isinstance(name, str)) if isinstance(left, list) else frozenset()
        )
        self._stored, self._noted = True, self._checking
        return True

    def _store(self) -> None:
        """Never raises: a later run without the list compares by git. An older list does not stay if it says that a check goes on."""
        document = {
            "format": FORMAT,
            "patterns": list(self._patterns),
            "began": self._began,
            "of_checks": self._of_checks,
            "unlisted": self._unlisted,
            "left_to_git": sorted(self._left_to_git),
            "checking": self._checking,
        }
        self._stored = False
        try:
            write_atomically(self._file, json.dumps(document), durable=True)
            self._stored, self._noted = True, self._checking
        except (OSError, ValueError) as error:
            log.warning("the list of protected files cannot be kept: %s", error, extra={"task": self._git.task_id})
            if self._noted:
                with suppress(OSError):
                    self._file.unlink(missing_ok=True)
                    self._noted = False


def _outermost(new: set[str]) -> set[str]:
    """Without what is in a new nested repository."""
    repositories = tuple(name for name in new if name.endswith("/"))
    return {name for name in new if not any(name != one and name.startswith(one) for one in repositories)}


def _files(fields: Mapping[str, Any], name: str) -> dict[str, str]:
    found = fields.get(name)
    if (
        not isinstance(found, dict)
        or len(found) > 2 * MOST_FILES
        or not all(isinstance(v, str) for v in found.values())
    ):
        raise ValueError(f"{name} is not an object of at most {2 * MOST_FILES} texts")
    return dict(found)
