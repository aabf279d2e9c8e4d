"""The runner: one claimed task, from its slot to its result.

    claimed ──route──▶ executor ──Outcome──▶ RunResult ──▶ finisher
                 │                  └── ended by a drain: released, no try; by a lost lease: nothing to write
                 └── no route, unreadable input: failed at once, by itself

No transaction is open while an agent runs, and nothing that a task does (an exception of an executor included) leaves
its own slot.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psycopg

from turbo import db
from turbo.db.claim_store import Queue, ResultAnswer
from turbo.db.connect import Backoff, LaneClosed
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.domain.result import RunResult
from turbo.domain.run import Progress, Run, Running, Snooze
from turbo.domain.states import StopCause
from turbo.domain.task import Task
from turbo.domain.type_filter import executor_of
from turbo.executors.protocol import Executor
from turbo.host.sanitize import sanitize_result
from turbo.observability.metrics import Metrics
from turbo.runtime.background import Background, Crashed
from turbo.worker.completer import Completer
from turbo.worker.slots import Slots

log = logging.getLogger(__name__)

RELEASE_SECONDS = 20.0
KILL_SECONDS = 0.1
"""Between the two cancellations that kill a program."""


class Places(Protocol):
    """Where a run's files go (turbo.host.state_dir)."""

    def work_dir(self, task_id: str) -> Path: ...
    def log_path(self, task_id: str, attempt: int, token: int) -> Path: ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter: uniform in [0, min(max, base * 2^tries)], seconds."""

    base_seconds: float = 2.0
    max_seconds: float = 300.0

    def delay(self, tries: int) -> float:
        return random.uniform(0.0, min(self.max_seconds, self.base_seconds * 2 ** min(tries, 30)))


AfterRun = Callable[[Running, Outcome], Awaitable[Outcome]]


async def _as_it_is(_run: Running, outcome: Outcome) -> Outcome:
    return outcome


class Runner:
    def __init__(
        self,
        worker_id: str,
        executors: Mapping[str, Executor],
        routes: Mapping[str, str],
        queue: Queue,
        slots: Slots,
        finisher: Completer,
        places: Places,
        metrics: Metrics,
        retry: RetryPolicy,
        slot_freed: Callable[[bool], None],
        crashed: Crashed,
    ) -> None:
        self._worker_id = worker_id
        self._executors = executors
        self._routes = routes
        self._queue = queue
        self._slots = slots
        self._finisher = finisher
        self._places = places
        self._metrics = metrics
        self._retry = retry
        self._slot_freed = slot_freed
        self._runs = Background(crashed)
        self._executing: dict[ClaimRef, asyncio.Task[object]] = {}
        self._killing = False
        self.after_run: AfterRun = _as_it_is  # accounts look at an outcome before it is written
        self.progress: Callable[[Running, Progress], None] = lambda _run, _progress: None
        self.run_ended: Callable[[Task], None] = lambda _task: None  # its program is gone
        self.put_off: Callable[[float], None] = lambda _seconds: None  # a task is due again in so many seconds

    # ── starting and stopping ───────────────────────────────────────────────────────────────────────────────────────

    def start(self, task: Task) -> None:
        """Run a claimed task in a slot."""
        name = executor_of(self._routes, task.task_type)
        executor = self._executors.get(name) if name else None
        run = Running(task, name or "none", executor.account if executor else None)
        self._slots.take(run)
        self._runs.start(self._run(run, executor), "run of a task")

    def stop(self, held: ClaimRef, cause: StopCause) -> None:
        """Ask one run to end; it frees its slot once its program is gone."""
        run = self._slots.running.get(held)
        if run is not None and not run.stop.is_set():
            log.info("stopping: %s", cause, extra=_fields(run.task))
            run.stop.set(cause)

    def stop_all(self, cause: StopCause) -> None:
        for held in list(self._slots.running):
            self.stop(held, cause)

    def kill_all(self) -> int:
        """End the programs that still run without any more grace. How many there were."""
        self._killing = True
        self._cancel_executing()  # TERM and its grace once more; the second cancellation is a KILL (turbo.process.running)
        asyncio.get_running_loop().call_later(KILL_SECONDS, self._cancel_executing)
        return len(self._executing)

    def _cancel_executing(self) -> None:
        for job in self._executing.values():
            job.cancel()

    async def ended(self, seconds: float | None) -> bool:
        """Wait until every run has ended, at most `seconds`."""
        return await self._runs.ended(seconds)

    # ── one run ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, run: Running, executor: Executor | None) -> None:
        task = run.task
        durable = executor is not None and executor.durable
        if durable:
            log.info("started", extra=_fields(task))
        try:
            outcome = await self._until_gone(run, executor)
            outcome = await self.after_run(run, outcome)
        except Snooze as wait:
            await self._put_off(run, wait)
            return
        except asyncio.CancelledError:
            self._free(run, unrecorded=False)
            raise
        seconds = time.monotonic() - run.claimed_at
        self._measure(run, outcome, seconds)
        if outcome.kind is OutcomeKind.CANCELLED and run.stop.cause in (StopCause.DRAIN, StopCause.LOST):
            await self._give_up(run, outcome)
            return
        level = logging.DEBUG if not durable else logging.INFO
        if log.isEnabledFor(level):
            log.log(
                level,
                "%s in %.1f s%s",
                outcome.kind.value,
                seconds,
                f": {outcome.error}" if outcome.error else "",
                extra=_fields(task),
            )
        result = self._result(run, outcome, seconds)
        # Known until it is recorded: the slot is not free before the result is safe.
        self._slots.unrecorded.add(run.claim)
        await self._finisher.hand_over(result, durable=durable)
        self._free(run, unrecorded=True)

    async def _until_gone(self, run: Running, executor: Executor | None) -> Outcome:
        """Execute it. A run that was killed is as one that was asked to end, and did."""
        job = asyncio.current_task()
        assert job is not None
        self._executing[run.claim] = job
        try:
            return await self._execute(run, executor)
        except asyncio.CancelledError:
            if not self._killing:
                raise
            while job.uncancel():
                pass
            return Outcome(OutcomeKind.CANCELLED, error="killed: it did not end in time")
        finally:
            del self._executing[run.claim]

    async def _execute(self, run: Running, executor: Executor | None) -> Outcome:
        task = run.task
        if executor is None:
            return Outcome.failed(
                f"no route for task_type {task.task_type!r} and no default: add it under routes in worker.yaml",
                FailureKind.NO_ROUTE,
                final=True,
            )
        if task.input_error is not None:
            return Outcome.failed(task.input_error, FailureKind.BAD_REQUEST, final=True)

        def started(_pid: int) -> None:
            self._metrics.pickup.labels(task.queue).observe(task.waited_seconds + time.monotonic() - run.claimed_at)

        def session(session_id: str) -> None:
            run.session_id = session_id

        try:
            return await executor.run(
                Run(
                    task=task,
                    work_dir=lambda: self._places.work_dir(task.task_id),
                    log_path=lambda: self._places.log_path(task.task_id, task.attempt, task.fencing_token),
                    stop=run.stop,
                    started=started,
                    progress=lambda progress: self.progress(run, progress),
                    session_started=session,
                )
            )
        except Snooze:
            raise
        except OSError as error:
            return Outcome.infrastructure(f"{type(error).__name__}: {error}")
        except Exception as error:  # an executor's own defect must cost this task a try, not the worker its life
            log.exception("executor %s failed", executor.name, extra=_fields(task))
            return Outcome.failed(f"executor {executor.name}: {type(error).__name__}: {error}")

    async def _give_up(self, run: Running, outcome: Outcome) -> None:
        """A drain hands the task back uncounted. A lost lease leaves nothing to write: the claim is somebody else's."""
        if run.stop.cause is StopCause.DRAIN:
            await self._release(run, "drain", _session(run, outcome))
        self._free(run, unrecorded=False)

    async def _put_off(self, run: Running, wait: Snooze) -> None:
        """It could not even begin. No try, and the slot is for others meanwhile."""
        released = await self._release(run, str(wait), None, delay=wait.seconds)
        self._free(run, unrecorded=False)
        if released:
            self.put_off(wait.seconds)

    async def _release(self, run: Running, why: str, session_id: str | None, *, delay: float = 0.0) -> bool:
        backoff = Backoff()
        deadline = time.monotonic() + RELEASE_SECONDS
        while True:
            try:
                await self._queue.release([(run.claim, session_id)], why, delay=delay)
                log.info("released: %s", why, extra=_fields(run.task))
                return True
            except (psycopg.Error, OSError) as error:
                if time.monotonic() > deadline or isinstance(error, LaneClosed):
                    log.warning(
                        "could not release, the fleet will rescue it: %s", db.reason(error), extra=_fields(run.task)
                    )
                    return False
                await asyncio.sleep(backoff.next())

    def _free(self, run: Running, *, unrecorded: bool) -> None:
        self.run_ended(run.task)
        # The finisher may have recorded it already, between the hand-over and here.
        self._slots.give_back(run.claim, unrecorded=unrecorded and run.claim in self._slots.unrecorded)
        self._slot_freed(run.task.concurrency_key is not None)

    def _measure(self, run: Running, outcome: Outcome, seconds: float) -> None:
        labels = (run.task.queue, run.executor, outcome.kind.value)
        self._metrics.finished.labels(*labels).inc()
        self._metrics.duration.labels(*labels).observe(seconds)
        if outcome.usage and run.account:
            self._metrics.used(run.account, outcome.usage)

    def _result(self, run: Running, outcome: Outcome, seconds: float) -> RunResult:
        task = run.task
        output: dict[str, object] = {
            "output": outcome.output,
            "execution_time": round(seconds, 6),
            "worker_id": self._worker_id,
        }
        if outcome.truncated:
            output["truncated"] = True
        if outcome.usage:
            output["usage"] = [
                {
                    "model": u.model,
                    "input_tokens": u.input_tokens,
                    "output_tokens": u.output_tokens,
                    "cache_read_tokens": u.cache_read_tokens,
                    "cache_write_tokens": u.cache_write_tokens,
                    "cost_usd": u.cost_usd,
                }
                for u in outcome.usage
            ]
        if outcome.log:
            output["log"] = outcome.log
        output.update(outcome.extra)
        detail: dict[str, object] = {"executor": run.executor, "attempt": task.attempt}
        if "workspace" in outcome.extra:
            detail["workspace"] = outcome.extra["workspace"]
        tries = task.infra_count if outcome.kind is OutcomeKind.INFRASTRUCTURE else task.retry_count
        result = RunResult(
            task_id=task.task_id,
            fencing_token=task.fencing_token,
            outcome=outcome.kind.value,
            output=output,
            error=outcome.error,
            failure_kind=outcome.failure_kind.value if outcome.failure_kind else None,
            execution_ms=int(seconds * 1000),
            retry_delay_seconds=0.0 if outcome.kind is OutcomeKind.SUCCEEDED else self._retry.delay(tries),
            final=outcome.final,
            uncounted=outcome.uncounted,
            agent_session_id=_session(run, outcome),
            worker_id=self._worker_id,
            queue=task.queue,
            executor=run.executor,
            detail=detail,
        )
        # What came from outside may hold what the database cannot. Of nothing there is nothing to look through.
        foreign = outcome.output is not None or outcome.error or outcome.extra or result.agent_session_id
        return sanitize_result(result) if foreign or outcome.usage else result

    def recorded(self, result: RunResult, answer: ResultAnswer) -> float | None:
        """The finisher's answer. Returns in how many seconds the task is due again, if it was put off."""
        if answer.verdict != "recorded" or answer.becomes not in ("scheduled", "pending"):
            return None
        if result.outcome != OutcomeKind.CANCELLED.value:
            self._metrics.retries.labels(result.queue, result.failure_kind or FailureKind.ERROR.value).inc()
        return result.retry_delay_seconds if answer.becomes == "scheduled" else None


def _session(run: Running, outcome: Outcome) -> str | None:
    """The session a retry may resume; '' when it must not resume any (the executor's last word counts)."""
    return run.session_id if outcome.session_id is None else outcome.session_id


def _fields(task: Task) -> dict[str, object]:
    return {"task": task.task_id, "attempt": task.attempt}
