"""The traces of tasks, where telemetry is configured (docs/how-to/traces.md).

    begin: the task's trace, and TRACEPARENT for its program ──▶ run ended: its spans ──▶ result recorded: the task's own span

Nothing here fails a task, and a database that does not answer holds one up for LOOK_SECONDS at most: it then runs without a trace.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from turbo import db
from turbo.db.result_store import ResultAnswer
from turbo.db.trace_store import TraceStore
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.domain.result import RunResult
from turbo.domain.run import Running
from turbo.domain.states import FINAL, TaskState
from turbo.domain.task import Task
from turbo.domain.trace import Span, TaskTrace, TraceContext
from turbo.runtime.service import Crashed, Jobs

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
END_SECONDS = 2.0
"""At a stop of the worker, for the spans of its last results."""


class Exports(Protocol):
    """See turbo.observability.otlp.SpanExport."""

    def start(self) -> None: ...
    def add(self, span: Span) -> None: ...
    def close(self) -> None: ...


class NoTraces:
    """Telemetry is not configured."""

    async def begin(self, run: Running) -> Task:
        return run.task

    def run_ended(self, run: Running, outcome: Outcome) -> None: ...
    def forget(self, claim: ClaimRef) -> None: ...
    def recorded(self, result: RunResult, answer: ResultAnswer) -> None: ...


NO_TRACES = NoTraces()


class Traces:
    """A service of the worker, and what its runner and completer tell of tasks."""

    name = "traces"

    def __init__(self, store: TraceStore, exports: Exports) -> None:
        self._store = store
        self._exports = exports
        self._runs: dict[ClaimRef, TaskTrace] = {}
        self._jobs = Jobs()
        self._outage = db.outage(log, "cannot look up traces", "looking up traces again", level=logging.DEBUG)
        self.started = asyncio.Event()

    def start(self, crashed: Crashed) -> None:
        """See Service."""
        self._jobs.report_to(crashed)
        self._exports.start()
        self.started.set()

    async def stop(self) -> None:
        """See Service."""
        if self.started.is_set():
            self.started.clear()
            await self._jobs.ended(END_SECONDS)
            await self._jobs.close()
            await asyncio.to_thread(self._exports.close)

    async def begin(self, run: Running) -> Task:
        """The task as its program sees it: with the span of its run."""
        try:
            found = await self._store.traced(run.task.task_id, LOOK_SECONDS)
        except (*db.DATABASE_ERRORS, TimeoutError) as error:
            self._outage.failed(error)
            return run.task
        self._outage.over()
        if found is None:
            return run.task
        self._runs[run.claim] = found.trace
        return replace(run.task, traceparent=_run_span(found.trace, run.task.fencing_token).header())

    def run_ended(self, run: Running, outcome: Outcome) -> None:
        """The spans of one run: how long it waited, the run, its turns and checks."""
        if (trace := self._runs.pop(run.claim, None)) is not None:
            for span in _spans(trace, run, outcome, time.time()):
                self._exports.add(span)

    def forget(self, claim: ClaimRef) -> None:
        """The slot is free: no run_ended follows."""
        self._runs.pop(claim, None)

    def recorded(self, result: RunResult, answer: ResultAnswer) -> None:
        """The span of a task that is over, from its insert to its end."""
        if answer.becomes in FINAL and self.started.is_set():
            self._jobs.start(self._task_ended(result, answer.becomes), "trace of a task")

    async def _task_ended(self, result: RunResult, becomes: TaskState | None) -> None:
        try:
            found = await self._store.traced(result.task_id, LOOK_SECONDS)
        except (*db.DATABASE_ERRORS, TimeoutError) as error:
            self._outage.failed(error)
            return
        if found is None or found.completed is None:
            return
        about: dict[str, str | int | float] = {
            "turbo.task.id": result.task_id[:200],
            "turbo.task.type": found.task_type,
            "turbo.queue": found.queue,
            "turbo.status": str(becomes),
            "turbo.attempts": found.retry_count + 1,
        }
        failed = becomes is TaskState.FAILED
        trace = found.trace
        self._exports.add(
            Span("turbo.task", trace.task, trace.inserter, trace.created, found.completed, about, failed=failed)
        )


def _run_span(trace: TaskTrace, token: int) -> TraceContext:
    return trace.part("run", token)


def _spans(trace: TaskTrace, run: Running, outcome: Outcome, end: float) -> Iterable[Span]:
    task, token = run.task, run.task.fencing_token
    begin = end - (time.monotonic() - run.claimed_at)
    span = _run_span(trace, token)
    about: dict[str, str | int | float] = {
        "turbo.task.id": task.task_id[:200],
        "turbo.task.type": task.task_type[:200],
        "turbo.queue": task.queue[:200],
        "turbo.attempt": task.attempt,
        "turbo.executor": run.executor,
        "turbo.outcome": outcome.kind.value,
    }
    for name, value in (
        ("gen_ai.usage.input_tokens", sum(used.input_tokens for used in outcome.usage)),
        ("gen_ai.usage.output_tokens", sum(used.output_tokens for used in outcome.usage)),
        ("turbo.cost_usd", sum(used.cost_usd or 0.0 for used in outcome.usage)),
    ):
        if outcome.usage:
            about[name] = value
    waited = begin - max(0.0, task.waited_seconds)
    yield Span("turbo.wait", trace.part("wait", token), trace.task, waited, begin, {"turbo.queue": task.queue[:200]})
    bad = outcome.kind not in (OutcomeKind.SUCCEEDED, OutcomeKind.ASKED, OutcomeKind.CANCELLED)
    yield Span("turbo.run", span, trace.task, begin, end, about, failed=bad)
    turn, at = 1, begin
    for check in outcome.checked.checks if outcome.checked is not None else ():
        ended = _seconds(check.ended_at)
        if check.fencing_token != token or ended is None:
            continue
        checked = max(at, ended - check.seconds)
        yield Span("turbo.turn", trace.part("turn", token, turn), span, at, checked, {"turbo.turn": turn})
        told = {"turbo.check": check.number, "turbo.check.result": check.result.value}
        failed = check.result.value != "passed"
        yield Span("turbo.check", trace.part("check", token, turn), span, checked, ended, told, failed=failed)
        turn, at = turn + 1, ended
    if turn == 1 or (outcome.kind is not OutcomeKind.SUCCEEDED and outcome.failure_kind is not FailureKind.UNVERIFIED):
        yield Span("turbo.turn", trace.part("turn", token, turn), span, at, end, {"turbo.turn": turn})


def _seconds(moment: str) -> float | None:
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return None
