"""The `copilot` executor: one task is one headless run of the GitHub Copilot CLI.

    preamble + row's text on stdin ──▶ the CLI (cli.py) ──▶ what happened (verdict.py) ──▶ outcome
         └── a retry resumes the task's session, a follow-up that of its conversation; a session that is not here, or one of another
             kind of agent, is not resumed: the same run begins a new one, and is told of the conversation

The CLI takes nothing while it works: what people say meanwhile is its next prompt. It can neither ask a person nor hold a call until
one approves it.

The row provides the text and nothing else. Behaviour was measured with version 1.0.102. All output of the CLI is in the attempt's log.
docs/executors/copilot.md lists what becomes of a task in each situation.
"""

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from turbo.domain.outcome import Outcome, OutcomeKind, Probe, added
from turbo.domain.question import QuestionKind
from turbo.domain.run import Run
from turbo.domain.task import NO_TASK
from turbo.domain.work import Message
from turbo.executors.agent.prompts import PREAMBLE, answering, going_on_prompt, task_prompt
from turbo.executors.agent.running import (
    PROBE_PROMPT,
    PROBE_SECONDS,
    explained_end,
    missing_of,
    probed,
    run_agent,
    told_so_far,
)
from turbo.executors.agent.session import own_id, session_id
from turbo.executors.checks.loop import Checks, Turn
from turbo.executors.copilot import verdict
from turbo.executors.copilot.cli import DEFAULTS, KIND, LEAVE_SECONDS, CopilotCall, CopilotCli, without_login
from turbo.executors.copilot.ended import EndedCopilot
from turbo.executors.copilot.permissions import CopilotPermissions
from turbo.executors.directories import Directories
from turbo.process.environment import ChildEnvironment, EnvFile
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.launch import fixed_program
from turbo.workspaces.area import Exclusive, WorkArea, no_lock

log = logging.getLogger(__name__)

NO_TOOL = "turbo-has-none"
"""For the probe: the CLI offers only the tools that are named, but all of them if none is."""


