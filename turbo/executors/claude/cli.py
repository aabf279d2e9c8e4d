"""The Claude CLI as a program: where it is, its environment, and one call of it.

    call ──▶ init, answers ──▶ result ──▶ it exits, or is ended after LEAVE_SECONDS: the result counts
                 └── it keeps retrying a refused login: ended, login refused

Version 2.1.330 does not exit after its result while a background task of the agent runs. With its default of ten
retries, it takes 187 s without output to give up on a wrong key.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from turbo.domain.run import Progress, Run
from turbo.domain.task import NO_TASK
from turbo.domain.usage import MeteredRun
from turbo.executors.agent.program import (
    USUAL_FOR_NPM,
    AgentProgram,
    ProgramPlaces,
    short_call,
    with_program_directory,
)
from turbo.executors.agent.running import log_size
from turbo.executors.claude.control import Channel
from turbo.executors.claude.ended import EndedRun
from turbo.executors.claude.login import Login
from turbo.executors.claude.mirror import MIRROR, MIRROR_FLAG, Mirror
from turbo.executors.claude.repository import UNTRUSTED
from turbo.executors.claude.stream import StreamLine, Transcript
from turbo.process.environment import ChildEnvironment, EnvironmentRefused
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.output import text_of
from turbo.process.running import ProcessResult, ProcessSpec, SpawnFailed, run_process

log = logging.getLogger(__name__)

USUAL_DIRECTORIES = (
    "~/.local/bin",
    "~/.claude/local",
    *USUAL_FOR_NPM,
)
"""Where installers put the CLI; launchd's bare PATH has none of them. Of several matches the newest wins."""

PLACES = ProgramPlaces("the Claude CLI", USUAL_DIRECTORIES)

LEAVE_SECONDS = 5.0
"""How long the CLI may stay after its result, unless it begins another turn."""

AUTH_RETRIES = 2
"""Allowed retries after a refused login. A stored login with an expired token is renewed during the first one
(measured: 401, one such line, a new token, success). Ending the CLI at that moment would lose the new token.
"""

UNFIT_SECONDS = 600.0
LINE_BYTES = 16 * 1024 * 1024

DEFAULTS = {
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",  # else the CLI would attach `@/any/file` in a row's text
    "DISABLE_AUTOUPDATER": "1",  # ten agents must not replace the program while others run it
}
"""Variables in the CLI's environment, unless the executor's `env` sets them."""

STREAM = ("-p", "--output-format", "stream-json", "--verbose")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the CLI. `flags` follow the configured command; `env` overrides everything else. With a `channel` the CLI's
    stdin stays open: the prompt goes through it, and `stdin` is empty. `keeps`: see ProcessSpec, beside the CLI's own."""

    flags: Sequence[str]
    stdin: bytes
    cwd: Path
    wall_seconds: float
    silence_seconds: float | None = None
    env: Mapping[str, str] | None = None
    channel: Channel | None = None
    keeps: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class _Unfit:
    """A program that cannot do what an executor needs. It is tried again when it was replaced, or after UNFIT_SECONDS."""

    program: str
    identity: tuple[int, ...] | None
    why: str
    until: float

    def stands(self, program: str) -> bool:
        known = (program, _identity(program)) == (self.program, self.identity)
        return known and time.monotonic() < self.until


