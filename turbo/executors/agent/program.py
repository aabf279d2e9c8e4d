"""Where the CLI of an agent is: on the PATH, or where its installers put it."""

import asyncio
import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape, glob
from pathlib import Path

from turbo.domain.run import StopSignal
from turbo.domain.task import NO_TASK
from turbo.executors.directories import scratch_directory
from turbo.process.environment import ChildEnvironment, EnvironmentRefused
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.launch import obstacle
from turbo.process.program_search import search
from turbo.process.running import ProcessResult, ProcessSpec, SpawnFailed, run_process

QUERY_SECONDS = 30.0
"""Of a short call that asks the CLI about itself."""

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


def _itself(program: str) -> str:
    return program


@dataclass(frozen=True, slots=True)
class AgentProgram:
    """The CLI of one executor. `name`: as configured. `native`: the binary that a launcher would start. `run_as`: who starts it."""

    places: ProgramPlaces
    name: str
    environment: ChildEnvironment
    run_as: Identity | None = None
    native: Callable[[str], str] = _itself

    async def find(self, environment: Mapping[str, str]) -> str:
        """Its path. Raises SpawnFailed, OSError."""
        return self.native(await self.places.find_as(self.run_as, self.name, environment))

    def missing(self, cwd: Path | None, unfit: Callable[[str], str | None] = lambda _program: None) -> str | None:
        """Why no call could be started now, or None. `cwd` is the fixed directory, if there is one. `unfit`: why a program that is
        there cannot be used."""
        try:
            environment = self.environment.for_task(NO_TASK)
            try:
                program = self.native(self.places.find(self.name, environment))
            except SpawnFailed as error:
                if self.run_as is not None and self.run_as.by_sudo:  # its home may be closed to us
                    return None
                return str(error)
            return unfit(program) or obstacle(program, environment.get("PATH"), cwd, self.run_as)
        except (EnvironmentRefused, OSError) as error:
            return str(error)


async def short_call(
    argv: Sequence[str],
    environment: Mapping[str, str],
    journal: Journal,
    run_as: Identity | None,
    handed: Mapping[str, str] | None = None,
    keeps: tuple[Path, ...] = (),
) -> ProcessResult:
    """A call that asks the CLI about itself, in an empty directory. `handed`, `keeps`: see ProcessSpec. Raises SpawnFailed, OSError."""
    async with scratch_directory(run_as) as (directory, log_path):
        spec = ProcessSpec(
            argv=tuple(argv),
            env=environment,
            handed=dict(handed or {}),
            cwd=directory,
            log_path=log_path,
            wall_seconds=QUERY_SECONDS,
            run_as=run_as,
            keeps=keeps,
        )
        return await run_process(spec, stop=StopSignal(), journal=journal)


def with_program_directory(program: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with the program's directory last on the PATH: a CLI installed by npm finds its `node` there."""
    directory, path = str(Path(program).parent), environment.get("PATH", os.defpath)
    known = path.split(os.pathsep)
    return {**environment, "PATH": path if directory in known else os.pathsep.join([*known, directory])}


def _by_version(path: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path)]
