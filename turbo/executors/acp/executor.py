"""The `acp` executor: one task is one turn of an agent that speaks the Agent Client Protocol, or a few of them.

    preamble + row's text ──▶ session/prompt (talk.py) ──▶ what happened (verdict.py) ──▶ outcome
         └── a retry goes on with the task's session, a follow-up with that of its conversation; a session that cannot go on is
             left, and the same run begins a new one

What differs between agents is data: their profiles (turbo.config.acp). The row provides the text and nothing else.
docs/executors/acp.md lists what becomes of a task in each situation.
"""

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from turbo.config.acp import AcpProfile, Permissions
from turbo.domain.outcome import Outcome, OutcomeKind, Probe, added
from turbo.domain.question import AskPolicy, QuestionKind
from turbo.domain.run import Run
from turbo.domain.task import NO_TASK
from turbo.domain.work import Message
from turbo.executors.acp import verdict
from turbo.executors.acp.cli import LEAVE_SECONDS, AcpCli
from turbo.executors.acp.ended import EndedAcp
from turbo.executors.acp.talk import AcpCall, usable_id
from turbo.executors.agent.answer import BY_TEXT
from turbo.executors.agent.desk import Desk, HoldsCalls
from turbo.executors.agent.handed_over import HandedOver
from turbo.executors.agent.prompts import PREAMBLE, answering, going_on_prompt, task_prompt
from turbo.executors.agent.running import PROBE_PROMPT, PROBE_SECONDS, explained_end, run_agent, told_so_far
from turbo.executors.agent.session import session_id
from turbo.executors.checks.loop import Checks, Turn
from turbo.executors.directories import Directories, scratch_directory
from turbo.process.environment import ChildEnvironment, EnvFile, EnvironmentRefused
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.launch import fixed_program
from turbo.process.running import SpawnFailed
from turbo.workspaces.area import Exclusive, WorkArea, no_lock

log = logging.getLogger(__name__)

NOTHING = Permissions(
    read="deny", edit="deny", delete="deny", move="deny", search="deny", execute="deny", think="deny", fetch="deny"
)
_UNNAMED = re.compile(r"[^a-z0-9_-]")


def kind_of_agent(executor: str, profile: AcpProfile | None) -> str:
    """What the ids of an agent's sessions begin with: `acp:` and its profile's name, else the executor's."""
    name = profile.name if profile is not None else f"x{_UNNAMED.sub('-', executor.lower())}"[:40]
    return f"acp:{name}"