class CopilotExecutor:
    """Runs tasks with the Copilot CLI. `durable`: a run of thirty minutes is worth an fsync.

    `command` is the CLI and more flags by the operator. `permissions`: what the agent's tools may do. `max_ai_credits`: the CLI's own
    cap of one session. `answer_words`: for the prompt, in which form the agent answers. The rest is as for
    turbo.executors.claude.executor.ClaudeExecutor.

    Raises ValueError (EnvironmentRefused is one) for a configuration that cannot work.
    """

    durable = True
    converses = True
    session_kind = KIND

    def __init__(
        self,
        name: str,
        command: Sequence[str] = ("copilot",),
        *,
        journal: Journal,
        account: str | None = None,
        cwd: Path | None = None,
        exclusive: Exclusive = no_lock,
        env: Mapping[str, str] | None = None,
        env_file: EnvFile | Path | None = None,
        allowed_roots: Sequence[Path] = (),
        work_area: WorkArea | None = None,
        model: str | None = None,
        permissions: CopilotPermissions = CopilotPermissions(),  # noqa: B008 - it is frozen
        max_ai_credits: int | None = None,
        resume: bool = False,
        silence_seconds: float | None = 900.0,
        grace_seconds: float = 5.0,
        leave_seconds: float = LEAVE_SECONDS,
        preamble: str | None = None,
        run_as: Identity | None = None,
        checks: Checks | None = None,
        answer_words: str = "",
    ) -> None:
        if not command or not command[0]:
            raise ValueError(f"executor {name}: command is empty: write the CLI as a list, [copilot]")
        self.name = name
        self.account: str | None = account or name
        self.model = model
        fixed = cwd.expanduser().absolute() if cwd is not None else None
        self._work_area = work_area or Directories(fixed, tuple(allowed_roots), exclusive, run_as)
        self._run_as = run_as
        self._model = (f"--model={model}",) if model else ()
        self._flags = (
            *self._model,
            *permissions.flags,
            *((f"--max-ai-credits={max_ai_credits}",) if max_ai_credits is not None else ()),
        )
        self._resume = resume
        self._silence_seconds = silence_seconds
        self._checks = checks
        self.needs_accounts = checks.accounts if checks is not None else frozenset[str]()
        self._words = answer_words
        preamble = PREAMBLE if preamble is None else preamble
        self._preamble = answering(preamble, answer_words) if answer_words else preamble
        file = EnvFile(env_file) if isinstance(env_file, Path) else env_file
        self._environment = ChildEnvironment(DEFAULTS | dict(env or {}), file, owner=name, run_as=run_as)
        self._cli = CopilotCli(
            name,
            fixed_program(command, fixed, name),
            self._environment,
            journal,
            grace_seconds=grace_seconds,
            leave_seconds=leave_seconds,
            run_as=run_as,
            account=self.account or name,
        )

    async def run(self, run: Run) -> Outcome:
        """See `Executor.run`."""

        async def take(directory: Path, turn: Turn, _spent: float) -> Outcome:
            return await self._turns(run, directory, turn)

        def environment() -> Mapping[str, str]:
            return without_login(self._environment.for_task(run.task))

        return await run_agent(self.name, run, self._work_area, environment, self._checks, take)

    async def _turns(self, run: Run, directory: Path, turn: Turn) -> Outcome:
        """A turn, and one more for what people have said meanwhile. With checks, their loop decides on that."""
        until = asyncio.get_running_loop().time() + run.task.timeout_seconds
        outcome = await self._turn(run, directory, turn, until)
        if self._checks is not None or run.messages is None:
            return outcome
        while outcome.kind is OutcomeKind.SUCCEEDED and outcome.session_id and not run.stop.is_set():
            if not await run.messages.last_look():
                break
            earlier = outcome
            outcome = await self._turn(run, directory, Turn("", outcome.session_id), until)
            outcome = replace(
                outcome,
                usage=added(earlier.usage, outcome.usage),
                extra={**outcome.extra, **_charged_together(earlier, outcome)},
            )
        return outcome

    async def _turn(self, run: Run, directory: Path, turn: Turn, until: float) -> Outcome:
        answers = tuple(one for one in run.task.answers if one.question.kind is QuestionKind.QUESTION)
        continued = run.task.continued
        goes_on = self._resume or answers or continued is not None or turn.feedback is not None
        known = run.task.agent_session_id if turn.feedback is None else turn.session
        session = own_id(KIND, known) if goes_on else None
        if session is not None:
            told = told_so_far(run) if turn.feedback is None or run.messages is not None else ()
            task = replace(run.task, messages=told)
            prompt = going_on_prompt(self._preamble, task, answers, turn.feedback, self._words)
            ended, log_path = await self._call(run, directory, prompt, session, until, told, resumed=True)
            if not verdict.unresumable(ended) and not (run.moved and verdict.foreign(ended)):
                return self._outcome(run, ended, session, log_path)
            log.info("cannot resume session %s: beginning a new one", session, extra={"task": run.task.task_id})
        told = (*(await run.messages.earlier() if run.messages is not None else ()), *told_so_far(run))
        begun = known is not None and (continued is None or not continued.first_run)
        task = replace(run.task, messages=told)
        prompt = task_prompt(self._preamble, task, answers, turn.feedback or "", begun=bool(begun))
        session = str(uuid.uuid4())
        ended, log_path = await self._call(run, directory, prompt, session, until, told, resumed=False)
        return self._outcome(run, ended, session, log_path)

    async def _call(
        self,
        run: Run,
        directory: Path,
        prompt: str,
        session: str,
        until: float,
        told: Sequence[Message],
        *,
        resumed: bool,
    ) -> tuple[EndedCopilot, Path | None]:
        call = CopilotCall(
            flags=self._flags,
            prompt=prompt,
            cwd=directory,
            wall_seconds=max(0.0, until - asyncio.get_running_loop().time()),
            silence_seconds=self._silence_seconds,
            session=session,
            resumed=resumed,
        )
        heard = False
        try:
            ended, log_path = await self._cli.call(run, call)
            heard = ended.stream.items > 0
        finally:
            if run.messages is not None:
                (run.messages.delivered if heard else run.messages.put_back)(tuple(told))
        return ended, log_path

    def _outcome(self, run: Run, ended: EndedCopilot, session: str, log_path: Path | None) -> Outcome:
        situation, stream, used = verdict.judge(ended), ended.stream, ended.used
        outcome = verdict.outcome(ended)
        outcome = explained_end(outcome, run, ended.ended_by, self._silence_seconds, stream.last_line)
        # A session that did not even begin to go on would hold up every further attempt in the same way.
        stuck = ended.resumed and not stream.items and situation.kind is OutcomeKind.TIMED_OUT
        ends_session = situation.ends_session or stuck
        if ends_session:
            run.session_started("")  # the next attempt must not resume it
        own = session_id(KIND, session) if stream.began else None
        extra = {
            **outcome.extra,
            "situation": situation.name if outcome.kind is not OutcomeKind.SUCCEEDED else None,
            "session_id": own,
            "model": stream.model,
            "permission_denials": stream.denied or None,
            "premium_requests": used.premium_requests or None,
            "ai_credits": used.ai_credits or None,
            "messages": run.messages.told or None if run.messages is not None else None,
        }
        return replace(
            outcome,
            session_id="" if ends_session else own,
            usage=used.usage,
            log=str(log_path) if log_path else None,
            extra={key: value for key, value in extra.items() if value is not None},
        )

    def dependencies(self) -> Mapping[str, Probe]:
        """See `Depends`."""
        return self._work_area.dependencies(lambda: without_login(self._environment.for_task(NO_TASK)))

    # ── this host ───────────────────────────────────────────────────────────────────────────────────────────────────

    def missing(self) -> str | None:
        """See `NeedsProgram`."""
        return missing_of(self._work_area, self._environment, self._cli.missing, self._checks)

    async def version(self) -> str | None:
        """See `Versioned`."""
        return await self._cli.version()

    # ── the account ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def probe(self) -> Outcome:
        """Test the account with one short real call, judged as a task is. Never raises.

        The call uses the executor's model, in an empty directory, without tools, and leaves no session behind.
        """

        async def call(run: Run, directory: Path) -> Outcome:
            asked = CopilotCall(
                flags=(
                    *self._model,
                    f"--available-tools={NO_TOOL}",
                    "--no-custom-instructions",
                    "--disable-builtin-mcps",
                ),
                prompt=PROBE_PROMPT,
                cwd=directory,
                wall_seconds=PROBE_SECONDS,
                session=str(uuid.uuid4()),
                forget=True,
            )
            ended, _ = await self._cli.call(run, asked)
            return replace(verdict.outcome(ended), usage=ended.used.usage)

        return await probed(self.name, self._run_as, call)

    async def logged_in(self) -> bool | None:
        """Is there a login? It may still be invalid. None: that cannot be told."""
        return await asyncio.to_thread(self._cli.logged_in)


def _charged_together(*outcomes: Outcome) -> dict[str, object]:
    """What several turns of a run were charged."""
    sums: dict[str, object] = {}
    for name in ("premium_requests", "ai_credits"):
        total = sum(float(str(one.extra.get(name, 0))) for one in outcomes)
        if total:
            sums[name] = total
    return sums
