"""One call of the Copilot CLI, and what the session's file says of it.

    call ──▶ user.message ──▶ … ──▶ result ──▶ it exits, or is ended after LEAVE_SECONDS: the result counts
                  └── an error, and no result: ended after LEAVE_SECONDS. The CLI may wait for ever for somebody to choose another model

The prompt goes in by stdin. The login and the name of the model's provider are in the environment, nothing of a row is in the argv.
"""

import asyncio
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from turbo.domain.run import Progress, Run
from turbo.domain.task import NO_TASK
from turbo.domain.usage import MeteredRun
from turbo.executors.agent.program import AgentProgram, short_call
from turbo.executors.agent.running import log_size
from turbo.executors.agent.session import session_id
from turbo.executors.copilot.ended import EndedCopilot
from turbo.executors.copilot.program import PLACES, native
from turbo.executors.copilot.session_file import CopilotSessions, SessionUsage
from turbo.executors.copilot.stream import CopilotLine, CopilotStream
from turbo.host.regular_file import read_regular
from turbo.process.environment import ChildEnvironment, EnvironmentRefused
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.output import text_of
from turbo.process.running import ProcessSpec, SpawnFailed, run_process

log = logging.getLogger(__name__)

KIND = "copilot"

DEFAULTS = {
    "COPILOT_AUTO_UPDATE": "false",  # ten agents must not replace the program while others run it
    "COPILOT_TASK_WAIT_TIMEOUT_SECONDS": "60",  # how long the CLI waits for background work after the agent's answer
}
"""Variables in the CLI's environment, unless the executor's `env` sets them."""

OWN_LOGINS = (
    "COPILOT_GITHUB_TOKEN",
    "COPILOT_PROVIDER_API_KEY",
    "COPILOT_PROVIDER_BEARER_TOKEN",
    "COPILOT_PROVIDER_HEADERS",
)
"""Variables with a login of the CLI alone, which it keeps from the agent's commands."""

TOKENS = ("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN")
"""Variables with a token of GitHub's. The first that is set counts."""

HEADLESS = (
    "--output-format",
    "json",
    "--no-ask-user",  # nobody is there to answer
    "--no-color",
    "--no-remote",
    "--no-remote-export",
    f"--secret-env-vars={','.join(OWN_LOGINS)}",
)

PROMPT_TYPE = "turbo.prompt"
"""The type of the line of a transcript that has the prompt, as the agent gets it."""

STAYS = "the session itself stays in COPILOT_HOME on this host"

LEAVE_SECONDS = 5.0
"""How long the CLI may stay after its result, or after an error that ends its turn."""

LINE_BYTES = 16 * 1024 * 1024
CONFIG_BYTES = 1024 * 1024
STORED_LOGIN = re.compile(rb'"loggedInUsers"\s*:\s*\[\s*[^\]\s]')
"""In the CLI's config.json."""


@dataclass(frozen=True, slots=True)
class CopilotCall:
    """One call of the CLI. `session`: a UUID, the one to resume if `resumed`, else of a new one. `flags` follow turbo's. `forget`: the
    session is removed, so it cannot be resumed."""

    flags: Sequence[str]
    prompt: str
    cwd: Path
    wall_seconds: float
    session: str
    resumed: bool = False
    silence_seconds: float | None = None
    forget: bool = False


