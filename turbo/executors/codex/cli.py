"""One call of the Codex CLI, and what its rollout file says of it.

    call ──▶ thread, items ──▶ the turn is over ──▶ it exits, or is ended after LEAVE_SECONDS: the turn counts
                └── it waits for the network, or for hours after a retry: ended, the service is away

The CLI never gives up on a service that refuses connections or asks for an hour's patience (measured with 0.169.0), so turbo does.
"""

import asyncio
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from turbo.domain.outcome import ModelUsage
from turbo.domain.run import Progress, Run
from turbo.domain.task import NO_TASK
from turbo.domain.usage import MeteredRun
from turbo.executors.agent.program import AgentProgram, short_call
from turbo.executors.agent.running import log_size
from turbo.executors.agent.session import as_uuid, session_id
from turbo.executors.codex.ended import EndedCodex
from turbo.executors.codex.program import PLACES, native
from turbo.executors.codex.rollout import Rollout, Rollouts, ThreadFile, tokens_of
from turbo.executors.codex.stream import CodexLine, CodexStream
from turbo.process.environment import ChildEnvironment, EnvironmentRefused
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.output import text_of
from turbo.process.running import ProcessResult, ProcessSpec, SpawnFailed, run_process

log = logging.getLogger(__name__)

KIND = "codex"

DEFAULTS = {"TZ": "UTC"}
"""Variables in the CLI's environment, unless the executor's `env` sets them. The CLI tells the reset of a limit in local time."""

ALWAYS = (
    'approval_policy="never"',
    "features.unbounded_connection_retries=false",
    "features.default_mode_request_user_input=false",  # it would answer the agent's questions with nothing
    "shell_environment_policy.ignore_default_excludes=false",  # the agent's commands do not see keys and tokens
    "check_for_update_on_startup=false",
    "analytics.enabled=false",
    "features.plugins=false",
    "features.apps=false",
)
EXEC = ("--json", "--skip-git-repo-check", *(word for setting in ALWAYS for word in ("-c", setting)))

PROMPT = "turbo.prompt"
"""The type of the line of a transcript that has the prompt: the CLI prints none."""

STAYS = "the thread itself stays in CODEX_HOME on this host"

LEAVE_SECONDS = 5.0
"""How long the CLI may stay after its turn is over."""

PATIENCE_SECONDS = 90.0
"""How long the CLI may be silent after it said that it tries a request again. Its own pauses between retries are shorter."""

MOST_OFFLINE = 2
"""Times that the CLI may say that it waits for the network."""

LINE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CodexCall:
    """One call of the CLI. `thread`: the one to resume; None: a new one. `flags` follow turbo's. `asks`: a question of the agent
    reaches a person. `forget`: its rollout is removed, so it cannot be resumed."""

    flags: Sequence[str]
    prompt: str
    cwd: Path
    wall_seconds: float
    silence_seconds: float | None = None
    thread: str | None = None
    asks: bool = False
    forget: bool = False