class AcpExecutor:
    """Runs tasks with an agent over ACP. `durable`: a run of thirty minutes is worth an fsync.

    `command` starts the agent. `profile`: what is known of it; None: nothing, so `checks` has to decide on a success.
    `permissions`: what becomes of its requests. `mode`: one of the agent's own. `held`: the calls that `ask.approve` holds.
    `schema`: the text of the JSON Schema that its answer has to fit. The rest is as for
    turbo.executors.claude.executor.ClaudeExecutor.

    Raises ValueError (EnvironmentRefused is one) for a configuration that cannot work.
    """

    durable = True
    converses = True

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        journal: Journal,
        profile: AcpProfile | None = None,
        permissions: Permissions | None = None,
        account: str | None = None,
        cwd: Path | None = None,
        exclusive: Exclusive = no_lock,
        env: Mapping[str, str] | None = None,
        env_file: EnvFile | Path | None = None,
        allowed_roots: Sequence[Path] = (),
        work_area: WorkArea | None = None,
        model: str | None = None,
        mode: str | None = None,
        resume: bool = False,
        silence_seconds: float | None = 900.0,
        grace_seconds: float = 5.0,
        leave_seconds: float = LEAVE_SECONDS,
        preamble: str | None = None,
        run_as: Identity | None = None,
        ask: AskPolicy | None = None,
        held: HoldsCalls | None = None,
        checks: Checks | None = None,
        schema: str | None = None,
    ) -> None:
        command = list(command) or (list(profile.command) if profile is not None else [])
        if not command or not command[0]:
            raise ValueError(f"executor {name}: command is empty: write the agent as a list, [opencode, acp]")
        if held is not None and (profile is None or profile.holding is None):
            raise ValueError(f"executor {name}: this agent cannot hold a call until a person approves it")
        self.name = name
        self.account: str | None = account or name
        self.model = model
        self.session_kind = kind_of_agent(name, profile)
        fixed = cwd.expanduser().absolute() if cwd is not None else None
        self._work_area = work_area or Directories(fixed, tuple(allowed_roots), exclusive, run_as)
        self._run_as = run_as
        self._profile = profile
        self._resume = resume
        self._silence_seconds = silence_seconds
        self._words = "" if schema is None else f"{BY_TEXT}\n\n{schema.strip()}"
        self._preamble = answering(preamble or PREAMBLE, self._words) if self._words else preamble or PREAMBLE
        self._ask = ask
        self._held = held
        self._checks = checks
        self.needs_accounts = checks.accounts if checks is not None else frozenset[str]()
        holding = profile.holding if profile is not None and held is not None else None
        self._settings, arguments, variables = _settings(profile, (holding and holding.mode) or mode, model)
        defaults = dict(profile.env) if profile is not None else {}
        own = {**defaults, **variables, **(env or {}), **(holding.env if holding is not None else {})}
        file = EnvFile(env_file) if isinstance(env_file, Path) else env_file
        self._environment = ChildEnvironment(own, file, owner=name, run_as=run_as)
        self._logins = frozenset(profile.logins if profile is not None else ())
        self._cli = AcpCli(
            name,
            self.session_kind,
            (*fixed_program(command, fixed, name), *arguments),
            profile,
            self._environment,
            journal,
            permissions or Permissions(),
            grace_seconds=grace_seconds,
            leave_seconds=leave_seconds,
            run_as=run_as,
            account=self.account or name,
            model=model,
            checked=checks is not None,
        )

    async def run(self, run: Run) -> Outcome:
        """See `Executor.run`."""

        async def take(directory: Path, turn: Turn, _spent: float) -> Outcome:
            return await self._turns(run, directory, turn)

        return await run_agent(self.name, run, self._work_area, lambda: self._for_others(run.task), self._checks, take)

    async def _turns(self, run: Run, directory: Path, turn: Turn) -> Outcome:
        """A turn, and one more for what people have said meanwhile. With checks, their loop decides on that."""
        until = asyncio.get_running_loop().time() + run.task.timeout_seconds
        outcome = await self._turn(run, directory, turn, until)
        if self._checks is not None or run.messages is None:
            return outcome
        while outcome.kind is OutcomeKind.SUCCEEDED and outcome.session_id and not run.stop.is_set():
            if not await run.messages.last_look():
                break
            earlier = outcome.usage
            outcome = await self._turn(run, directory, Turn("", outcome.session_id), until)
            outcome = replace(outcome, usage=added(earlier, outcome.usage))
        return outcome

    async def _turn(self, run: Run, directory: Path, turn: Turn, until: float) -> Outcome:
        answers = tuple(one for one in run.task.answers if one.question.kind is not QuestionKind.HOLD)
        continued = run.task.continued
        goes_on = self._resume or answers or continued is not None or turn.feedback is not None
        known = run.task.agent_session_id if turn.feedback is None else turn.session
        session = own_session(self.session_kind, known) if goes_on else None
        if session is not None:
            told = told_so_far(run) if turn.feedback is None or run.messages is not None else ()
            task = replace(run.task, messages=told)
            prompt = going_on_prompt(self._preamble, task, answers, turn.feedback, self._words)
            ended, log_path = await self._call(run, directory, prompt, session, until, told)
            if not verdict.unresumable(ended):
                return self._outcome(run, ended, log_path)
            log.info("cannot go on with session %s: beginning a new one", session, extra={"task": run.task.task_id})
        told = (*(await run.messages.earlier() if run.messages is not None else ()), *told_so_far(run))
        begun = known is not None and (continued is None or not continued.first_run)
        task = replace(run.task, messages=told)
        prompt = task_prompt(self._preamble, task, answers, turn.feedback or "", begun=bool(begun))
        ended, log_path = await self._call(run, directory, prompt, None, until, told)
        return self._outcome(run, ended, log_path)

    async def _call(
        self, run: Run, directory: Path, prompt: str, session: str | None, until: float, told: Sequence[Message]
    ) -> tuple[EndedAcp, Path | None]:
        desk = None
        if self._held is not None and self._ask is not None:
            handed_over = HandedOver(run.log_path.parent)
            desk = Desk(self._ask, self._held, handed_over, run.task.answers, may_ask=run.may_ask)
        call = AcpCall(
            prompt=prompt,
            cwd=directory,
            wall_seconds=max(0.0, until - asyncio.get_running_loop().time()),
            silence_seconds=self._silence_seconds,
            session=session,
            settings=self._settings,
        )
        heard = False
        try:
            ended, log_path = await self._cli.call(run, call, desk)
            heard = not ended.stream.silent
        finally:
            if run.messages is not None:
                (run.messages.delivered if heard else run.messages.put_back)(tuple(told))
        return ended, log_path

    def _outcome(self, run: Run, ended: EndedAcp, log_path: Path | None) -> Outcome:
        situation, heard = verdict.judge(ended), ended.heard
        outcome = verdict.outcome(ended)
        outcome = explained_end(outcome, run, ended.ended_by, self._silence_seconds, ended.stream.last_line)
        if situation.kind is OutcomeKind.ASKED and heard.asked is not None and self._ask is not None:
            outcome = replace(outcome, asked=self._ask.asked(heard.asked))
        # A session that did not even begin to go on would hold up every further attempt in the same way.
        stuck = ended.resumed and ended.stream.silent and situation.kind is OutcomeKind.TIMED_OUT
        ends_session = situation.ends_session or stuck
        if ends_session:
            run.session_started("")  # the next attempt must not resume it
        kept = heard.session is not None and heard.resumes is not None
        session = session_id(self.session_kind, heard.session) if kept and heard.session is not None else None
        extra = {
            **outcome.extra,
            "situation": situation.name if outcome.kind not in (OutcomeKind.SUCCEEDED, OutcomeKind.ASKED) else None,
            "session_id": session,
            "model": self.model or ended.stream.model or None,
            "agent": heard.agent or None,
            "permissions_denied": heard.denied or None,
            "messages": run.messages.told or None if run.messages is not None else None,
        }
        return replace(
            outcome,
            session_id="" if ends_session else session,
            usage=self._cli.used(ended),
            log=str(log_path) if log_path else None,
            extra={key: value for key, value in extra.items() if value is not None},
        )

    def _for_others(self, task: object) -> Mapping[str, str]:
        """The environment of programs that are not the agent: git, and the commands that prepare a worktree."""
        found = self._environment.for_task(task)  # type: ignore[arg-type]
        return {name: value for name, value in found.items() if name not in self._logins}

    def dependencies(self) -> Mapping[str, Probe]:
        """See `Depends`."""
        return self._work_area.dependencies(lambda: self._for_others(NO_TASK))

    # ── this host ───────────────────────────────────────────────────────────────────────────────────────────────────

    def missing(self) -> str | None:
        """See `NeedsProgram`."""
        try:
            problem = self._work_area.missing(self._environment.for_task(NO_TASK))
        except (EnvironmentRefused, OSError) as error:
            return str(error)
        problem = problem or self._cli.missing(self._work_area.fixed)
        return problem or (self._checks.missing() if self._checks is not None else None)

    async def version(self) -> str | None:
        """See `Versioned`."""
        return await self._cli.version()

    # ── the account ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def probe(self) -> Outcome:
        """Test the account with one short real call, judged as a task is. Never raises.

        It works in an empty directory, and nothing that it asks for is allowed. Its session stays with the agent.
        """
        try:
            async with scratch_directory(self._run_as) as (directory, log_path):
                call = AcpCall(PROBE_PROMPT, directory, PROBE_SECONDS, settings=self._settings)
                ended, _ = await self._cli.call(Run(NO_TASK, directory, log_path), call, allowed=NOTHING)
        except SpawnFailed as error:
            return Outcome.infrastructure(str(error))
        except (EnvironmentRefused, OSError) as error:
            return Outcome.infrastructure(f"executor {self.name}: {error}")
        return replace(verdict.outcome(ended), usage=self._cli.used(ended))


def own_session(kind: str, session: str | None) -> str | None:
    """The agent's own id. None: no session, one of another agent, or text that is no id: a row may contain anything."""
    if not session or not session.startswith(f"{kind}:"):
        return None
    own = session.removeprefix(f"{kind}:")
    return own if usable_id(own) else None


def _settings(
    profile: AcpProfile | None, mode: str | None, model: str | None
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...], dict[str, str]]:
    """What is set over the protocol, by arguments and by variables. Raises ValueError."""
    over: list[tuple[str, str]] = []
    arguments: list[str] = []
    variables: dict[str, str] = {}
    for key, value in (("model", model), ("mode", mode)):
        if value is None:
            continue
        way = getattr(profile, key) if profile is not None else None
        if way is None:
            raise ValueError(f"turbo does not know how this agent takes its {key}: add {key} to its profile")
        if way.startswith("env:"):
            variables[way.removeprefix("env:")] = value
        elif way.startswith("arg:"):
            arguments += [way.removeprefix("arg:"), value]
        else:
            over.append((way, value))
    return tuple(over), tuple(arguments), variables
