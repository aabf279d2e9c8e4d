"""The runner: one claimed task, from its slot to its result.

    claimed ──route──▶ executor ──Outcome──▶ RunResult ──▶ completer
                 │                  ├── ended by a drain: released, uncounted; by a lost lease: nothing to write
                 │                  └── asks a person: its question is the result, uncounted
                 └── no route, unreadable input: failed at once

No transaction is open while an agent runs. Nothing that a task does, an exception of an executor included, affects
another slot.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from turbo import db
from turbo.db.result_store import ResultStore
from turbo.domain.claim import ClaimRef
from turbo.domain.headroom import UsageWindow
from turbo.domain.mailbox import Mailbox
from turbo.domain.outcome import FailureKind, ModelUsage, Outcome, OutcomeKind
from turbo.domain.problem import ProblemKind
from turbo.domain.result import RunResult
from turbo.domain.run import Progress, Run, Running, Snooze, UsedSoFar
from turbo.domain.session import StoredSessions
from turbo.domain.states import StopCause
from turbo.domain.task import Task
from turbo.domain.transcript import TranscriptSink
from turbo.domain.type_filter import Routes, executors_of
from turbo.domain.usage import Prices, Spent, UsageRow, spent_by_account, usage_rows
from turbo.executors.asking import DENIED, askable
from turbo.executors.pool import AccountPool
from turbo.executors.protocol import Converses, Executor
from turbo.host.sanitize import sanitize_result, sanitize_usage
from turbo.observability.metrics import Metrics
from turbo.runtime.problems import Problems
from turbo.runtime.service import Crashed, Jobs
from turbo.worker.completer import Completer
from turbo.worker.question_gate import QuestionGate
from turbo.worker.route_chooser import first
from turbo.worker.slots import Slots
from turbo.worker.traces import NO_TRACES
from turbo.worker.wakeups import WakeUps

log = logging.getLogger(__name__)

RELEASE_SECONDS = 20.0
KILL_SECONDS = 0.1
"""Between the two cancellations that kill a program."""


class NoSlotLeft(Exception):
    """Every slot is held by a thread that cannot be ended: a new process has them all."""


class RunFiles(Protocol):
    """Where a run's files go (turbo.host.state_dir)."""

    def work_dir(self, directory_id: str) -> Path: ...
    def log_path(self, task_id: str, attempt: int, token: int) -> Path: ...


SPENT_SECONDS = 1.0
"""A task whose budget was spent between its claim and its start is given back for so long: by then no claim takes it."""


class Reviewer(Protocol):
    """Sees each outcome before it is written (accounts, executor availability)."""

    async def review(self, run: Running, outcome: Outcome) -> Outcome:
        """The outcome to go on with: the same, or for example a failure of the task instead of its account."""
        ...


class RunObserver(Protocol):
    """Follows the runs (progress)."""

    def progress(self, run: Running, progress: Progress) -> None: ...
    def run_ended(self, task: Task) -> None: ...


class Messages(Protocol):
    """What people tell the tasks that run (turbo.worker.message_desk)."""

    def mailbox(self, run: Running, *, converses: bool) -> Mailbox: ...
    async def ended(self, run: Running, mailbox: Mailbox) -> None: ...
    def forget(self, claim: ClaimRef) -> None: ...


class ChosenMember(Protocol):
    """See turbo.accounts.chooser.ChosenAccount."""

    @property
    def executor(self) -> Executor: ...
    @property
    def moved(self) -> bool: ...


class Accounts(Protocol):
    """Which account of a pool a run takes (turbo.accounts.chooser)."""

    async def take(self, pool: AccountPool, run: Running, spent: Collection[str]) -> ChosenMember: ...
    def report(self, account: str, windows: tuple[UsageWindow, ...]) -> None: ...


class RunBudgets(Protocol):
    """What budgets want of a run (turbo.worker.budget_keeper)."""

    def counts_runs(self, task: Task, account: str | None) -> bool: ...
    async def spent_accounts(self, task: Task) -> frozenset[str]: ...
    async def usd_left(self, task: Task, account: str | None, used: Sequence[Spent] = ()) -> float | None: ...