class CodexCli:
    """The CLI of one executor, named by `owner`. `command` is the program and the operator's own flags, `account` whose usage it is."""

    def __init__(
        self,
        owner: str,
        command: Sequence[str],
        environment: ChildEnvironment,
        journal: Journal,
        *,
        grace_seconds: float,
        leave_seconds: float = LEAVE_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        run_as: Identity | None = None,
        account: str = "",
        model: str | None = None,
    ) -> None:
        self._model = model
        self._owner = owner
        self._command = tuple(command)
        self._environment = environment
        self._program = AgentProgram(PLACES, command[0], environment, run_as, native)
        self._journal = journal
        self._grace_seconds = grace_seconds
        self._leave_seconds = leave_seconds
        self._patience_seconds = patience_seconds
        self._run_as = run_as
        self._account = account
        self._version: str | None = None

    async def call(self, run: Run, call: CodexCall) -> tuple[EndedCodex, Path | None]:
        """One turn of the agent, and the path of its log. Raises SpawnFailed, EnvironmentRefused, OSError."""
        environment = self._environment.for_task(run.task)
        program = await self._program.find(environment)
        run.transcript.conceal(self._environment.secrets())
        rollouts = Rollouts(codex_home(environment), self._run_as)
        before = await asyncio.to_thread(rollouts.find, call.thread) if call.thread is not None else None
        resume = ("resume",) if call.thread is not None else ()
        thread = (call.thread,) if call.thread is not None else ()
        spec = ProcessSpec(
            argv=(program, *self._command[1:], "exec", *resume, *EXEC, *call.flags, *thread, "-"),
            env=environment,
            cwd=call.cwd,
            log_path=run.log_path,
            wall_seconds=call.wall_seconds,
            stdin=call.prompt.encode("utf-8", "replace"),
            silence_seconds=call.silence_seconds,
            grace_seconds=self._grace_seconds,
            line_bytes=LINE_BYTES,
            task_id=run.task.task_id,
            run_as=self._run_as,
            keeps=_keeps(environment),
            metered=MeteredRun.of(run.task, self._owner, self._account, run.log_path.name, log_size(run.log_path)),
        )
        monitor = _CodexMonitor(run, self._leave_seconds, self._patience_seconds)
        if run.transcript.wanted:
            run.transcript.lost(STAYS)
            run.transcript.line(json.dumps({"type": PROMPT, "text": call.prompt}).encode("utf-8", "replace"))
        reading = partial(self._rollout, rollouts, before, monitor.stream, resumed=call.thread is not None)
        run.uses(lambda: _used(reading(), monitor.stream, resumed=call.thread is not None))
        try:
            result = await run_process(
                spec,
                stop=run.stop,
                journal=self._journal,
                on_line=monitor.on_line,
                on_start=run.started,
                enough=monitor.enough,
            )
        finally:
            monitor.close()
        rollout = await asyncio.to_thread(reading)
        if call.forget:
            await asyncio.to_thread(self._forget, rollouts, monitor.stream.thread)
        ended = EndedCodex(
            result.ended_by,
            result.returncode,
            monitor.stream,
            rollout,
            stderr=result.stderr_tail,
            exit_text=result.exit_text,
            gave_up=monitor.gave_up,
            resumed=call.thread is not None,
            asks=call.asks,
            zone=environment.get("TZ"),
        )
        if rollout.windows:
            run.windows(rollout.windows)
        return ended, result.log_path

    def _rollout(self, rollouts: Rollouts, before: ThreadFile | None, stream: CodexStream, *, resumed: bool) -> Rollout:
        """What the rollout says of a call. Blocks, never raises: without it less is known, and the run is judged all the same."""
        thread = as_uuid(stream.thread)
        try:
            place = rollouts.find(thread) if thread is not None else None
            if place is None or (resumed and before is None):
                return Rollout(self._model)
            begin = before.size if before is not None and before.path == place.path else 0
            return rollouts.read(place, begin, self._model)
        except (OSError, ValueError) as error:
            log.warning("executor %s: the rollout of thread %s cannot be read: %s", self._owner, thread, error)
            return Rollout(self._model)

    def _forget(self, rollouts: Rollouts, thread: str | None) -> None:
        try:
            if (known := as_uuid(thread)) is not None and (place := rollouts.find(known)) is not None:
                rollouts.remove(place)
        except OSError as error:
            log.warning("executor %s: the rollout of a probe stays: %s", self._owner, error)

    def missing(self, cwd: Path | None) -> str | None:
        """Why no call could be started now, or None. `cwd` is the fixed directory, if there is one."""
        return self._program.missing(cwd)

    async def logged_in(self) -> bool | None:
        """Is there a key or a login? It may still be invalid. None: the CLI could not be run."""
        try:
            if self._environment.for_task(NO_TASK).get("CODEX_API_KEY"):
                return True
        except EnvironmentRefused:
            return None
        result = await self._query("login", "status")
        return None if result is None else {0: True, 1: False}.get(result.returncode or 0)

    async def version(self) -> str | None:
        """Asked once, logged once. None if the CLI cannot be run."""
        if self._version is None:
            result = await self._query("--version")
            if result is not None and result.returncode == 0:
                self._version = text_of(result.stdout).strip().rpartition(" ")[2] or None
                log.info("executor %s: Codex CLI %s (%s)", self._owner, self._version, self._command[0])
        return self._version

    async def sandboxed(self, flags: Sequence[str]) -> str | None:
        """Why no command could run in a sandbox with these flags, or None."""
        result = await self._query("sandbox", *flags, "--", "true")
        if result is None or result.returncode == 0:
            return None
        return result.stderr_tail.strip()[-300:] or result.exit_text

    async def _query(self, *words: str) -> ProcessResult | None:
        try:
            environment = self._environment.for_task(NO_TASK)
            program = await self._program.find(environment)
            keeps = _keeps(environment)
            return await short_call((program, *words), environment, self._journal, self._run_as, keeps=keeps)
        except (SpawnFailed, EnvironmentRefused, OSError) as error:
            log.warning("executor %s: codex %s: %s", self._owner, " ".join(words), error)
            return None


