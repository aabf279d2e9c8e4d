"""Where the CLI of an agent is: on the PATH, or where its installers put it."""

import asyncio
import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape, glob
from pathlib import Path

from turbo.process.identity import Identity
from turbo.process.launch import search
from turbo.process.running import SpawnFailed

USUAL_FOR_NPM = (
    "/opt/homebrew/bin",
    "/usr/local/bin",
    "~/.npm-global/bin",
    "~/.volta/bin",
    "~/.bun/bin",
    "~/.nvm/versions/node/*/bin",
)
"""Of several matches the newest wins."""


@dataclass(frozen=True, slots=True)
class ProgramPlaces:
    """`what` names the CLI for people. `directories`: where its installers put it; `~/` is the user's home, `*` any name."""

    what: str
    directories: Sequence[str]

    def find(self, name: str, environment: Mapping[str, str]) -> str:
        """The program's path: as written, on its PATH, or in `directories`. Raises SpawnFailed."""
        if "/" in name:
            return os.path.expanduser(name)  # noqa: PTH111 - a Path would make ./claude a bare name
        path = environment.get("PATH", os.defpath)
        for places in (path, os.pathsep.join(self._existing(environment.get("HOME")))):
            if (program := search(name, places, None).program) is not None:
                return program
        raise SpawnFailed(
            f"cannot start {name}: it is not on the PATH ({path}), nor in {', '.join(self.directories)}; "
            f"install {self.what}, or set the executor's command to its absolute path",
            errno.ENOENT,
        )

    async def find_as(self, user: Identity | None, name: str, environment: Mapping[str, str]) -> str:
        """`find`, and where only the user it runs as can look. Raises SpawnFailed, OSError."""
        try:
            return self.find(name, environment)
        except SpawnFailed:
            if user is None or not user.by_sudo:
                raise
            path = os.pathsep.join([environment.get("PATH", os.defpath), *self._possible(environment.get("HOME"))])
            found = await asyncio.to_thread(user.script, 'PATH=$1; command -v -- "$2"', path, name)
            if found.returncode != 0:
                raise
            return os.fsdecode(found.stdout.strip())

    def _existing(self, home: str | None) -> Iterator[str]:
        for directory in self.directories:
            if not directory.startswith("~/"):
                yield directory
            elif home:  # Path.glob raises PermissionError
                yield from sorted(glob(f"{escape(home)}/{directory[2:]}"), key=_by_version, reverse=True)  # noqa: PTH207

    def _possible(self, home: str | None) -> Iterator[str]:
        """Those that may exist, without a version in their names."""
        for directory in self.directories:
            if not directory.startswith("~/"):
                yield directory
            elif home and "*" not in directory:
                yield f"{home}/{directory[2:]}"


def with_program_directory(program: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with the program's directory last on the PATH: a CLI installed by npm finds its `node` there."""
    directory, path = str(Path(program).parent), environment.get("PATH", os.defpath)
    known = path.split(os.pathsep)
    return {**environment, "PATH": path if directory in known else os.pathsep.join([*known, directory])}


def _by_version(path: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path)]
