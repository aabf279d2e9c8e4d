"""The Claude CLI as a program: where it is, what it finds around itself, and one call of it.

    call ──▶ init, answers ──▶ result ──▶ it leaves by itself, or stays LEAVE_SECONDS and is ended: the result counts
                 └── it keeps retrying a refused login: ended, hopeless

2.1.330 stays after its result for as long as a background task of the agent's runs, and with its default of ten retries
it takes 187 s in silence to give up on a wrong key.
"""

import asyncio
import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from turbo.domain.run import Progress, Run, StopSignal
from turbo.domain.task import NO_TASK
from turbo.executors.claude.stream import StreamLine, Transcript
from turbo.executors.claude.verdict import EndedRun
from turbo.process.environment import ChildEnvironment, EnvironmentRefused
from turbo.process.journal import Journal
from turbo.process.launch import obstacle
from turbo.process.output import text_of
from turbo.process.running import ProcessResult, ProcessSpec, SpawnFailed, run_process

log = logging.getLogger(__name__)

USUAL_PLACES = (
    "~/.local/bin",
    "~/.claude/local",
    "/opt/homebrew/bin",
    "/usr/local/bin",
    "~/.npm-global/bin",
    "~/.volta/bin",
    "~/.bun/bin",
    "~/.nvm/versions/node/*/bin",
)
"""Where installers put the CLI, and where launchd's bare PATH does not lead. Of several matches the newest is taken."""

LEAVE_SECONDS = 5.0
"""How long the CLI may stay after its result, if it does not begin another turn."""

AUTH_RETRIES = 2
"""Retries over a refused login that are let happen. A stored login whose token has run out is renewed during the first
(measured: 401, one such line, a new token, success), and a CLI ended in that moment would lose the new token."""

ASK_SECONDS = 30.0
LINE_BYTES = 16 * 1024 * 1024

DEFAULTS = {
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",  # else `@/any/file` in a row's text is attached without asking
    "DISABLE_AUTOUPDATER": "1",  # ten agents must not replace the program under each other
}
"""What the CLI finds in its environment, unless the executor's `env` says otherwise."""

STREAM = ("-p", "--output-format", "stream-json", "--verbose")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the CLI. `flags` come after the configured command; `env` over everything else."""

    flags: Sequence[str]
    stdin: bytes
    cwd: Path
    wall_seconds: float
    silence_seconds: float | None = None
    env: Mapping[str, str] | None = None


class ClaudeCli:
    """The CLI of one executor, `owner` by name. `command` is the program and the operator's own flags."""

    def __init__(
        self,
        owner: str,
        command: Sequence[str],
        environment: ChildEnvironment,
        journal: Journal,
        *,
        grace_seconds: float,
        leave_seconds: float = LEAVE_SECONDS,
    ) -> None:
        self._owner = owner
        self._command = tuple(command)
        self._environment = environment
        self._journal = journal
        self._grace_seconds = grace_seconds
        self._leave_seconds = leave_seconds
        self._version: str | None = None

    async def call(self, run: Run, call: Call) -> tuple[EndedRun, Path | None]:
        """One agent run, and where its log is. Raises SpawnFailed, EnvironmentRefused, OSError."""
        environment = self._environment.for_task(run.task)
        program = find(self._command[0], environment)
        spec = ProcessSpec(
            argv=(program, *self._command[1:], *STREAM, *call.flags),
            env=_reaching(program, environment) | dict(call.env or {}),
            cwd=call.cwd,
            log_path=run.log_path,
            wall_seconds=call.wall_seconds,
            stdin=call.stdin,
            silence_seconds=call.silence_seconds,
            grace_seconds=self._grace_seconds,
            line_bytes=LINE_BYTES,
            task_id=run.task.task_id,
        )
        watch = _Watch(run, self._leave_seconds)
        try:
            result = await run_process(
                spec,
                stop=run.stop,
                journal=self._journal,
                on_line=watch.line,
                on_start=run.started,
                enough=watch.enough,
            )
        finally:
            watch.close()
        self._say_version(watch.heard.version, program)
        ended = EndedRun(
            result.ended_by,
            result.returncode,
            watch.heard,
            stderr=result.stderr_tail,
            exit_text=result.exit_text,
            hopeless=watch.hopeless,
        )
        return ended, result.log_path

    def missing(self, cwd: Path | None) -> str | None:
        """Why no call could be started now, or None. `cwd` is the fixed directory, if there is one."""
        try:
            environment = self._environment.for_task(NO_TASK)
            return obstacle(find(self._command[0], environment), environment.get("PATH"), cwd)
        except (SpawnFailed, EnvironmentRefused, OSError) as error:
            return str(error)

    async def auth_status(self) -> bool | None:
        """`claude auth status`: is a login or key there? Not whether it is valid. None: it could not be asked."""
        _, answer = await self._ask("auth", "status")
        return None if answer is None else {0: True, 1: False}.get(answer.returncode or 0)

    async def version(self) -> str | None:
        """Asked once, logged once; None when the CLI cannot be run."""
        if self._version is None:
            program, answer = await self._ask("--version")
            if answer is not None and answer.returncode == 0:
                self._say_version(text_of(answer.stdout).partition(" ")[0].strip(), program)
        return self._version

    async def _ask(self, *words: str) -> tuple[str, ProcessResult | None]:
        """The program that was asked, and what became of it."""
        program = self._command[0]
        try:
            environment = self._environment.for_task(NO_TASK)
            program = find(program, environment)
            with tempfile.TemporaryDirectory(prefix="turbo-claude-") as place:
                spec = ProcessSpec(
                    argv=(program, *words),
                    env=_reaching(program, environment),
                    cwd=Path(place),
                    log_path=Path(place) / "log",
                    wall_seconds=ASK_SECONDS,
                )
                return program, await run_process(spec, stop=StopSignal(), journal=self._journal)
        except (SpawnFailed, EnvironmentRefused, OSError) as error:
            log.warning("executor %s: claude %s: %s", self._owner, " ".join(words), error)
            return program, None

    def _say_version(self, version: str | None, program: str) -> None:
        if version and version != self._version:
            self._version = version
            log.info("executor %s: Claude CLI %s (%s)", self._owner, version, program)


