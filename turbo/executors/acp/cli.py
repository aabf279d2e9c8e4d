"""One call of an agent: a process that is spoken to over its stdin and stdout, to the end of one turn.

call ──▶ the conversation (talk.py) ──▶ the turn is over ──▶ stdin is closed ──▶ it exits, or is ended after LEAVE_SECONDS
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from turbo.config.acp import AcpProfile, Permissions
from turbo.domain.outcome import ModelUsage
from turbo.domain.run import Progress, Run, StopSignal
from turbo.domain.task import NO_TASK
from turbo.domain.usage import MeteredRun
from turbo.executors.acp.ended import EndedAcp
from turbo.executors.acp.said import SaidLines
from turbo.executors.acp.talk import AcpCall, AcpTalk, prompt_line
from turbo.executors.agent.desk import Desk
from turbo.executors.agent.program import USUAL_FOR_NPM, ProgramPlaces, with_program_directory
from turbo.executors.agent.session import session_id
from turbo.executors.directories import scratch_directory
from turbo.process.environment import ChildEnvironment, EnvironmentRefused
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.launch import obstacle
from turbo.process.output import text_of
from turbo.process.running import ProcessSpec, SpawnFailed, run_process

log = logging.getLogger(__name__)

PLACES = ProgramPlaces("the agent", ("~/.local/bin", "~/.opencode/bin", *USUAL_FOR_NPM))
LEAVE_SECONDS = 5.0
"""How long the agent may stay after its turn is over and its stdin is closed."""

GRACE_SECONDS = 1.0
"""At most, for an agent that ignores TERM."""

STAYS = "the session itself stays with the agent on this host"
QUERY_SECONDS = 60.0
LINE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class AcpCommand:
    """How an agent is started: `argv`, and `env` beside its environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