class Transcripts(Protocol):
    """What is stored of the runs (turbo.worker.transcripts)."""

    def open(self, run: Running) -> TranscriptSink: ...
    def clean(self, claim: ClaimRef, outcome: Outcome) -> Outcome: ...
    def clean_progress(self, claim: ClaimRef, progress: Progress) -> Progress: ...
    def run_ended(self, claim: ClaimRef) -> None: ...


class TracesRuns(Protocol):
    """The traces of tasks (turbo.worker.traces)."""

    async def begin(self, run: Running) -> Task: ...
    def run_ended(self, run: Running, outcome: Outcome) -> None: ...
    def forget(self, claim: ClaimRef) -> None: ...


class KeepsFiles(Protocol):
    """Where the files of runs are kept (turbo.worker.file_keeper)."""

    async def store(self, claim: ClaimRef, outcome: Outcome) -> Outcome: ...


class RunSessions(StoredSessions, Protocol):
    """The stored sessions of agents (turbo.worker.agent_sessions)."""

    def run_ended(self, claim: ClaimRef, *, portable: bool) -> None: ...


ChoosesExecutor = Callable[[Task, Sequence[str]], Awaitable[str]]
"""One of several executors for a task (turbo.worker.route_chooser). Raises Snooze if it has to wait."""


