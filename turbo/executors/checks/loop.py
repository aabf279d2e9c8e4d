"""The loop of checked work: the agent's turns, and the checks between them.

    turn ──succeeded──▶ check ──passed──▶ messages wait? ──no──▶ completed
     ▲                    │                    └── yes ──▶ a turn with them, checked again
     └──── feedback ──────┤ not passed, a conversation to go on with, a round left
                          ├── could not be made: the task rests, uncounted, and comes to its check again
                          └── otherwise: failed, `unverified`, final
    any other end of a turn, or of a judge (cancelled, asked, a limit …): the end of the run, as without a check

Where the run stands is kept on disk at each step (turbo.executors.checks.state): a run that is cut off is continued at that step.
It is removed once a verdict is safe: completed, failed, cancelled by a person.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from turbo.domain.check import WHY_CHARACTERS, Baseline, Checked, CheckResult, WorkCheck
from turbo.domain.outcome import FailureKind, ModelUsage, Outcome, OutcomeKind, added
from turbo.domain.run import Progress, Run
from turbo.domain.states import StopCause
from turbo.domain.task import Task
from turbo.executors.checks.command import CommandJudge
from turbo.executors.checks.feedback import could_not, feedback, one_line
from turbo.executors.checks.judge import Delivery, Judge, Judgement, NotMade
from turbo.executors.checks.resting import rest
from turbo.executors.checks.state import Known, Noted, StateFile
from turbo.workspaces.area import CannotExamine, ProtectedFiles, TooManyFiles, WorkspaceView

log = logging.getLogger(__name__)

_KEEPS_STATE = frozenset(
    {
        OutcomeKind.ASKED,
        OutcomeKind.AUTH_FAILED,
        OutcomeKind.USAGE_LIMITED,
        OutcomeKind.UNAVAILABLE,
        OutcomeKind.INFRASTRUCTURE,
    }
)
"""The task comes back after these, and goes on where it was."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the agent is to do next. `feedback` None: the task, as without a check. Otherwise the next prompt of the `session`; ''
    where only messages wait."""

    feedback: str | None = None
    session: str | None = None


TakeTurn = Callable[[Turn], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Checks:
    """What the work of one executor must pass. `judges`: in the order of their cost. `rounds`: how often feedback goes back.
    `converses`: the executor can take it; otherwise the first check decides. `baseline`: runs once before the agent. `protect`:
    patterns of the files that must stay as they are. `counts_commits`: a judge asks for commits of the task's own. `accounts`: whose
    logins the judges use. `reads_answer`: the first judge reads the answer as JSON, so it stays a text until then. All these are told
    beside the judges, because they count before a judge is asked."""

    judges: Sequence[Judge]
    rounds: int
    converses: bool = True
    baseline: CommandJudge | None = None
    protect: Sequence[str] = ()
    counts_commits: bool = False
    accounts: frozenset[str] = frozenset()
    reads_answer: bool = False

    def missing(self) -> str | None:
        """Why no check could be made on this host now, or None. Cheap."""
        return next((why for judge in self.judges if (why := judge.missing()) is not None), None)

    async def run(self, run: Run, directory: Path, workspace: WorkspaceView | None, take_turn: TakeTurn) -> Outcome:
        """One run of a task, from where an earlier one was cut off. Raises what `take_turn` and the judges raise."""
        state = StateFile(run.log_path.parent)
        found = await asyncio.to_thread(state.take_over, run.task)
        known = found or Known(begun=not _first_run(run.task))
        gone = found is not None and workspace is not None and workspace.fresh
        if gone:  # what an earlier run had done
            known = Known(begun=not _first_run(run.task), usage=known.usage)
        loop = _Loop(self, run, directory, workspace, take_turn, state, known)
        uses = run.uses
        run.uses = lambda so_far: uses(lambda: added(loop.told_without_outcome(), so_far()))
        return await loop.run(anew=gone)


@dataclass(slots=True)
class _Loop:
    checks: Checks
    run_: Run
    directory: Path
    workspace: WorkspaceView | None
    take_turn: TakeTurn
    state: StateFile
    known: Known
    protected: ProtectedFiles | None = None
    unnoted: tuple[ModelUsage, ...] = ()
    """Of `known.usage`, what no later run could tell."""

    async def run(self, *, anew: bool) -> Outcome:
        """`anew`: what the file knows of is gone."""
        if anew:
            await self._note()
        self.run_.uses(_nothing)
        refused = await self._note_commits() or await self._protect()
        if refused is not None:
            return await self._ended(refused)
        if not self.known.begun and self.checks.baseline is not None:
            judged = await self._baseline(self.checks.baseline)
            if not isinstance(judged, Baseline):
                return await self._not_made(judged, 0)
            self.known = replace(self.known, baseline=judged, begun=True, rests=0)
            if self.protected is not None and (refused := await self._examined(self.protected.baseline_ran())):
                return await self._ended(refused)
            await self._note()
        while True:
            if self.protected is not None:
                await self.protected.agent_begins()
            outcome = self.known.done
            if outcome is None:
                outcome = await self._turn()
                if outcome.kind is not OutcomeKind.SUCCEEDED:
                    return await self._ended(outcome)
            ended = await self._checked(outcome)
            if ended is not None:
                return ended

    async def _note_commits(self) -> Outcome | None:
        """The outcome of a run that cannot."""
        if not self.checks.counts_commits or self.workspace is None:
            return None
        return await self._examined(self.workspace.note_commits(begun=self.known.begun))

    async def _protect(self) -> Outcome | None:
        """List the protected files, before the agent begins. The outcome of a run that cannot."""
        patterns = self.checks.protect
        if not patterns or self.workspace is None:
            return None

        async def listed(workspace: WorkspaceView) -> None:
            self.protected = await workspace.protect(patterns, begun=self.known.begun)

        return await self._examined(listed(self.workspace))

    async def _examined(self, step: Awaitable[None]) -> Outcome | None:
        """A step before the agent begins; the outcome of a run that cannot be without it."""
        try:
            await step
        except TooManyFiles as error:
            return Outcome.failed(str(error), FailureKind.REFUSED, final=True)
        except CannotExamine as error:
            if self.run_.stop.is_set():
                why = f"ended on request before the agent began: {self.run_.stop.cause}"
                return Outcome(OutcomeKind.CANCELLED, error=why)
            if error.away is not None:
                return Outcome.unavailable(f"check: {error}", error.away)
            return Outcome.infrastructure(f"check: {error}")
        return None

    async def _check_ran(self) -> None:
        """What the judges' programs left is not the agent's."""
        if self.protected is None:
            return
        try:
            await self.protected.check_ran()
        except CannotExamine as error:
            task_id = self.run_.task.task_id
            log.warning("what a check has left cannot be told from the agent's: %s", error, extra={"task": task_id})

    async def _turn(self) -> Outcome:
        known = self.known
        outcome = await self.take_turn(Turn(known.feedback, known.session if known.feedback is not None else None))
        session = known.session if outcome.session_id is None else outcome.session_id or None
        self.known = replace(known, session=session, begun=True)
        self._used(outcome.usage)
        if outcome.kind is OutcomeKind.SUCCEEDED:
            self.known = replace(self.known, done=replace(outcome, usage=()), feedback=None)
            await self._note()
        return outcome

    def _used(self, usage: tuple[ModelUsage, ...]) -> None:
        self.known = replace(self.known, usage=added(self.known.usage, usage))
        self.unnoted = added(self.unnoted, usage)
        self.run_.uses(_nothing)  # the call has ended: it is in `unnoted`

    async def _checked(self, outcome: Outcome) -> Outcome | None:
        """The outcome of the run; None: the agent has another turn."""
        number = max((check.number for check in self.known.checks), default=0) + 1
        began = time.monotonic()
        judged, outcome = await self._judged(outcome, number)
        seconds = time.monotonic() - began
        if not isinstance(judged, Judgement):
            await self._check_ran()
            return await self._not_made(judged, number, seconds, outcome)
        check = self._check(judged, number, seconds)
        self.known = replace(self.known, checks=(*self.known.checks, check), rests=0)
        if check.passed:
            if not await self._messages_wait():
                return await self._verdict(outcome)
            self.known = replace(self.known, done=None, feedback="")
        elif not self._round_left(outcome):
            return await self._verdict(_unverified(outcome, self._explained(check)))
        else:
            self.known = replace(self.known, done=None, feedback=feedback(check, red_before=self._red_before))
        await self._check_ran()
        await self._note()
        return None

    async def _judged(self, outcome: Outcome, number: int) -> tuple[Judgement | NotMade | Outcome, Outcome]:
        """What the judges found, and the agent's outcome as it is now."""
        last = Judgement()
        for judge in self.checks.judges:
            if self.run_.stop.is_set():
                why = f"ended on request before its work was checked: {self.run_.stop.cause}"
                return Outcome(OutcomeKind.CANCELLED, error=why), outcome
            judged = await judge.judge(self._delivery(outcome, number))
            if judged.usage:
                self._used(judged.usage)
                await self._note()
            if not isinstance(judged, Judgement):
                return judged, outcome
            outcome = judged.outcome or outcome
            last = judged
            if not judged.passed:
                break
        return last, outcome

    def _delivery(self, outcome: Outcome, number: int) -> Delivery:
        run, of = self.run_, max(number, self.checks.rounds + 1 if self.checks.converses else 1)
        words = f"check {number} of {of}" if number else "check before the agent begins"
        tokens = outcome.usage or self.known.usage
        into = sum(used.input_tokens + used.cache_read_tokens + used.cache_write_tokens for used in tokens)
        out = sum(used.output_tokens for used in tokens)

        def progress(text: str) -> None:
            run.progress(Progress(f"{words}: {text}", into, out))

        log_path = run.log_path.with_name(f"{run.log_path.stem}.check{number}.log")
        return Delivery(
            run, self.directory, self.workspace, outcome, number, log_path, progress, self.protected, self.known.usage
        )

    async def _baseline(self, judge: CommandJudge) -> Baseline | NotMade | Outcome:
        began = time.monotonic()
        judged = await judge.judge(self._delivery(Outcome.succeeded(), 0))
        if not isinstance(judged, Judgement):
            return judged
        return Baseline(judged.passed, judged.exit_code, time.monotonic() - began, judged.output)

    def _check(self, judged: Judgement, number: int, seconds: float) -> WorkCheck:
        return WorkCheck(
            number=number,
            fencing_token=self.run_.task.fencing_token,
            result=judged.result,
            why=judged.why[:WHY_CHARACTERS],
            exit_code=judged.exit_code,
            seconds=seconds,
            output=judged.output,
            requires=judged.requires,
            protect=judged.protect,
            by=judged.by,
            log=judged.log,
            ended_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )

    async def _messages_wait(self) -> bool:
        messages = self.run_.messages
        return self.checks.converses and messages is not None and await messages.last_look()

    def _round_left(self, outcome: Outcome) -> bool:
        failed = sum(not check.passed for check in self.known.checks)
        return self.checks.converses and bool(outcome.session_id) and failed <= self.checks.rounds

    @property
    def _red_before(self) -> bool:
        return self.known.baseline is not None and not self.known.baseline.passed

    def _explained(self, check: WorkCheck) -> WorkCheck:
        """The last check, which decides. What was red before is told apart."""
        if self._red_before:
            check = replace(check, why=f"{check.why}; the check failed before the agent began, too")
            self.known = replace(self.known, checks=(*self.known.checks[:-1], check))
        return check

    # ── the end of the run ──────────────────────────────────────────────────────────────────────────────────────────

    async def _verdict(self, outcome: Outcome) -> Outcome:
        self._remove_when_safe()
        checked = Checked(self.known.checks, self.known.baseline, decided=True)
        return replace(outcome, usage=self.known.usage, checked=checked)

    async def _not_made(
        self, why: NotMade | Outcome, number: int, seconds: float = 0.0, done: Outcome | None = None
    ) -> Outcome:
        """The run ends because a judge could not do its work. `number`: of the check, 0 for the baseline."""
        if isinstance(why, Outcome):
            return await self._ended(why, done)
        rests = self.known.rests + 1
        if why.most is not None and rests > why.most and self.run_.task.infra_count == 0:
            rests = 1  # a person has had it run again since
        self.known = replace(self.known, rests=rests)
        check = self._check(Judgement(CheckResult.FAILED, f"could not be made: {why.why}"), number, seconds)
        unmade = replace(check, exit_code=why.exit_code, output=why.output, log=why.log)
        if why.most is not None and rests >= why.most:
            outcome = replace(Outcome.infrastructure(could_not(unmade)), account=why.account)
        else:
            outcome = replace(
                Outcome.unavailable(could_not(unmade)), uncounted=True, rest_seconds=rest(rests), account=why.account
            )
        return await self._ended(outcome, done, unmade)

    async def _ended(self, outcome: Outcome, done: Outcome | None = None, unmade: WorkCheck | None = None) -> Outcome:
        """The run ends without a verdict of a check. `done`: what the agent had delivered. `unmade`: the check that could not be made.

        Each run tells what it has used, once: what is kept is only of runs that were killed before they could. Only a lost run asks
        the file whether a later claim has taken that over: an agent may have written it."""
        if done is not None:
            outcome = replace(
                outcome,
                output=done.output if outcome.output is None else outcome.output,
                session_id=done.session_id,
                log=outcome.log or done.log,
                extra={**done.extra, **outcome.extra},
            )
        usage = self.known.usage
        drained = outcome.kind is OutcomeKind.CANCELLED and self.run_.stop.cause is StopCause.DRAIN
        lost = outcome.kind is OutcomeKind.CANCELLED and self.run_.stop.cause is StopCause.LOST
        if drained or outcome.kind in _KEEPS_STATE:
            asked = outcome.kind is OutcomeKind.ASKED  # the next prompt is the answer
            self.known = replace(self.known, feedback=None if asked else self.known.feedback)
            await asyncio.to_thread(self.state.write, self.run_.task, replace(self.known, usage=()))
        elif lost:  # another worker has the task now, on this host or another
            usage = await asyncio.to_thread(self.told_without_outcome)
        else:
            self._remove_when_safe()
        has_any = bool(self.known.checks) or self.known.baseline is not None or unmade is not None
        checked = Checked(self.known.checks, self.known.baseline, unmade=unmade) if has_any else None
        return replace(outcome, usage=usage, checked=checked)

    def told_without_outcome(self) -> tuple[ModelUsage, ...]:
        """What a run tells that is lost, or that ends without an outcome, because it is killed while its worker goes on: all of it,
        but what a later claim of a lost one tells. Blocks: the file has nothing of it any more when this returns."""
        taken = self.state.take_usage(self.run_.task)
        return self.known.usage if taken or self.run_.stop.cause is not StopCause.LOST else self.unnoted

    def _remove_when_safe(self) -> None:
        self.run_.when_safe(lambda: self.state.remove(self.run_.task))

    async def _note(self) -> None:
        """Keep what is known. If this run's worker is killed from now on, the next run tells what is noted."""
        match await asyncio.to_thread(self.state.write, self.run_.task, self.known):
            case Noted.KEPT:
                self.unnoted = ()
            case Noted.LOST:
                self.unnoted = self.known.usage
        self.run_.uses(_nothing)


def _unverified(outcome: Outcome, check: WorkCheck) -> Outcome:
    return replace(
        outcome,
        kind=OutcomeKind.FAILED,
        error=one_line(check),
        failure_kind=FailureKind.UNVERIFIED,
        final=True,
    )


def _nothing() -> tuple[ModelUsage, ...]:
    """Of a call: none is under way."""
    return ()


def _first_run(task: Task) -> bool:
    """Whether no agent has begun with the task. A conversation that it continues is no run of its own."""
    if task.continued is not None and not task.continued.first_run:
        return False
    begun = task.agent_session_id is not None and task.continued is None
    return task.attempt == 1 and task.infra_count == 0 and not task.answers and not begun