class AcpCli:
    """The agent of one executor, named by `owner`. `kind`: what the ids of its sessions begin with. `account`: whose usage it is."""

    def __init__(
        self,
        owner: str,
        kind: str,
        command: Sequence[str],
        profile: AcpProfile | None,
        environment: ChildEnvironment,
        journal: Journal,
        allowed: Permissions,
        *,
        grace_seconds: float,
        leave_seconds: float = LEAVE_SECONDS,
        run_as: Identity | None = None,
        account: str = "",
        model: str | None = None,
        checked: bool = False,
    ) -> None:
        self._owner = owner
        self._kind = kind
        self._command = tuple(command)
        self._profile = profile
        self._environment = environment
        self._journal = journal
        self._permissions = allowed
        self._grace_seconds = grace_seconds
        if profile is not None and profile.ignores_term:
            self._grace_seconds = min(grace_seconds, GRACE_SECONDS)
        self._leave_seconds = leave_seconds
        self._run_as = run_as
        self._account = account
        self._model = model
        self._checked = checked
        self._version: str | None = None

    async def call(
        self, run: Run, call: AcpCall, desk: Desk | None = None, *, allowed: Permissions | None = None
    ) -> tuple[EndedAcp, Path | None]:
        """One turn of the agent, and the path of its log. Raises SpawnFailed, EnvironmentRefused, OSError."""
        environment = self._environment.for_task(run.task)
        program = await PLACES.find_as(self._run_as, self._command[0], environment)
        run.transcript.conceal(self._environment.secrets())
        said = SaidLines(run.transcript)
        talk = AcpTalk(
            call,
            self._profile,
            allowed or self._permissions,
            run.stop,
            desk=desk,
            leave_seconds=self._leave_seconds,
            session_began=lambda session: run.session_started(session_id(self._kind, session)),
            progress=lambda: run.progress(Progress(talk.heard.stream.last_line)),
            heard_of=said.update,
        )
        spec = ProcessSpec(
            argv=(program, *self._command[1:]),
            env=with_program_directory(program, environment),
            cwd=call.cwd,
            log_path=run.log_path,
            wall_seconds=call.wall_seconds,
            silence_seconds=call.silence_seconds,
            grace_seconds=self._grace_seconds,
            line_bytes=LINE_BYTES,
            task_id=run.task.task_id,
            run_as=self._run_as,
            keeps=self._keeps(environment),
            metered=MeteredRun.of(run.task, self._owner, self._account, run.log_path.name, _size(run.log_path)),
        )
        if run.transcript.wanted:
            run.transcript.lost(STAYS)
            run.transcript.line(prompt_line(call.prompt))
        talk.begin()
        try:
            result = await run_process(
                spec,
                stop=talk.stop,
                journal=self._journal,
                on_line=talk.on_line,
                on_start=run.started,
                enough=talk.enough,
                more_stdin=talk.stdin,
            )
        finally:
            await talk.end()
            said.close()
        if talk.heard.unreadable:
            run.transcript.lost("a line of output was too long, and is left out")
        ended = EndedAcp(
            result.ended_by,
            result.returncode,
            talk.heard,
            self._profile,
            stderr=result.stderr_tail,
            exit_text=result.exit_text,
            resumed=call.session is not None,
            checked=self._checked,
        )
        return ended, result.log_path

    def _keeps(self, environment: Mapping[str, str]) -> tuple[Path, ...]:
        """Where the agent has its sessions and its login."""
        home = environment.get("HOME", "/")
        return tuple(Path(home, name) for name in self._profile.state) if self._profile is not None else ()

    def missing(self, cwd: Path | None) -> str | None:
        """Why no call could be started now, or None. `cwd` is the fixed directory, if there is one."""
        try:
            environment = self._environment.for_task(NO_TASK)
            try:
                program = PLACES.find(self._command[0], environment)
            except SpawnFailed as error:
                if self._run_as is not None and self._run_as.by_sudo:  # its home may be closed to us
                    return None
                return str(error)
            return obstacle(program, environment.get("PATH"), cwd, self._run_as)
        except (EnvironmentRefused, OSError) as error:
            return str(error)

    async def version(self) -> str | None:
        """Asked once, logged once. None if the program cannot be run."""
        if self._version is not None:
            return self._version
        words = self._profile.version if self._profile is not None else ["--version"]
        try:
            environment = self._environment.for_task(NO_TASK)
            program = await PLACES.find_as(self._run_as, self._command[0], environment)
            async with scratch_directory(self._run_as) as (directory, log_path):
                spec = ProcessSpec(
                    argv=(program, *words),
                    env=with_program_directory(program, environment),
                    cwd=directory,
                    log_path=log_path,
                    wall_seconds=QUERY_SECONDS,
                    run_as=self._run_as,
                    keeps=self._keeps(environment),
                )
                result = await run_process(spec, stop=StopSignal(), journal=self._journal)
        except (SpawnFailed, EnvironmentRefused, OSError) as error:
            log.warning("executor %s: %s: %s", self._owner, " ".join(words), error)
            return None
        if result.returncode == 0:
            line = text_of(result.stdout).strip().rpartition("\n")[2]
            self._version = line.rpartition(" ")[2][:40] or None
            log.info("executor %s: version %s of %s", self._owner, self._version, self._command[0])
        return self._version

    def used(self, ended: EndedAcp) -> tuple[ModelUsage, ...]:
        """What one call has used, as far as the agent tells. The cost of a session that goes on is not this call's."""
        where = self._profile.usage if self._profile is not None else "result"
        found = ended.stream.used(ended.heard.result, where)
        named = tuple(
            ModelUsage(
                self._model or one.model,
                one.input_tokens,
                one.output_tokens,
                one.cache_read_tokens,
                one.cache_write_tokens,
                ended.stream.cost if not ended.resumed and len(found) == 1 else None,
            )
            for one in found
        )
        return tuple(one for one in named if one != ModelUsage(one.model))


def _size(log_path: Path) -> int:
    try:
        return log_path.stat().st_size
    except OSError:
        return 0