class _CodexMonitor:
    """Reads one call, reports its progress to the run, and sets `enough` when nothing more is expected."""

    def __init__(self, run: Run, leave_seconds: float, patience_seconds: float) -> None:
        self._run = run
        self._leave_seconds = leave_seconds
        self._patience_seconds = patience_seconds
        self._timer: asyncio.TimerHandle | None = None
        self.stream = CodexStream()
        self.enough = asyncio.Event()
        self.gave_up = False

    def on_line(self, line: bytes, cut: bool) -> None:
        if cut:
            self._run.transcript.lost("a line of output was too long, and is left out")
        elif line.strip():
            self._run.transcript.line(line)
        known = self.stream.thread
        kind = self.stream.read(line, cut)
        if not self.stream.completed:
            self.close()
        match kind:
            case CodexLine.THREAD:
                thread = as_uuid(self.stream.thread)
                if thread is not None and self.stream.thread != known:
                    self._run.session_started(session_id(KIND, thread))
            case CodexLine.ITEM:
                self._run.progress(Progress(self.stream.last_line))
            case CodexLine.RETRY if self.stream.offline >= MOST_OFFLINE:
                self._give_up()
            case CodexLine.RETRY:
                self._timer = asyncio.get_running_loop().call_later(self._patience_seconds, self._give_up)
            case CodexLine.OVER:
                self.close()
                self._timer = asyncio.get_running_loop().call_later(self._leave_seconds, self.enough.set)

    def _give_up(self) -> None:
        self.gave_up = True
        self.enough.set()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _keeps(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Its home, and the configuration in it, which the CLI obeys."""
    home = codex_home(environment)
    configuration = home / "config.toml"
    return (home, configuration) if os.path.isfile(configuration) else (home,)  # noqa: PTH113


def codex_home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("CODEX_HOME") or os.path.join(environment.get("HOME", "/"), ".codex"))  # noqa: PTH118


def used(ended: EndedCodex) -> tuple[ModelUsage, ...]:
    return _used(ended.rollout, ended.stream, resumed=ended.resumed)


def _used(rollout: Rollout, stream: CodexStream, *, resumed: bool) -> tuple[ModelUsage, ...]:
    """What one call has used. Without its rollout, only what a new thread has in all is known."""
    if rollout.usage or resumed or not stream.completed:
        return rollout.usage
    totals = {
        "input_tokens": stream.input_tokens,
        "cached_input_tokens": stream.cached_tokens,
        "cache_write_input_tokens": stream.cache_write_tokens,
        "output_tokens": stream.output_tokens,
    }
    total = tokens_of(rollout.model, totals)
    return (total,) if total != ModelUsage(total.model) else ()
