"""The `claude` executor: one task is one headless run of the Claude Code CLI.

    preamble + row's text on stdin ──▶ the CLI (cli.py) ──▶ what happened (verdict.py) ──▶ outcome
         └── a retry resumes the task's session, a follow-up that of its conversation; if this host cannot resume it, or the
             service refuses it because another account began it, the same run begins a new one, once

With `ask`, stdin stays open, and every question and every held call comes to turbo first (control.py, asking.py):

    a question ──deferred──▶ outcome `asked`, the session is left ──answer──▶ the next run resumes it, and the call is answered

The row provides the text and nothing else: model, permission mode, tools, turns and budget come from worker.yaml.
Behaviour was measured with versions 2.1.330 and 2.1.197. All output of the CLI is in the attempt's log.
docs/executors.md lists what becomes of a task in each situation.
"""

import asyncio
import logging
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind, Probe
from turbo.domain.question import Answered, AskPolicy, QuestionKind
from turbo.domain.run import Run, Snooze
from turbo.domain.task import NO_TASK
from turbo.domain.work import Message
from turbo.executors.agent.desk import PLAN_TOOL, Desk, HoldsCalls
from turbo.executors.agent.handed_over import Handed, HandedOver
from turbo.executors.agent.prompts import (
    ASKING_PREAMBLE,
    PREAMBLE,
    answering,
    going_on_prompt,
    task_prompt,
)
from turbo.executors.agent.running import (
    PROBE_PROMPT,
    PROBE_SECONDS,
    explained_end,
    missing_of,
    probed,
    run_agent,
    told_so_far,
)
from turbo.executors.agent.session import as_uuid, kind_of
from turbo.executors.asking import DENIED
from turbo.executors.checks.loop import Checks, Turn
from turbo.executors.claude import verdict
from turbo.executors.claude.answer_form import IN_TEXT, AnswerForm
from turbo.executors.claude.carried import CannotCarry, SessionFiles
from turbo.executors.claude.cli import DEFAULTS, LEAVE_SECONDS, Call, ClaudeCli
from turbo.executors.claude.control import Channel, new_gate
from turbo.executors.claude.ended import EndedRun
from turbo.executors.claude.flags import Flags, check_asking, flags_of
from turbo.executors.claude.login import without_login
from turbo.executors.claude.repository import UNTRUSTED, UnusableInstructions, instructions
from turbo.executors.directories import Directories
from turbo.process.environment import ChildEnvironment, EnvFile
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.launch import fixed_program
from turbo.workspaces.area import Exclusive, WorkArea, no_lock
from turbo.workspaces.at_remote import portable

log = logging.getLogger(__name__)

PROBE_FLAGS = ("--max-turns", "1", "--tools", "", "--no-session-persistence")
MESSAGE_CHARACTERS = 300

SHORTEST_GRACE_SECONDS = 5.0
"""The CLI takes up to 1.6 s to end its tools, which run in separate sessions; longer on a busy host."""