class CopilotCli:
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
        run_as: Identity | None = None,
        account: str = "",
    ) -> None:
        self._owner = owner
        self._command = tuple(command)
        self._environment = environment
        self._program = AgentProgram(PLACES, command[0], environment, run_as, native)
        self._journal = journal
        self._grace_seconds = grace_seconds
        self._leave_seconds = leave_seconds
        self._run_as = run_as
        self._account = account
        self._version: str | None = None

    async def call(self, run: Run, call: CopilotCall) -> tuple[EndedCopilot, Path | None]:
        """One turn of the agent, and the path of its log. Raises SpawnFailed, EnvironmentRefused, OSError."""
        environment = self._environment.for_task(run.task)
        program = await self._program.find(environment)
        files = CopilotSessions(copilot_home(environment), self._run_as)
        begin = await asyncio.to_thread(files.size, call.session) if call.resumed else 0
        which = f"--resume={call.session}" if call.resumed else f"--session-id={call.session}"
        spec = ProcessSpec(
            argv=(program, *self._command[1:], *HEADLESS, *call.flags, which),
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
            keeps=(copilot_home(environment),),
            metered=MeteredRun.of(run.task, self._owner, self._account, run.log_path.name, log_size(run.log_path)),
        )
        monitor = _CopilotMonitor(run, call.session, self._leave_seconds)
        if run.transcript.wanted:
            run.transcript.conceal(self._environment.secrets())
            run.transcript.lost(STAYS)
            run.transcript.line(json.dumps({"type": PROMPT_TYPE, "text": call.prompt}).encode("utf-8", "replace"))

        def used() -> SessionUsage:
            return self._used(files, call.session, begin)

        run.uses(lambda: used().usage)
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
        ended = EndedCopilot(
            result.ended_by,
            result.returncode,
            monitor.stream,
            await asyncio.to_thread(used),
            stderr=result.stderr_tail,
            exit_text=result.exit_text,
            resumed=call.resumed,
        )
        if call.forget:
            await asyncio.to_thread(self._forget, files, call.session)
        return ended, result.log_path

    def _used(self, files: CopilotSessions, session: str, begin: int) -> SessionUsage:
        """Blocks, never raises: without it less is known, and the run is judged all the same."""
        try:
            return files.read(session, begin)
        except (OSError, ValueError) as error:
            log.warning("executor %s: the file of session %s cannot be read: %s", self._owner, session, error)
            return SessionUsage()

    def _forget(self, files: CopilotSessions, session: str) -> None:
        try:
            files.remove(session)
        except OSError as error:
            log.warning("executor %s: the session of a probe stays: %s", self._owner, error)

    def missing(self, cwd: Path | None) -> str | None:
        """Why no call could be started now, or None. `cwd` is the fixed directory, if there is one."""
        return self._program.missing(cwd)

    def logged_in(self) -> bool | None:
        """Is there a token, a provider or a stored login? It may still be invalid. None: that cannot be told. Blocks."""
        try:
            environment = self._environment.for_task(NO_TASK)
            if environment.get("COPILOT_PROVIDER_BASE_URL") or any(environment.get(name) for name in TOKENS):
                return True
            stored = read_regular(copilot_home(environment) / "config.json", CONFIG_BYTES)
        except (EnvironmentRefused, OSError):
            return None
        return True if STORED_LOGIN.search(stored) else None  # gh may have one, too

    async def version(self) -> str | None:
        """Asked once, logged once. None if the CLI cannot be run."""
        if self._version is None:
            try:
                environment = self._environment.for_task(NO_TASK)
                program = await self._program.find(environment)
                keeps = (copilot_home(environment),)
                words = (program, "--version")
                result = await short_call(words, environment, self._journal, self._run_as, keeps=keeps)
            except (SpawnFailed, EnvironmentRefused, OSError) as error:
                log.warning("executor %s: copilot --version: %s", self._owner, error)
                return None
            if result.returncode == 0:
                first = text_of(result.stdout).strip().partition("\n")[0]
                self._version = first.rpartition(" ")[2].rstrip(".") or None
                log.info("executor %s: GitHub Copilot CLI %s (%s)", self._owner, self._version, program)
        return self._version


class _CopilotMonitor:
    """Reads one call, reports its progress to the run, and sets `enough` when nothing more is expected."""

    def __init__(self, run: Run, session: str, leave_seconds: float) -> None:
        self._run = run
        self._session = session
        self._leave_seconds = leave_seconds
        self._timer: asyncio.TimerHandle | None = None
        self.stream = CopilotStream()
        self.enough = asyncio.Event()

    def on_line(self, line: bytes, cut: bool) -> None:
        if cut:
            self._run.transcript.lost("a line of output was too long, and is left out")
        elif line.strip() and not _is_delta(line):
            self._run.transcript.line(line)
        match self.stream.read(line, cut):
            case CopilotLine.BEGAN:
                self._run.session_started(session_id(KIND, self._session))
            case CopilotLine.ITEM:
                self._run.progress(Progress(self.stream.last_line))
            case CopilotLine.OVER:
                self._leave()
            case CopilotLine.ERROR:
                self._leave()
        if self.stream.error is None and not self.stream.over:
            self.close()

    def _leave(self) -> None:
        self.close()
        self._timer = asyncio.get_running_loop().call_later(self._leave_seconds, self.enough.set)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_DELTAS = (
    b'{"type":"assistant.message_delta"',
    b'{"type":"assistant.reasoning_delta"',
    b'{"type":"session.background_tasks',
)


def _is_delta(line: bytes) -> bool:
    """A piece of what a later line has whole, or no news: no transcript needs it."""
    return line.startswith(_DELTAS)


def copilot_home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("COPILOT_HOME") or os.path.join(environment.get("HOME", "/"), ".copilot"))  # noqa: PTH118


def without_login(environment: Mapping[str, str]) -> dict[str, str]:
    """For programs that are not the CLI: git, and the commands that prepare a worktree. They may need GH_TOKEN."""
    return {name: value for name, value in environment.items() if name not in OWN_LOGINS}