class _Watch:
    """Listens to one call, tells the run how it goes, and sets `enough` when nothing is left to wait for."""

    def __init__(self, run: Run, leave_seconds: float) -> None:
        self._run = run
        self._leave_seconds = leave_seconds
        self._leaving: asyncio.TimerHandle | None = None
        self.heard = Transcript()
        self.enough = asyncio.Event()
        self.hopeless = False

    def line(self, line: bytes, cut: bool) -> None:
        known = self.heard.session_id
        match self.heard.read(line, cut):
            case StreamLine.INIT:
                self.close()
                if self.heard.session_id is not None and self.heard.session_id != known:
                    self._run.session_started(self.heard.session_id)
            case StreamLine.ASSISTANT:
                self.close()  # another turn after a result
                self._run.progress(
                    Progress(self.heard.last_line, self.heard.input_tokens, self.heard.output_tokens),
                )
            case StreamLine.RETRY if self.heard.auth_retries >= AUTH_RETRIES and self.heard.retries_left > 0:
                self.hopeless = True
                self.enough.set()
            case StreamLine.RESULT:
                self.close()
                self._leaving = asyncio.get_running_loop().call_later(self._leave_seconds, self.enough.set)

    def close(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None


# ── where it is ─────────────────────────────────────────────────────────────────────────────────────────────────────


def find(name: str, environment: Mapping[str, str]) -> str:
    """The program's path: as written, on the PATH it will have, or in USUAL_PLACES. Raises SpawnFailed."""
    if "/" in name:
        return os.path.expanduser(name)  # noqa: PTH111 - a Path would make ./claude a bare name
    path = environment.get("PATH", os.defpath)
    if found := shutil.which(name, path=path):
        return found
    for place in _places(environment.get("HOME")):
        if found := shutil.which(name, path=str(place)):
            return found
    raise SpawnFailed(
        f"cannot start {name}: it is not on the PATH ({path}), nor in {', '.join(USUAL_PLACES)}; "
        "install the Claude CLI, or write its absolute path as the executor's command",
        errno.ENOENT,
    )


def _places(home: str | None) -> Iterator[Path]:
    for place in USUAL_PLACES:
        if place.startswith("~/"):
            if home:
                yield from sorted(Path(home).glob(place[2:]), key=_by_version, reverse=True)
        else:
            yield Path(place)


def _by_version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]


def _reaching(program: str, environment: Mapping[str, str]) -> dict[str, str]:
    """With the program's directory on the PATH, at its end: a CLI installed by npm finds its `node` there."""
    place, path = str(Path(program).parent), environment.get("PATH", os.defpath)
    known = path.split(os.pathsep)
    return {**environment, "PATH": path if place in known else os.pathsep.join([*known, place])}