class ClaudeCli:
    """The CLI of one executor, named by `owner`. `command` is the program and the operator's own flags."""

    def __init__(
        self,
        owner: str,
        command: Sequence[str],
        environment: ChildEnvironment,
        journal: Journal,
        *,
        grace_seconds: float,
        leave_seconds: float = LEAVE_SECONDS,
        run_as: Identity | None = None,
        account: str = "",
    ) -> None:
        """`account`: whose usage it is."""
        self._run_as = run_as
        self._account = account
        self._owner = owner
        self._command = tuple(command)
        self._environment = environment
        self._program = AgentProgram(PLACES, command[0], environment, run_as)
        self._login = Login(command)
        self._journal = journal
        self._grace_seconds = grace_seconds
        self._leave_seconds = leave_seconds
        self._version: str | None = None
        self._unfit: _Unfit | None = None

    async def call(self, run: Run, call: Call) -> tuple[EndedRun, Path | None]:
        """One agent run, and the path of its log. Raises SpawnFailed, EnvironmentRefused, OSError."""
        environment, handed = self._login.split(self._environment.for_task(run.task))
        program = await self._program.find(environment)
        channel = call.channel
        how = STREAM if channel is None else channel.flags
        mirror = Mirror(run.transcript) if run.transcript.wanted else None
        if mirror is not None:
            run.transcript.conceal((*self._environment.secrets(), *handed.values()))
            how = (*how, MIRROR_FLAG)
        spec = ProcessSpec(
            argv=(program, *self._command[1:], *how, *call.flags),
            env=with_program_directory(program, environment) | dict(call.env or {}),
            handed=handed,
            cwd=call.cwd,
            log_path=run.log_path,
            wall_seconds=call.wall_seconds,
            stdin=call.stdin if channel is None else channel.opening(),
            silence_seconds=call.silence_seconds,
            grace_seconds=self._grace_seconds,
            line_bytes=LINE_BYTES,
            task_id=run.task.task_id,
            run_as=self._run_as,
            keeps=(*claude_home(environment), *call.keeps),
            metered=MeteredRun.of(run.task, self._owner, self._account, run.log_path.name, log_size(run.log_path)),
            aside=MIRROR if mirror is not None else b"",
            aside_bytes=LINE_BYTES,
        )
        monitor = _CallMonitor(run, self._leave_seconds, channel, mirror)
        try:
            result = await run_process(
                spec,
                stop=run.stop,
                journal=self._journal,
                on_line=monitor.on_line,
                on_aside=mirror.mirrored if mirror is not None else None,
                on_start=run.started,
                enough=monitor.enough,
                more_stdin=channel.stdin if channel is not None else None,
            )
        finally:
            if channel is not None:
                channel.over()
            if mirror is not None:
                mirror.close()
            monitor.close()
        self._log_version(monitor.transcript.version, program)
        ended = EndedRun(
            result.ended_by,
            result.returncode,
            monitor.transcript,
            stderr=result.stderr_tail,
            exit_text=result.exit_text,
            login_refused=monitor.login_refused,
        )
        return self._with_channel(ended, channel, program), result.log_path

    def _with_channel(self, ended: EndedRun, channel: Channel | None, program: str) -> EndedRun:
        """What the channel knows of the call."""
        if channel is None or channel.desk is None:
            return replace(ended, questions_denied=ended.transcript.questions)
        if channel.requests:
            ended.transcript.begun = True  # a deferred call is carried out before the first init line
        if channel.unfit is not None:
            self._unfit = _Unfit(program, _identity(program), channel.unfit, time.monotonic() + UNFIT_SECONDS)
        deferred = ended.result.deferred_call if ended.result is not None else None
        desk = channel.desk
        return replace(
            ended, asked=desk.question(deferred or ""), unfit=channel.unfit, questions_denied=desk.questions_denied
        )

    def missing(self, cwd: Path | None) -> str | None:
        """Why no call could be started now, or None. `cwd` is the fixed directory, if there is one."""
        return self._program.missing(cwd, self._why_unfit)

    def _why_unfit(self, program: str) -> str | None:
        unfit = self._unfit
        if unfit is None or not unfit.stands(program):
            return None
        return f"the Claude CLI {program} cannot be used: {unfit.why}"

    async def auth_status(self) -> bool | None:
        """`claude auth status`: is there a login or a key? It may still be invalid. None: the CLI could not be run."""
        _, result = await self._query(*UNTRUSTED, "auth", "status")
        return None if result is None else {0: True, 1: False}.get(result.returncode or 0)

    async def version(self) -> str | None:
        """Asked once, logged once. None if the CLI cannot be run."""
        if self._version is None:
            program, result = await self._query("--version")
            if result is not None and result.returncode == 0:
                self._log_version(text_of(result.stdout).partition(" ")[0].strip(), program)
        return self._version

    async def _query(self, *words: str) -> tuple[str, ProcessResult | None]:
        """The program that was run, and its result."""
        program = self._command[0]
        try:
            environment, handed = self._login.split(self._environment.for_task(NO_TASK))
            program = await self._program.find(environment)
            argv, variables = (program, *words), with_program_directory(program, environment)
            keeps = claude_home(environment)
            return program, await short_call(argv, variables, self._journal, self._run_as, handed, keeps)
        except (SpawnFailed, EnvironmentRefused, OSError) as error:
            log.warning("executor %s: claude %s: %s", self._owner, " ".join(words), error)
            return program, None

    def _log_version(self, version: str | None, program: str) -> None:
        if version and version != self._version:
            self._version = version
            log.info("executor %s: Claude CLI %s (%s)", self._owner, version, program)