class ClaudeExecutor:
    """Runs tasks with the Claude CLI. `durable`: a run of thirty minutes is worth an fsync.

    `command` is the CLI and more flags by the operator; the CLI is looked for on the worker's PATH and in the usual
    places. `exclusive` keeps other tasks out of the working directory (turbo.executors.exclusive_directories).
    `work_area` replaces `cwd`, `exclusive` and `allowed_roots`: with a workspace per task, for example.

    `account` names the login. Without one, the executor's own name is used, so that a breaker protects it in any
    case. `resume`: a retry continues the task's session. `trust_repository`: the CLI obeys the settings of its working
    directory, as it does by itself (turbo.executors.claude.repository). `max_turns`, `max_budget_usd` and `silence_seconds` None
    mean no limit. `grace_seconds` (at least 5) pass between TERM and KILL, `leave_seconds` between a result and TERM.
    `cli_max_retries` bounds the CLI's own retries of a request. `preamble` precedes the row's text, which can
    therefore be neither a flag nor a command of the CLI. `run_as`: another user than the worker's, with a login and sessions
    in a home of its own.

    `ask`: the agent may ask a person, and the calls that `held` holds need one's approval; `held` is required where `ask.approve`
    has rules. Without `ask` the agent is offered no question. After an answer a run resumes the task's session, and a follow-up
    that of its conversation, whatever `resume` says. `checks`: what its work must pass (turbo.executors.checks); what does not
    pass goes back into the session, as a turn with `timeout_seconds` and the rest of `max_budget_usd`. `answer`: in which form
    the agent answers; whether that fits is for `checks` to judge.

    Raises ValueError (EnvironmentRefused is one) for a configuration that cannot work.
    """

    durable = True
    converses = True
    session_kind = ""

    def __init__(
        self,
        name: str,
        command: Sequence[str] = ("claude",),
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
        permission_mode: str | None = None,
        allowed_tools: Sequence[str] = (),
        disallowed_tools: Sequence[str] = (),
        max_turns: int | None = None,
        max_budget_usd: float | None = None,
        resume: bool = False,
        trust_repository: bool = False,
        silence_seconds: float | None = None,
        grace_seconds: float = SHORTEST_GRACE_SECONDS,
        leave_seconds: float = LEAVE_SECONDS,
        cli_max_retries: int = 2,
        preamble: str | None = None,
        run_as: Identity | None = None,
        ask: AskPolicy | None = None,
        held: HoldsCalls | None = None,
        checks: Checks | None = None,
        answer: AnswerForm = IN_TEXT,
    ) -> None:
        if not command or not command[0]:
            raise ValueError(f"executor {name}: command is empty: write the CLI as a list, [claude]")
        if grace_seconds < SHORTEST_GRACE_SECONDS:
            raise ValueError(
                f"executor {name}: grace_seconds is {grace_seconds:g}, but the agent needs at least "
                f"{SHORTEST_GRACE_SECONDS:g} to end its tools"
            )
        if preamble is not None and not preamble[:1].isalpha():
            raise ValueError(
                f"executor {name}: preamble must begin with a letter, or the CLI may take it for a command"
            )
        self.name = name
        self.account: str | None = account or name
        self._work_area = work_area or Directories.at(cwd, allowed_roots, exclusive, run_as)
        self._run_as = run_as
        self.model = model
        self._model = ("--model", model) if model else ()
        self._flags = Flags(permission_mode, tuple(allowed_tools), tuple(disallowed_tools), max_turns, max_budget_usd)
        if ask is not None:
            check_asking(name, command, ask, permission_mode, held)
        words = flags_of(command)
        self._own_settings = "--settings" in words
        self._channels = "--input-format" not in words
        self._answer = answer
        self._ask = ask
        self._held: HoldsCalls = held or _HoldsNothing()
        self._checks = checks
        self.needs_accounts = checks.accounts if checks is not None else frozenset[str]()
        self._resume = resume
        self._trust_repository = trust_repository
        self._silence_seconds = silence_seconds
        self._preamble = preamble
        file = EnvFile(env_file) if isinstance(env_file, Path) else env_file
        defaults = DEFAULTS | {"CLAUDE_CODE_MAX_RETRIES": str(cli_max_retries)}
        self._environment = ChildEnvironment(defaults | dict(env or {}), file, owner=name, run_as=run_as)
        self._carried = SessionFiles(run_as)
        self._cli = ClaudeCli(
            name,
            fixed_program(command, self._work_area.fixed, name),
            self._environment,
            journal,
            grace_seconds=grace_seconds,
            leave_seconds=leave_seconds,
            run_as=run_as,
            account=self.account or name,
        )

    async def run(self, run: Run) -> Outcome:
        """See `Executor.run`."""

        used: Path | None = None

        async def take(directory: Path, turn: Turn, spent: float) -> Outcome:
            nonlocal used
            used = directory
            ended, log_path = await self._attempt(run, directory, turn, spent)
            return self._outcome(run, ended, log_path)

        def environment() -> Mapping[str, str]:
            return without_login(self._environment.for_task(run.task))

        outcome = await run_agent(self.name, run, self._work_area, environment, self._checks, take)
        if used is None:
            return outcome
        if run.stored is None:  # what was stored of earlier runs is not the newest any more
            return replace(outcome, portable=False)
        space = outcome.extra.get("workspace")
        anywhere = portable(space) if isinstance(space, dict) else await self._carried.is_bare(run, used)
        return replace(outcome, portable=anywhere)

    async def _attempt(self, run: Run, directory: Path, turn: Turn, spent: float) -> tuple[EndedRun, Path | None]:
        """One turn of the agent, within `timeout_seconds`. `spent`: by the turns before it, in US dollars."""
        now = asyncio.get_running_loop().time
        until = now() + run.task.timeout_seconds
        from_directory, variables = self._from_directory(run, directory)
        answers = tuple(one for one in run.task.answers if one.question.kind is not QuestionKind.HOLD)
        policy = self._policy(run, answers)
        # What a person has denied stays denied, although the rule may be gone from the configuration.
        held = policy is not None and bool(policy.approve or [one for one in answers if one.question.tool])
        holds = held and not self._own_settings  # of two --settings the CLI takes one, and holding takes one of turbo's

        async def call_cli(
            which: tuple[str, str], prompt: str, told: Sequence[Message], *, resumed: bool
        ) -> tuple[EndedRun, Path | None]:
            left = self._flags.within(run.usd_left).with_budget_left(spent)
            flags, channel = left.plain(), None
            if policy is not None:
                planned = bool(answers) and answers[-1].question.tool == PLAN_TOOL
                gate = new_gate() if resumed and holds else None
                flags = left.asking(policy, holds=holds, gate=gate, planned=resumed and planned)
                desk = Desk(policy, self._held, HandedOver(run.log_path.parent), answers, may_ask=run.may_ask)
                channel = Channel(desk, prompt, resumed=resumed, holds=holds, gate=gate, ending=run.stop.is_set)
            elif run.messages is not None and self._channels:
                channel = Channel(None, prompt, resumed=resumed, holds=False, gate=None, ending=run.stop.is_set)
            if channel is not None and run.messages is not None:
                channel.delivers(run.messages, told)
            drops = run.task.continued is not None and not answers
            call = Call(
                flags=(*from_directory, *which, *self._model, *self._answer.flags, *flags),
                stdin=prompt.encode("utf-8", "replace") if channel is None else b"",
                cwd=directory,
                wall_seconds=max(0.0, until - now()),
                silence_seconds=self._silence_seconds,
                env={**variables, **(_DROPS_DEFERRED if drops else {})},
                channel=channel,
                # The CLI writes beside a file that it resumes.
                keeps=tuple(Path(word).parent for word in which[1:] if word.startswith("/")),
            )
            ended, log_path = await self._cli.call(run, call)
            return replace(ended, resumed=resumed), log_path

        continued, preamble = run.task.continued, self._preamble_of(policy, run)
        goes_on = (self._resume or answers or continued is not None or turn.feedback is not None) and holds == held
        known = run.task.agent_session_id if turn.feedback is None else turn.session
        session = as_uuid(known) if goes_on else None
        begun = bool(kind_of(known)) and (continued is None or not continued.first_run)
        word = await self._resumed_by(run, session, answers) if session is not None else None
        if session is not None and word is not None:
            told = told_so_far(run) if turn.feedback is None or run.messages is not None else ()
            task = replace(run.task, messages=told)
            prompt = going_on_prompt(preamble, task, answers, turn.feedback, self._answer.words)
            if run.stored is not None:
                await self._carried.begins(run, session, word)
            ended, log_path = await call_cli(("--resume", word), prompt, told, resumed=True)
            begun = run.moved and verdict.foreign(ended)
            if not begun and not verdict.unresumable(ended):
                return ended, log_path
            log.info(
                "cannot resume session %s: beginning a new one: %s",
                session,
                ended.text.strip()[:MESSAGE_CHARACTERS],
                extra={"task": run.task.task_id},
            )
        told = (*(await run.messages.earlier() if run.messages is not None else ()), *told_so_far(run))
        prompt = task_prompt(preamble, replace(run.task, messages=told), answers, turn.feedback or "", begun=begun)
        session = str(uuid.uuid4())
        if run.stored is not None:
            await self._carried.begins(run, session, session)
        return await call_cli(("--session-id", session), prompt, told, resumed=False)

    async def _resumed_by(self, run: Run, session: str, answers: Sequence[Answered]) -> str | None:
        """The id or the file by which the CLI resumes a session; None: it begins a new one. Raises Snooze if another host has it, and
        OSError."""
        if run.stored is None:
            return session
        try:
            carried = await self._carried.resume(run, run.stored, session)
        except CannotCarry as why:
            host = await run.stored.pin(run.task.task_id)
            log.warning("session %s cannot go on here: %s", session, why, extra={"task": run.task.task_id})
            if host is not None:
                raise Snooze(f"its session cannot go on on another host: {why}", 0.0, host=host) from None
            return None
        last = answers[-1] if answers else None
        if carried.rebuilt and carried.unsure and last is not None and last.approved:
            # On its own host a note tells whether the call was made. Here nobody knows.
            await asyncio.to_thread(HandedOver(run.log_path.parent).note, Handed(call="", asked=last.question.call))
        return carried.word

    def _policy(self, run: Run, answers: Sequence[Answered]) -> AskPolicy | None:
        """None: the run has no control channel, and is offered no question. An answer is handed over in any case."""
        if self._ask is not None and (run.may_ask or self._ask.approve):
            return self._ask
        return (self._ask or _ASKS_NOTHING) if answers else None

    def _preamble_of(self, policy: AskPolicy | None, run: Run) -> str:
        preamble = self._preamble
        if preamble is None:
            preamble = ASKING_PREAMBLE if policy is not None and policy.questions and run.may_ask else PREAMBLE
        return answering(preamble, self._answer.words) if self._answer.words else preamble

    def _from_directory(self, run: Run, directory: Path) -> tuple[tuple[str, ...], Mapping[str, str]]:
        """The flags and variables for what the CLI may take from its working directory."""
        if self._trust_repository:
            return (), {}
        try:
            flags, variables = instructions(directory, ours=self._run_as is None)
        except UnusableInstructions as problem:
            log.warning("executor %s: %s", self.name, problem, extra={"task": run.task.task_id})
            return UNTRUSTED, {}
        return (*UNTRUSTED, *flags), variables

    def _outcome(self, run: Run, ended: EndedRun, log_path: Path | None) -> Outcome:
        transcript, result = ended.transcript, ended.transcript.result
        situation = verdict.judge(ended)
        outcome = self._answer.of(ended, verdict.outcome(ended))
        outcome = explained_end(outcome, run, ended.ended_by, self._silence_seconds, transcript.last_line)
        if outcome.failure_kind is FailureKind.BUDGET and self._flags.within(run.usd_left) != self._flags:
            # It waits for the budget's next period, and is tried again then.
            outcome = replace(outcome, final=False, error=f"{outcome.error}: that is what was left of a budget")
        # A session that did not even begin to go on would hold up every further attempt in the same way.
        stuck = ended.resumed and not transcript.begun and situation.kind is OutcomeKind.TIMED_OUT
        ends_session = situation.ends_session or stuck
        if ends_session:
            run.session_started("")  # the next attempt must not resume it
        extra = {
            **outcome.extra,
            "situation": situation.name if outcome.kind not in (OutcomeKind.SUCCEEDED, OutcomeKind.ASKED) else None,
            "session_id": transcript.session_id,
            "model": transcript.model,
            "num_turns": result.num_turns if result and transcript.answers else None,  # else it counts the past
            "permission_denials": result.permission_denials if result else None,
            DENIED: ended.questions_denied or None,
            "messages": run.messages.told or None if run.messages is not None else None,
        }
        if ended.asked is not None and situation.kind is OutcomeKind.ASKED:
            outcome = replace(outcome, asked=(self._ask or _ASKS_NOTHING).asked(ended.asked))
        return replace(
            outcome,
            session_id="" if ends_session else transcript.session_id,
            usage=transcript.usage,
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

        The call uses the executor's model, no tools and none of the CLI's retries, in an empty directory, within
        PROBE_SECONDS. `auth_status` is not needed first: without a login this call ends in 0.3 s and makes no
        request.
        """

        async def call(run: Run, directory: Path) -> Outcome:
            asked = Call(
                # Its directory is empty, but the CLI also looks into the directories above: TMPDIR is everybody's.
                flags=(*UNTRUSTED, *PROBE_FLAGS, *self._model),
                stdin=PROBE_PROMPT.encode(),
                cwd=directory,
                wall_seconds=PROBE_SECONDS,
                env={"CLAUDE_CODE_MAX_RETRIES": "0"},
            )
            ended, _ = await self._cli.call(run, asked)
            return replace(verdict.outcome(ended), usage=ended.transcript.usage)

        return await probed(self.name, self._run_as, call)

    async def auth_status(self) -> bool | None:
        """Is there a login or a key? It may still be invalid. None: the CLI could not be run."""
        return await self._cli.auth_status()


_ASKS_NOTHING = AskPolicy(questions=False)

_DROPS_DEFERRED = {"CLAUDE_CODE_DISABLE_DEFERRED_TOOL_RESUME": "1"}
"""For a follow-up: a call that waited for a person belonged to a task before it, and is not carried out any more."""


class _HoldsNothing:
    def held_by(self, tool: str, call: Mapping[str, object]) -> str | None:  # noqa: ARG002
        return None

    def without(self, rules: Collection[str]) -> "_HoldsNothing":  # noqa: ARG002
        return self