class RunLocks(Protocol):
    """What a run holds until its program is gone (turbo.executors.exclusive_directories)."""

    def run_ended(self, fencing_token: int) -> None: ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter: uniform in [0, min(max, base * 2^attempts)], seconds."""

    base_seconds: float = 2.0
    max_seconds: float = 300.0

    def delay(self, attempts: int) -> float:
        return random.uniform(0.0, min(self.max_seconds, self.base_seconds * 2 ** min(attempts, 30)))


class Runner:
    def __init__(
        self,
        worker_id: str,
        executors: Mapping[str, Executor],
        routes: Routes,
        store: ResultStore,
        slots: Slots,
        wakeups: WakeUps,
        completer: Completer,
        files: RunFiles,
        reviewers: Sequence[Reviewer],
        observer: RunObserver,
        locks: RunLocks,
        messages: Messages,
        accounts: Accounts,
        retry: RetryPolicy,
        problems: Problems,
        metrics: Metrics,
        questions: QuestionGate,
        crashed: Crashed,
        *,
        reconcile: asyncio.Event,
        prices: Prices,
        budgets: RunBudgets,
        transcripts: Transcripts,
        sessions: RunSessions,
        keeper: KeepsFiles,
        choose: ChoosesExecutor = first,
        traces: TracesRuns = NO_TRACES,
    ) -> None:
        """`reviewers` see an outcome in this order. `reconcile` is set when a task could not be given back. `prices`: of models whose
        cost no agent reports. `choose`: for a task whose route has several executors."""
        self._worker_id = worker_id
        self._executors = executors
        self._routes = routes
        self._store = store
        self._slots = slots
        self._wakeups = wakeups
        self._completer = completer
        self._files = files
        self._reviewers = tuple(reviewers)
        self._observer = observer
        self._locks = locks
        self._messages = messages
        self._accounts = accounts
        self._converse = {name for name, one in executors.items() if isinstance(one, Converses) and one.converses}
        self._retry = retry
        self._problems = problems
        self._metrics = metrics
        self._questions = questions
        self._crashed = crashed
        self._reconcile = reconcile
        self._prices = prices
        self._budgets = budgets
        self._transcripts = transcripts
        self._sessions = sessions
        self._choose = choose
        self._keeper = keeper
        self._traces = traces
        self._runs = Jobs(crashed)
        self._heavy = asyncio.Lock()
        self._executing: dict[ClaimRef, asyncio.Task[object]] = {}
        self._killing = False

    # ── starting and stopping ───────────────────────────────────────────────────────────────────────────────────────

    def start(self, task: Task) -> None:
        """Run a claimed task in a slot."""
        route = executors_of(self._routes, task.task_type)
        executor = self._executors.get(route[0]) if route else None
        run = Running(task, route[0] if route else "none", executor.account if executor else None)
        self._slots.take(run)
        self._runs.start(self._run(run, executor, route), "run of a task")

    def stop(self, claim: ClaimRef, cause: StopCause) -> None:
        """Ask one run to end; it frees its slot once its program is gone."""
        run = self._slots.running.get(claim)
        if run is not None and not run.stop.is_set():
            log.info("stopping: %s", cause, extra=_fields(run.task))
            run.stop.set(cause)

    def stop_all(self, cause: StopCause) -> None:
        for claim in list(self._slots.running):
            self.stop(claim, cause)

    def kill_all(self) -> int:
        """End the programs that still run, without further grace. Returns how many there were."""
        self._killing = True
        self._cancel_executing()  # TERM and its grace once more; the second cancellation is a KILL (turbo.process)
        asyncio.get_running_loop().call_later(KILL_SECONDS, self._cancel_executing)
        return len(self._executing)

    def _cancel_executing(self) -> None:
        for job in self._executing.values():
            job.cancel()

    async def ended(self, seconds: float | None) -> bool:
        """Wait until every run has ended, at most `seconds`."""
        return await self._runs.ended(seconds)

    def run_in(self, job: "asyncio.Task[object] | None") -> Running | None:
        """The run that an asyncio task drives. From any thread."""
        claim = next((claim for claim, one in list(self._executing.items()) if one is job), None)
        return self._slots.running.get(claim) if claim is not None else None

    # ── one run ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, run: Running, executor: Executor | None, route: Sequence[str]) -> None:
        task = run.task
        durable = any(self._executors[name].durable for name in route if name in self._executors)
        if durable:
            log.info("started", extra=_fields(task))
        try:
            outcome = askable(await self._until_gone(run, executor, route))
            if run.messages is not None:
                await self._messages.ended(run, run.messages)
            for reviewer in self._reviewers:
                outcome = await reviewer.review(run, outcome)
            self._traces.run_ended(run, outcome)
        except Snooze as snooze:
            await self._snooze(run, snooze)
            return
        except asyncio.CancelledError:
            self._free(run, unrecorded=False)
            raise
        seconds = time.monotonic() - run.claimed_at
        if outcome.usage:
            outcome = replace(outcome, usage=self._prices.fill(outcome.usage))
        self._measure(run, outcome, seconds)
        if outcome.kept is not None and run.stop.cause is not StopCause.DRAIN:
            outcome = await self._keeper.store(run.claim, outcome)
        if outcome.kind is OutcomeKind.CANCELLED and run.stop.cause in (StopCause.DRAIN, StopCause.LOST):
            await self._give_up(run, outcome)
            return
        _log_end(task, outcome, seconds, logging.INFO if durable else logging.DEBUG)
        result = self._result(run, outcome, seconds)
        # Known until it is recorded: the slot is not free before the result is safe.
        self._slots.unrecorded.add(run.claim)
        await self._completer.submit(result, durable=durable)
        if outcome.portable is not None:
            self._sessions.run_ended(run.claim, portable=outcome.portable)
        if run.when_safe is not None:
            await asyncio.to_thread(run.when_safe)
        self._free(run, unrecorded=True, light=not durable)

    async def _until_gone(self, run: Running, executor: Executor | None, route: Sequence[str]) -> Outcome:
        """Execute it. A run that was killed counts as one that was asked to end, and did."""
        job = asyncio.current_task()
        assert job is not None
        self._executing[run.claim] = job
        try:
            return await self._execute(run, executor, route)
        except asyncio.CancelledError:
            if not self._killing:
                raise
            while job.uncancel():
                pass
            return Outcome(OutcomeKind.CANCELLED, error="killed: it did not end in time", usage=run.used())
        finally:
            del self._executing[run.claim]

    async def _execute(self, run: Running, executor: Executor | None, route: Sequence[str]) -> Outcome:
        task = run.task
        if executor is None:
            return Outcome.failed(
                f"no route for task_type {task.task_type!r} and no default: add it under routes in worker.yaml, for all "
                "workers of its queue",
                FailureKind.NO_ROUTE,
                final=True,
            )
        if task.input_error is not None:
            return Outcome.failed(task.input_error, FailureKind.BAD_REQUEST, final=True)
        if task.heavy:
            async with self._heavy:  # of several such runs, one in a turn of the event loop
                await asyncio.sleep(0)

        if len(route) > 1:
            run.executor = await self._choose(task, route)
            executor = self._executors[run.executor]
            run.account = executor.account

        if self._questions.must_wait(run.executor):
            await self._questions.wait()

        task = await self._traces.begin(run)
        moved = False
        if isinstance(executor, AccountPool):
            chosen = await self._accounts.take(executor, run, await self._budgets.spent_accounts(task))
            executor, moved = chosen.executor, chosen.moved

        usd_left = await self._budgets.usd_left(task, run.account)
        if usd_left is not None and usd_left <= 0:
            raise Snooze("a budget that covers it is spent", SPENT_SECONDS)

        converses = run.executor in self._converse
        if converses or task.messages:
            run.messages = self._messages.mailbox(run, converses=converses)

        begun = False

        def started(_pid: int) -> None:
            nonlocal begun
            if begun:  # a further program of the same run
                return
            begun = True
            if run.messages is not None and not converses:
                run.messages.given(task.messages)
            self._metrics.pickup.labels(task.queue).observe(task.waited_seconds + time.monotonic() - run.claimed_at)

        def when_safe(action: Callable[[], None]) -> None:
            run.when_safe = action

        def session(session_id: str) -> None:
            run.session_id = session_id

        def uses(so_far: UsedSoFar) -> None:
            run.used = so_far

        async def usd_left_of(account: str, used: tuple[ModelUsage, ...]) -> float | None:
            return await self._budgets.usd_left(task, account, spent_by_account(run.account, self._prices.fill(used)))

        def windows(found: tuple[UsageWindow, ...]) -> None:
            if run.account is not None:
                self._accounts.report(run.account, found)

        transcript = self._transcripts.open(run)

        def progress(progress: Progress) -> None:
            self._observer.progress(run, self._transcripts.clean_progress(run.claim, progress))

        try:
            outcome = await executor.run(
                Run(
                    task=task,
                    work_dir=lambda: self._files.work_dir(task.directory_id),
                    log_path=lambda: self._files.log_path(task.task_id, task.attempt, task.fencing_token),
                    stop=run.stop,
                    started=started,
                    progress=progress,
                    session_started=session,
                    goes_on=lambda gone: self._keep_slot(run, gone),
                    uses=uses,
                    may_ask=self._questions.may_ask(task.queue),
                    usd_left=usd_left,
                    usd_left_of=usd_left_of,
                    messages=run.messages if converses else None,
                    when_safe=when_safe,
                    moved=moved,
                    windows=windows,
                    transcript=transcript,
                    stored=self._sessions if transcript.wanted else None,
                )
            )
            return self._transcripts.clean(run.claim, outcome)
        except Snooze:
            raise
        except OSError as error:
            return replace(Outcome.infrastructure(f"{type(error).__name__}: {error}"), usage=run.used())
        except Exception as error:  # an executor's defect must cost this task an attempt, not the worker its life
            log.exception("executor %s failed", executor.name, extra=_fields(task))
            failure = Outcome.failed(f"executor {executor.name}: {type(error).__name__}: {error}")
            return replace(failure, usage=run.used())
        finally:
            self._transcripts.run_ended(run.claim)

    def _keep_slot(self, run: Running, gone: "asyncio.Future[None]") -> None:
        """A thread of the run cannot be ended. When all slots are lost so, another process has to begin anew."""
        self._slots.hold(run.claim)
        what = f"a thread of task {run.task.task_id} (executor {run.executor}) goes on after its end"
        log.error("%s, and keeps its slot", what, extra=_fields(run.task))
        self._problems.report(
            ProblemKind.STUCK_RUN,
            run.task.task_id,
            f"{what}, and keeps a slot",
            "set isolation: process for the executor, which ends a handler in time; a restart of the worker ends the thread",
        )
        gone.add_done_callback(lambda _: self._slot_is_back(run))
        if len(self._slots.held) >= self._slots.size:
            self._crashed("last free slot", NoSlotLeft("a thread that cannot be ended keeps each slot of this worker"))

    def _slot_is_back(self, run: Running) -> None:
        self._slots.let_go(run.claim)
        self._problems.clear(ProblemKind.STUCK_RUN, run.task.task_id)
        log.info("the thread has ended, its slot is free again", extra=_fields(run.task))
        self._wakeups.slot_freed(key=False)

    async def _give_up(self, run: Running, outcome: Outcome) -> None:
        """A drain gives the task back uncounted. A lost lease leaves no result to write: another worker has the claim. What the run
        used is recorded all the same."""
        if used := self._usage(run, outcome):
            await self._record_usage(run, used)
        if run.stop.cause is StopCause.DRAIN:
            await self._release(run, StopCause.DRAIN, _session(run, outcome))
            if outcome.portable is not None:  # what it has done in its directory was not pushed
                self._sessions.run_ended(run.claim, portable=False)
        self._free(run, unrecorded=False)

    async def _snooze(self, run: Running, snooze: Snooze) -> None:
        """It could not even begin. Uncounted, and the slot is for other tasks meanwhile."""
        released = await self._release(run, str(snooze), None, delay=snooze.seconds, host=snooze.host)
        self._free(run, unrecorded=False)
        if released and snooze.host is None:
            self._wakeups.due_in(snooze.seconds)

    def _usage(self, run: Running, outcome: Outcome) -> tuple[UsageRow, ...]:
        """What the ledger gets of a run. One that used nothing is in it where a budget counts runs."""
        usage = outcome.usage
        if not usage and self._budgets.counts_runs(run.task, run.account):
            usage = (ModelUsage(""),)
        return usage_rows(run.task, run.executor, run.account, usage) if usage else ()

    async def _record_usage(self, run: Running, used: tuple[UsageRow, ...]) -> None:
        rows = sanitize_usage(used)
        outage = db.outage(log, "cannot record what a run used", "recorded what it used", level=logging.DEBUG)
        deadline = time.monotonic() + RELEASE_SECONDS
        while True:
            try:
                await self._store.record_usage(rows)
                return
            except db.DATABASE_ERRORS as error:
                if time.monotonic() > deadline or isinstance(error, db.LaneClosed) or not db.is_transient(error):
                    why = db.reason(error)
                    log.warning("what this run used is missing in agent_usage: %s", why, extra=_fields(run.task))
                    return
                await outage.wait(error)

    async def _release(
        self, run: Running, why: str, session_id: str | None, *, delay: float = 0.0, host: str | None = None
    ) -> bool:
        outage = db.outage(log, "cannot release a task", "released", level=logging.DEBUG)
        deadline = time.monotonic() + RELEASE_SECONDS
        while True:
            try:
                released = await self._store.release([(run.claim, session_id)], why, delay=delay, prefer=host)
                if not released.claims:
                    self._reconcile.set()  # the row is another worker's by now, or the database refuses it
                    return False
                log.info("released: %s", why, extra=_fields(run.task))
                if released.needed:
                    self._wakeups.poll_soon()  # the poll tells the settler
                return True
            except db.DATABASE_ERRORS as error:
                if time.monotonic() > deadline or isinstance(error, db.LaneClosed):
                    log.warning(
                        "could not release, the fleet will rescue it: %s", db.reason(error), extra=_fields(run.task)
                    )
                    return False
                await outage.wait(error)

    def _free(self, run: Running, *, unrecorded: bool, light: bool = False) -> None:
        self._locks.run_ended(run.task.fencing_token)
        self._messages.forget(run.claim)
        self._traces.forget(run.claim)
        # The completer may have recorded it already, between the submission and here.
        self._slots.give_back(run.claim, unrecorded=unrecorded and run.claim in self._slots.unrecorded, light=light)
        self._wakeups.slot_freed(key=run.task.concurrency_key is not None or run.task.continued is not None)
        self._observer.run_ended(run.task)

    # ── the result ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _measure(self, run: Running, outcome: Outcome, seconds: float) -> None:
        labels = (run.task.queue, run.executor, outcome.kind.value)
        self._metrics.finished.labels(*labels).inc()
        self._metrics.duration.labels(*labels).observe(seconds)
        if outcome.usage:
            self._metrics.record_usage(run.account, outcome.usage)
        if outcome.checked is not None:
            self._metrics.record_checks(run.executor, outcome.checked, run.task.fencing_token)
        if outcome.failure_kind is FailureKind.UNVERIFIED:
            self._metrics.unverified.labels(run.task.queue, run.executor).inc()
        space = outcome.extra.get("workspace")
        if isinstance(space, dict) and isinstance(pushed := space.get("pushed"), bool):
            self._metrics.pushes.labels(run.executor, "pushed" if pushed else "failed").inc()
        if (denied := outcome.extra.get(DENIED)) and isinstance(denied, int):
            self._metrics.questions_denied.labels(run.executor).inc(denied)

    def _result(self, run: Running, outcome: Outcome, seconds: float) -> RunResult:
        task = run.task
        detail: dict[str, object] = {"executor": run.executor, "attempt": task.attempt}
        if run.account is not None:
            detail["account"] = run.account
        if "workspace" in outcome.extra:
            detail["workspace"] = outcome.extra["workspace"]
        asked = outcome.asked if outcome.kind is OutcomeKind.ASKED else None
        if outcome.usage and (asked is not None or task.answers):  # each run's share, where several make one result
            detail["usage"] = [usage.document() for usage in outcome.usage]
        attempts = task.infra_count if outcome.kind is OutcomeKind.INFRASTRUCTURE else task.retry_count
        at_once = asked is not None or outcome.kind is OutcomeKind.SUCCEEDED
        rests = outcome.rest_seconds
        result = RunResult(
            task_id=task.task_id,
            fencing_token=task.fencing_token,
            outcome=outcome.kind.value,
            output=self._output_data(run, outcome, seconds),
            error=outcome.error,
            failure_kind=outcome.failure_kind.value if outcome.failure_kind else None,
            execution_ms=int(seconds * 1000),
            retry_delay_seconds=rests if rests is not None else 0.0 if at_once else self._retry.delay(attempts),
            final=outcome.final,
            # A worker that does not know questions may find this result in a spool: it gives the task back uncounted.
            uncounted=outcome.uncounted or asked is not None,
            agent_session_id=_session(run, outcome),
            worker_id=self._worker_id,
            queue=task.queue,
            executor=run.executor,
            detail=detail,
            question=None if asked is None else asked.document(),
            answer_within=None if asked is None else asked.within_seconds,
            usage=self._usage(run, outcome),
        )
        if outcome.checked is not None:
            result.checks = [check.trail(run.executor) for check in outcome.checked.checks]
        # Output from outside may hold characters that the database cannot store. An empty result needs no check.
        foreign = outcome.output is not None or outcome.error or outcome.extra or result.agent_session_id
        return sanitize_result(result) if foreign or result.usage or outcome.checked else result

    def _output_data(self, run: Running, outcome: Outcome, seconds: float) -> dict[str, object]:
        task = run.task
        output: dict[str, object] = {
            "output": outcome.output,
            "execution_time": round(seconds, 6),
            "worker_id": self._worker_id,
        }
        if len(executors_of(self._routes, task.task_type)) > 1:
            output["executor"] = run.executor
        if run.account is not None:
            output["account"] = run.account
        if outcome.truncated:
            output["truncated"] = True
        if outcome.usage:
            output["usage"] = [usage.document() for usage in outcome.usage]
        if task.earlier_runs:
            output["earlier_runs"] = [dict(earlier) for earlier in task.earlier_runs]
        if outcome.log:
            output["log"] = outcome.log
        output.update(outcome.extra)
        if outcome.checked is not None:
            output["check"] = outcome.checked.document()
        return output


def _session(run: Running, outcome: Outcome) -> str | None:
    """The session that a retry may resume; '' when it must not resume any (the executor's last word counts)."""
    return run.session_id if outcome.session_id is None else outcome.session_id


def _log_end(task: Task, outcome: Outcome, seconds: float, level: int) -> None:
    if log.isEnabledFor(level):
        error = f": {outcome.error}" if outcome.error else ""
        if outcome.asked is not None:
            error = f": {outcome.asked.question.text[:200]}"
        log.log(level, "%s in %.1f s%s", outcome.kind.value, seconds, error, extra=_fields(task))


def _fields(task: Task) -> dict[str, object]:
    return {"task": task.task_id, "attempt": task.attempt}