def claude_home(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Where the CLI keeps its login and its sessions, and the files of settings there that it obeys."""
    named = environment.get("CLAUDE_CONFIG_DIR", "")
    home = environment.get("HOME", "/")
    config = Path(named) if named.startswith("/") else Path(home, ".claude")
    obeyed = (config / "settings.json", *(() if named.startswith("/") else (Path(home, ".claude.json"),)))
    return (config, *(file for file in obeyed if os.path.isfile(file)))  # noqa: PTH113 - closed to us is not there


class _CallMonitor:
    """Reads one call, reports its progress to the run, and sets `enough` when nothing more is expected."""

    def __init__(self, run: Run, leave_seconds: float, channel: Channel | None, mirror: Mirror | None) -> None:
        self._run = run
        self._mirror = mirror
        self._leave_seconds = leave_seconds
        self._channel = channel
        self._leave_timer: asyncio.TimerHandle | None = None
        self.transcript = Transcript()
        run.uses(lambda: self.transcript.usage)
        self.enough = asyncio.Event() if channel is None else channel.enough
        self.login_refused = False
        if channel is not None:
            channel.on_closed = self._leave

    def on_line(self, line: bytes, cut: bool) -> None:
        if self._mirror is not None:
            self._mirror.printed(line, cut)
        if self._channel is not None and self._channel.take(line, cut):
            return
        known, answers = self.transcript.session_id, self.transcript.answers
        match self.transcript.read(line, cut):
            case StreamLine.INIT:
                self.close()
                if self.transcript.session_id is not None and self.transcript.session_id != known:
                    self._run.session_started(self.transcript.session_id)
            case StreamLine.ASSISTANT:
                self.close()  # another turn after a result
                if self._channel is not None and self.transcript.answers > answers:
                    self._channel.answered()
                self._run.progress(
                    Progress(self.transcript.last_line, self.transcript.input_tokens, self.transcript.output_tokens),
                )
            case StreamLine.RETRY if self.transcript.auth_retries >= AUTH_RETRIES and self.transcript.retries_left > 0:
                self.login_refused = True
                self.enough.set()
            case StreamLine.LIMIT:
                self._run.windows(self.transcript.windows)
            case StreamLine.RESULT:
                self.close()
                if self._channel is None:
                    self._leave()
                elif self.transcript.result is not None:
                    self._channel.turn_over(
                        self.transcript.result
                    )  # the CLI waits for the end of its stdin, then leaves

    def _leave(self) -> None:
        """Nothing more is expected of the CLI, once it has a result."""
        if self.transcript.result is not None:
            self.close()
            self._leave_timer = asyncio.get_running_loop().call_later(self._leave_seconds, self.enough.set)

    def close(self) -> None:
        if self._leave_timer is not None:
            self._leave_timer.cancel()
            self._leave_timer = None


# ── finding it ──────────────────────────────────────────────────────────────────────────────────────────────────────


def find_program(name: str, environment: Mapping[str, str]) -> str:
    """The program's path: as written, on its PATH, or in USUAL_DIRECTORIES. Raises SpawnFailed."""
    return PLACES.find(name, environment)


def _identity(program: str) -> tuple[int, ...] | None:
    """Of the program's file: another one after an update. None: it cannot be seen from here."""
    try:
        found = os.stat(program)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
