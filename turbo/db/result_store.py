"""Statements about the end of a run: record results, and give tasks back."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import psycopg

from turbo.db.connect import Connection
from turbo.db.errors import is_about_one_row
from turbo.db.lane import Lane
from turbo.db.refusals import Refusals
from turbo.db.store import Row, Store, claim_columns, rows
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.question import MOST_QUESTIONS
from turbo.domain.result import RunResult
from turbo.domain.states import FINAL, RowStatement, TaskState, Verdict, task_state
from turbo.domain.usage import UsageRow

INFRA_CAP = 5
"""Rescues and infrastructure outcomes of one task before it fails as poison: a task that kills its worker must not take
down the fleet, worker by worker."""


@dataclass(frozen=True, slots=True)
class ResultAnswer:
    """What the database answers to one result.

    `becomes` is the task's new status. None: not recorded, or a status that only an adopted table has. `needed`: other tasks
    wait for this one, and it is over: the settler is to be told."""

    task_id: str
    token: int
    verdict: Verdict
    becomes: TaskState | None
    needed: bool = False


@dataclass(frozen=True, slots=True)
class Released:
    """Claims that were given back. `needed`: one of their tasks is over, because a person asked for that, and others wait for
    it: the settler is to be told."""

    claims: tuple[ClaimRef, ...] = ()
    needed: bool = False

    def __add__(self, more: "Released") -> "Released":
        return Released(self.claims + more.claims, self.needed or more.needed)


class ResultStore(Store):
    """Bound to one worker, on `host`: a task that asks is pinned to it, and one that is over keeps its name. Results go over a
    lane that no claim uses: a long batch of them never holds up a claim."""

    def __init__(
        self,
        lane: Lane,
        worker_id: str,
        refusals: Refusals,
        *,
        host: str,
        used: Callable[[], None] = lambda: None,
    ) -> None:
        """`used` is called when what runs used is recorded."""
        super().__init__(lane)
        self._worker_id = worker_id
        self._refusals = refusals
        self._host = host
        self._used = used

    async def finish(
        self, results: Sequence[RunResult], answers: list[ResultAnswer] | None = None
    ) -> list[ResultAnswer]:
        """Record a batch with its audit trail: its questions in one transaction (sql/tasks/ask.sql), then all other results
        in another (sql/tasks/finish.sql); and with each what its runs used. Every result gets an answer.

        Those with checks come first among either, each kind in a transaction with its checks (sql/tasks/checked.sql).
        If one raises, what came before it is recorded all the same. `answers` has the answers to that then; a replay answers
        `already`."""
        answers = [] if answers is None else answers
        if not any(result.checks or result.outcome == OutcomeKind.ASKED for result in results):
            answers += await self._finish(results)
            return answers
        for record, asked in ((self._ask, True), (self._finish, False)):
            for checked in (True, False):
                some = [r for r in results if (r.outcome == OutcomeKind.ASKED) is asked and bool(r.checks) is checked]
                if some:
                    answers += await record(some)
        return answers

    async def _finish(self, results: Sequence[RunResult]) -> list[ResultAnswer]:
        return await self._record("tasks/finish", results, {"infra_cap": INFRA_CAP, "host": self._host})

    async def _ask(self, results: Sequence[RunResult]) -> list[ResultAnswer]:
        return await self._record("tasks/ask", results, {"host": self._host, "most": MOST_QUESTIONS})

    async def _record(
        self, statement: str, results: Sequence[RunResult], parameters: dict[str, object]
    ) -> list[ResultAnswer]:
        """Of results that all have checks, or that all have none."""
        documents = json.dumps([_document(result, self._worker_id) for result in results])
        parameters = {**parameters, "worker": self._worker_id, "results": documents}
        checks = [
            {"task_id": result.task_id, "worker": result.worker_id or self._worker_id, **check}
            for result in results
            for check in result.checks
        ]
        used = [row for result in results for row in result.usage]
        if checks or used:
            found = await self._use(lambda connection: _together(connection, statement, parameters, checks, used))
            if used:
                self._used()
        else:
            found = await self._rows(statement, parameters)
        return [
            ResultAnswer(task_id, token, Verdict(verdict), task_state(becomes), bool(needed) and becomes in FINAL)
            for task_id, token, verdict, becomes, needed, _told in found
        ]

    async def record_usage(self, used: Sequence[UsageRow]) -> None:
        """Record what runs used that leave no result (sql/tasks/usage.sql)."""
        await self._run("tasks/usage", _usage(used))
        self._used()

    async def release(
        self,
        claims: Iterable[tuple[ClaimRef, str | None]],
        reason: str,
        *,
        delay: float = 0.0,
        prefer: str | None = None,
    ) -> Released:
        """Give tasks back uncounted, each with the agent's session id where one is to be resumed.

        They can be claimed again in `delay` seconds; with `prefer`, by workers of that host only. One whose row the database
        refuses stays running, with nobody who knows it: an orphan (sql/tasks/reconcile.sql)."""
        items = list(claims)
        try:
            return await self._release(items, reason, delay, prefer)
        except psycopg.Error as error:
            if not is_about_one_row(error):
                raise
            if len(items) == 1:
                self._refusals.refused(RowStatement.RELEASE, items[0][0].task_id, error)
                return Released()
        half = len(items) // 2
        first = await self.release(items[:half], reason, delay=delay, prefer=prefer)
        return first + await self.release(items[half:], reason, delay=delay, prefer=prefer)

    async def _release(
        self, items: Sequence[tuple[ClaimRef, str | None]], reason: str, delay: float, prefer: str | None
    ) -> Released:
        parameters = {
            "worker": self._worker_id,
            **claim_columns(claim for claim, _ in items),
            "session": [session for _, session in items],
            "reason": reason,
            "delay": delay,
            "prefer": prefer,
            "host": self._host,
        }
        found = await self._rows("tasks/release", parameters)
        return Released(tuple(ClaimRef(row[0], row[1]) for row in found), any(row[3] for row in found))


async def _together(
    connection: Connection,
    statement: str,
    parameters: Mapping[str, object],
    checks: Sequence[Mapping[str, object]],
    used: Sequence[UsageRow],
) -> list[Row]:
    """The rows of `statement`, sent in one transaction with what its results bring: their checks, and what their runs used."""
    async with connection.transaction():
        if checks:
            await rows(connection, "tasks/checked", {"worker": parameters["worker"], "checks": json.dumps(checks)})
        found = await rows(connection, statement, parameters, "checked" if checks else None)
        if used:
            await rows(connection, "tasks/usage", _usage(used))
        return found


def _usage(used: Iterable[UsageRow]) -> dict[str, object]:
    return {"usage": json.dumps([asdict(row) for row in used])}


def _document(result: RunResult, worker_id: str) -> dict[str, object]:
    """One result as sql/tasks/finish.sql and sql/tasks/ask.sql read it. Usual values are left out: server and
    client pay for every word."""
    document: dict[str, object] = {
        "task_id": result.task_id,
        "token": result.fencing_token,
        "outcome": result.outcome,
        "output": result.output,
        "ms": result.execution_ms,
    }
    if result.detail:
        document["detail"] = result.detail
    if result.worker_id != worker_id:
        document["worker"] = result.worker_id
    if result.retry_delay_seconds:
        document["delay"] = result.retry_delay_seconds
    if result.final:
        document["final"] = True
    if result.uncounted:
        document["uncounted"] = True
    if result.error is not None:
        document["error"] = result.error
    if result.failure_kind is not None:
        document["kind"] = result.failure_kind
    if result.agent_session_id is not None:
        document["session"] = result.agent_session_id
    if result.question is not None:
        document["question"] = result.question
    if result.answer_within is not None:
        document["within"] = result.answer_within
    return document
