"""Polls: promote what is due, end the wait of questions whose time is over, and read what changed."""

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from turbo.db.account_store import AccountRow, pause_reason
from turbo.db.budget_store import read_budgets
from turbo.db.connect import Connection
from turbo.db.positions import rows_after
from turbo.db.refusals import Refusals
from turbo.db.row_by_row import Ref, RefusedRows, Work, fail_as_poison
from turbo.db.store import ids_of, rows
from turbo.domain.budget import Budget
from turbo.domain.states import AccountState, RowStatement, TaskState
from turbo.sql import Variant

MOST_DUE = 1000
"""Rows that one statement promotes, or whose wait it ends, as in tasks/poll.sql and tasks/expire.sql."""


@dataclass(frozen=True, slots=True)
class PollResult:
    """What a poll saw.

    `next_in`: seconds until the next scheduled task is due, a question's time is over, or a task that waits for another host may be
    taken here; None without one.
    `again_in`: seconds after which to poll again because of refused rows. `asked_at`: when it was sent, in monotonic
    seconds: it cannot have seen what this process wrote later. `unsettled`: there is something for the settler
    (turbo.worker.settler). `messages`: some are open. `conversations`: there are some. `schedule_in`: seconds until the next slot of
    any schedule; 0 or less: now. `limits`: there are limits of keys. `budgets`: all of them; `fold`: usage is to be added to
    them. `clock`: the database's, in seconds since 1970. `ended_below`: transactions with lower ids had ended, and are seen.
    `begun_below`: transactions with this id or a higher one had not begun.
    """

    due: int
    next_in: float | None
    runnable: tuple[str, ...]
    stop: tuple[str, ...]
    accounts: tuple[AccountRow, ...] = ()
    asked_at: float = 0.0
    ended_below: int = 0
    begun_below: int = 0
    again_in: float | None = None
    unsettled: bool = False
    messages: bool = False
    conversations: bool = False
    limits: bool = False
    schedule_in: float | None = None
    budgets: tuple[Budget, ...] = ()
    fold: bool = False
    clock: float = 0.0


@dataclass(frozen=True, slots=True)
class _Expired:
    """What tasks/expire.sql did. `next_in`: seconds until the next deadline. `needed`: others wait for a task that failed."""

    count: int
    runnable: tuple[str, ...] = ()
    next_in: float | None = None
    needed: bool = False


