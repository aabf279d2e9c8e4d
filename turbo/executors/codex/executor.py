"""The `codex` executor: one task is one headless run of the Codex CLI.

    preamble + row's text on stdin ──▶ the CLI (cli.py) ──▶ what happened (verdict.py) ──▶ outcome
         └── a retry resumes the task's thread, a follow-up that of its conversation; a thread that is not here, or a session of
             another kind of agent, is not resumed: the same run begins a new one, and is told of the conversation

The CLI takes nothing while it works: what people say meanwhile is its next prompt. A question of the agent (only some models ask)
ends the run, and the answer is a prompt as well. It cannot hold a call for a person's approval.

The row provides the text and nothing else. Behaviour was measured with version 0.169.0. All output of the CLI is in the attempt's log.
docs/executors/codex.md lists what becomes of a task in each situation.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from turbo.domain.asking import BadQuestion, question_of
from turbo.domain.outcome import Outcome, OutcomeKind, Probe, added
from turbo.domain.question import AskPolicy, QuestionKind
from turbo.domain.run import Run, Snooze
from turbo.domain.task import NO_TASK
from turbo.domain.work import Message
from turbo.executors.agent.prompts import (
    PREAMBLE,
    account_of,
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
from turbo.executors.agent.session import as_uuid, own_id, session_id
from turbo.executors.asking import DENIED
from turbo.executors.checks.loop import Checks, Turn
from turbo.executors.codex import sandbox, verdict
from turbo.executors.codex.answer import IN_WORDS, CodexAnswer
from turbo.executors.codex.cli import DEFAULTS, KIND, LEAVE_SECONDS, PATIENCE_SECONDS, CodexCall, CodexCli, used
from turbo.executors.codex.ended import EndedCodex
from turbo.executors.directories import Directories
from turbo.process.environment import ChildEnvironment, EnvFile
from turbo.process.git_directories import git_directories
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.launch import fixed_program
from turbo.workspaces.area import Exclusive, WorkArea, no_lock

log = logging.getLogger(__name__)

ASKING_PREAMBLE = account_of(
    "Below is a task. Nobody watches you work. If you have a tool to ask the user, a person will see the question, but the answer may "
    "take hours: ask only what you cannot find out or decide yourself, ask it all in one call, and then end your turn."
)
IN_USE_SECONDS = 15.0
"""Until a task whose thread another process writes to is tried again."""


class CodexExecutor:
    """Runs tasks with the Codex CLI. `durable`: a run of thirty minutes is worth an fsync.

    `command` is the CLI and more flags by the operator, which stand before `exec`. `sandbox_mode`: what the agent's commands may write
    (turbo.executors.codex.sandbox); `network`: whether they may use the network. `answer`: in which form the agent answers. The rest
    is as for turbo.executors.claude.executor.ClaudeExecutor. `CODEX_HOME` comes from the account's env file, else from `env`: each
    login has its own.

    Raises ValueError (EnvironmentRefused is one) for a configuration that cannot work.
    """

    durable = True
    converses = True
    session_kind = KIND

    def __init__(
        self,
        name: str,
        command: Sequence[str] = ("codex",),
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
        sandbox_mode: str = "workspace-write",
        network: bool = True,
        resume: bool = False,
        silence_seconds: float | None = 900.0,
        grace_seconds: float = 5.0,
        leave_seconds: float = LEAVE_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        preamble: str | None = None,
        run_as: Identity | None = None,
        ask: AskPolicy | None = None,
        checks: Checks | None = None,
        answer: CodexAnswer = IN_WORDS,
    ) -> None:
        if not command or not command[0]:
            raise ValueError(f"executor {name}: command is empty: write the CLI as a list, [codex]")
        if ask is not None and ask.approve:
            raise ValueError(
                f"executor {name}: Codex cannot hold a call until a person approves it: remove ask.approve"
            )
        self.name = name
        self.account: str | None = account or name
        self.model = model
        self._work_area = work_area or Directories.at(cwd, allowed_roots, exclusive, run_as)
        self._run_as = run_as
        self._model = ("-m", model) if model else ()
        self._sandbox_mode = sandbox_mode
        self._network = network
        self._resume = resume
        self._silence_seconds = silence_seconds
        self._preamble = preamble
        self._ask = ask
        self._checks = checks
        self.needs_accounts = checks.accounts if checks is not None else frozenset[str]()
        self._answer = answer
        file = EnvFile(env_file) if isinstance(env_file, Path) else env_file
        self._environment = ChildEnvironment(DEFAULTS | dict(env or {}), file, owner=name, run_as=run_as)
        self._cli = CodexCli(
            name,
            fixed_program(command, self._work_area.fixed, name),
            self._environment,
            journal,
            grace_seconds=grace_seconds,
            leave_seconds=leave_seconds,
            patience_seconds=patience_seconds,
            run_as=run_as,
            account=self.account or name,
            model=model,
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
            earlier = outcome.usage
            outcome = await self._turn(run, directory, Turn("", outcome.session_id), until)
            outcome = replace(outcome, usage=added(earlier, outcome.usage))
        return outcome

    async def _turn(self, run: Run, directory: Path, turn: Turn, until: float) -> Outcome:
        answers = tuple(one for one in run.task.answers if one.question.kind is QuestionKind.QUESTION)
        continued = run.task.continued
        goes_on = self._resume or answers or continued is not None or turn.feedback is not None
        known = run.task.agent_session_id if turn.feedback is None else turn.session
        thread = own_id(KIND, known) if goes_on else None
        if thread is not None:
            told = told_so_far(run) if turn.feedback is None or run.messages is not None else ()
            task = replace(run.task, messages=told)
            prompt = going_on_prompt(self._preamble_of(run), task, answers, turn.feedback, self._answer.words)
            ended, log_path = await self._call(run, directory, prompt, thread, until, told)
            if verdict.in_use(ended):
                raise Snooze(f"thread {thread} is in use by another process", IN_USE_SECONDS)
            if not verdict.unresumable(ended) and not (run.moved and verdict.foreign(ended)):
                return self._outcome(run, ended, log_path)
            log.info("cannot resume thread %s: beginning a new one", thread, extra={"task": run.task.task_id})
        told = (*(await run.messages.earlier() if run.messages is not None else ()), *told_so_far(run))
        begun = known is not None and (continued is None or not continued.first_run)
        task = replace(run.task, messages=told)
        prompt = task_prompt(self._preamble_of(run), task, answers, turn.feedback or "", begun=bool(begun))
        ended, log_path = await self._call(run, directory, prompt, None, until, told)
        return self._outcome(run, ended, log_path)

    async def _call(
        self, run: Run, directory: Path, prompt: str, thread: str | None, until: float, told: Sequence[Message]
    ) -> tuple[EndedCodex, Path | None]:
        git = git_directories(directory)
        roots = {directory} if git is None else {directory, git.own, git.common}
        before = {root: sandbox.existing(root) for root in roots}
        call = CodexCall(
            flags=(
                *self._model,
                *sandbox.flags(self._sandbox_mode, directory, network=self._network),
                *self._answer.flags,
            ),
            prompt=prompt,
            cwd=directory,
            wall_seconds=max(0.0, until - asyncio.get_running_loop().time()),
            silence_seconds=self._silence_seconds,
            thread=thread,
            asks=self._ask is not None and self._ask.questions and run.may_ask,
        )
        heard = False
        try:
            ended, log_path = await self._cli.call(run, call)
            heard = ended.stream.items > 0
        finally:
            for root, known in before.items():
                sandbox.clear(root, known)
            if run.messages is not None:
                (run.messages.delivered if heard else run.messages.put_back)(tuple(told))
        return ended, log_path

    def _preamble_of(self, run: Run) -> str:
        preamble = self._preamble
        if preamble is None:
            asks = self._ask is not None and self._ask.questions and run.may_ask
            preamble = ASKING_PREAMBLE if asks else PREAMBLE
        return answering(preamble, self._answer.words) if self._answer.words else preamble

    def _outcome(self, run: Run, ended: EndedCodex, log_path: Path | None) -> Outcome:
        situation, stream = verdict.judge(ended), ended.stream
        outcome = verdict.outcome(ended)
        outcome = explained_end(outcome, run, ended.ended_by, self._silence_seconds, stream.last_line)
        if situation.kind is OutcomeKind.ASKED:
            outcome = self._asked(ended, outcome)
        # A thread that did not even begin to go on would hold up every further attempt in the same way.
        stuck = ended.resumed and not stream.items and situation.kind is OutcomeKind.TIMED_OUT
        ends_session = situation.ends_session or stuck
        if ends_session:
            run.session_started("")  # the next attempt must not resume it
        thread = as_uuid(stream.thread)
        denied = len(ended.rollout.questions) if outcome.kind is not OutcomeKind.ASKED else 0
        extra = {
            **outcome.extra,
            "situation": situation.name if outcome.kind not in (OutcomeKind.SUCCEEDED, OutcomeKind.ASKED) else None,
            "session_id": None if thread is None else session_id(KIND, thread),
            "model": ended.rollout.model,
            DENIED: denied or None,
            "messages": run.messages.told or None if run.messages is not None else None,
        }
        return replace(
            outcome,
            session_id="" if ends_session else None if thread is None else session_id(KIND, thread),
            usage=used(ended),
            log=str(log_path) if log_path else None,
            extra={key: value for key, value in extra.items() if value is not None},
        )

    def _asked(self, ended: EndedCodex, outcome: Outcome) -> Outcome:
        """The question for a person. One that is no question, or too large, fails the run."""
        assert self._ask is not None
        titles: dict[str, list[str]] = {one.title: list(one.options) for one in ended.rollout.questions}
        form = {"questions": [{"question": title, "options": options} for title, options in titles.items()]}
        try:
            return replace(outcome, asked=self._ask.asked(question_of(form)))
        except (BadQuestion, RecursionError) as error:
            return Outcome.failed(f"the agent asks, but not with a question: {error}")

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

    async def sandboxed(self) -> str | None:
        """Why the agent's commands could not run on this host, or None."""
        if self._sandbox_mode == "danger-full-access":
            return None
        return await self._cli.sandboxed(("-c", f'sandbox_mode="{self._sandbox_mode}"'))

    # ── the account ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def probe(self) -> Outcome:
        """Test the account with one short real call, judged as a task is. Never raises.

        The call uses the executor's model, in an empty directory, may write nothing, and leaves no thread behind.
        """

        async def call(run: Run, directory: Path) -> Outcome:
            asked = CodexCall(
                flags=(*self._model, *sandbox.flags("read-only", directory, network=False)),
                prompt=PROBE_PROMPT,
                cwd=directory,
                wall_seconds=PROBE_SECONDS,
                forget=True,
            )
            ended, _ = await self._cli.call(run, asked)
            return replace(verdict.outcome(ended), usage=used(ended))

        return await probed(self.name, self._run_as, call)

    async def logged_in(self) -> bool | None:
        """Is there a login or a key? It may still be invalid. None: the CLI could not be run."""
        return await self._cli.logged_in()


LOGINS = ("CODEX_API_KEY", "OPENAI_API_KEY")


def without_login(environment: Mapping[str, str]) -> dict[str, str]:
    """For programs that are not the CLI: git, and the commands that prepare a worktree."""
    return {name: value for name, value in environment.items() if name not in LOGINS}