class Polls:
    """Bound to one worker. `accounts`: those whose breakers a poll reads, on `host`. `stay_seconds`: after which this worker may take
    tasks that wait for another host."""

    def __init__(
        self, worker_id: str, refusals: Refusals, *, host: str, accounts: Sequence[str], stay_seconds: float
    ) -> None:
        self._worker_id = worker_id
        self._host = host
        self._accounts = list(accounts)
        self._stay = stay_seconds
        self._unpromoted = RefusedRows(RowStatement.PROMOTION, refusals)
        self._unexpired = RefusedRows(RowStatement.PROMOTION, refusals)

    async def poll(self, connection: Connection, queues: Sequence[str]) -> PollResult:
        """Promote due tasks of `queues`, let questions expire, and read what changed."""
        result, deadline_in = await self._promote(connection, queues)
        if deadline_in is None or deadline_in > 0:
            return replace(result, next_in=_first(result.next_in, deadline_in))
        expired = await self._expire(connection, queues)
        return replace(
            result,
            due=result.due + expired.count,
            next_in=_first(result.next_in, expired.next_in),
            runnable=tuple(dict.fromkeys(result.runnable + expired.runnable)),
            unsettled=result.unsettled or expired.needed,
            again_in=_first(result.again_in, self._unexpired.again_in),
        )

    async def _promote(self, connection: Connection, queues: Sequence[str]) -> tuple[PollResult, float | None]:
        """What the poll saw, and in how many seconds the first deadline of a question is: not above 0 if it has passed."""
        name = "tasks/poll"
        parameters: dict[str, object] = {
            "worker": self._worker_id,
            "queues": list(queues),
            "accounts": self._accounts,
            "host": self._host,
            "stay": self._stay,
        }
        if len(queues) == 1:
            name, parameters["queue"] = "tasks/poll_one", queues[0]

        async def send(variant: Variant | None, ids: Sequence[str]) -> tuple[PollResult, float | None]:
            return await _poll(connection, name, {**parameters, **ids_of(variant, ids)}, variant)

        refused = self._unpromoted
        answers, failed = await refused.run(
            Work(
                send,
                lambda aside: _which(connection, name, parameters, aside),
                wrote=lambda answer: answer[0].due,
                fail=functools.partial(self._fail, connection, TaskState.SCHEDULED),
                reads=True,
                after=functools.partial(rows_after, connection, "tasks/poll_after", {"queues": list(queues)}),
            )
        )
        if failed is not None:
            raise failed
        result, deadline_in = answers[-1]
        if refused.any:
            result = replace(result, due=sum(answer.due for answer, _ in answers), again_in=refused.again_in)
        return result, deadline_in

    async def _expire(self, connection: Connection, queues: Sequence[str]) -> _Expired:
        parameters: dict[str, object] = {"worker": self._worker_id, "queues": list(queues)}

        async def send(variant: Variant | None, ids: Sequence[str]) -> _Expired:
            (row,) = await rows(connection, "tasks/expire", {**parameters, **ids_of(variant, ids)}, variant)
            count, runnable, needed, next_in, _ = row
            return _Expired(count, tuple(runnable), 0.0 if count >= _portion(queues) else next_in, bool(needed))

        answers, failed = await self._unexpired.run(
            Work(
                send,
                lambda aside: _which(connection, "tasks/expire", parameters, aside),
                wrote=lambda answer: answer.count,
                fail=functools.partial(self._fail, connection, TaskState.WAITING),
                reads=True,
                after=functools.partial(rows_after, connection, "tasks/poll_after", {"queues": list(queues)}),
            )
        )
        if failed is not None:
            raise failed
        return _Expired(
            count=sum(answer.count for answer in answers),
            runnable=tuple(queue for answer in answers for queue in answer.runnable),
            next_in=answers[-1].next_in,
            needed=any(answer.needed for answer in answers),
        )

    async def _fail(self, connection: Connection, status: TaskState, ref: Ref, error: str, audit: bool) -> bool:
        return await fail_as_poison(connection, self._worker_id, RowStatement.PROMOTION, status, ref, error, audit)


async def _poll(
    connection: Connection, name: str, parameters: Mapping[str, object], variant: Variant | None
) -> tuple[PollResult, float | None]:
    asked_at = time.monotonic()
    (row,) = await rows(connection, name, parameters, variant)
    due, next_in, deadline_in, stay_in, runnable, stop, accounts, unsettled, messages, conversations, *more = row
    limits, schedule_in, clock, budgets, ended_below, begun_below, _ = more
    breakers = tuple(
        AccountRow(a["account"], a["host"], AccountState(a["state"]), pause_reason(a["reason"]), a["in"], a["probed"])
        for a in accounts or ()
    )
    queues = parameters["queues"]
    assert isinstance(queues, list)
    result = PollResult(
        due=due,
        next_in=0.0 if due >= _portion(queues) else _first(next_in, stay_in),  # 0: more may be due now
        runnable=tuple(runnable),
        stop=tuple(stop),
        accounts=breakers,
        asked_at=asked_at,
        ended_below=ended_below,
        begun_below=begun_below,
        unsettled=unsettled,
        messages=messages,
        conversations=conversations,
        limits=limits,
        schedule_in=schedule_in,
        budgets=read_budgets(budgets),
        fold=budgets is not None and bool(budgets["fold"]),
        clock=clock,
    )
    return result, deadline_in


async def _which(
    connection: Connection, name: str, parameters: Mapping[str, object], aside: Sequence[str]
) -> list[Ref]:
    found = await rows(connection, name, {**parameters, "aside": list(aside)}, "which")
    return [(task_id, token) for task_id, token in found]


def _portion(queues: Sequence[str]) -> int:
    """Rows of one queue that one statement takes, when all have so many."""
    return max(1, MOST_DUE // max(1, len(queues)))


def _first(*seconds: float | None) -> float | None:
    return min((one for one in seconds if one is not None), default=None)
