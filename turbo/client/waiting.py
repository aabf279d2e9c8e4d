"""Waiting for tasks without polling: `turbo_wait` registers the client, and whatever ends or stops a task then notifies it.

    look ──▶ listen, register ──▶ look, often, until the transactions are over that were open then ──▶ look ──▶ wait until told
                  ▲                                                                                     ▲          │
                  └──── every 20 s, and on a new session ───────────────────────────────────────────────┴──────────┘

A notification only says that there is something to see. The client looks every few seconds anyway, so a lost one costs seconds.
Where nothing can be heard (a pooler, a standby, a role that may not wait, an older schema, a connection of the caller's), it polls:
the pause between two polls is a tenth of the time waited so far, and at most 2 s.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import psycopg

from turbo import db
from turbo.client.graph import NAMED, read_blocked
from turbo.client.models import RunView, TaskStatus, UnknownTask
from turbo.client.operations import Away, Disconnect, Ear, Listen, Query, Sleep, Steps, Stream, T, listed, run
from turbo.domain.states import TaskState
from turbo.runtime.backoff import Backoff

POLL_FIRST_SECONDS = 0.05
POLL_LAST_SECONDS = 2.0
LOOK_FIRST_SECONDS = 0.5
LOOK_LAST_SECONDS = 5.0
"""Of a client that is told: between two looks, which show that a task was claimed, or its last line."""

WAIT_SHARE = 0.1
PROGRESS_SECONDS = 1.0
"""Between two looks at a run: the database has a new line at most once a second."""

FOLLOW_AT_ONCE = 5000
EXPLAINED_AT_ONCE = 20
"""Blocked tasks for which a look asks what they wait for."""

RENEW_SECONDS = 20.0
OLD_SECONDS = 50.0
"""A registration lapses after 60 s. One that was not renewed for so long counts as lapsed."""

REGISTERED_AT_ONCE = 1000
"""A client that waits for more tasks polls until so many are left."""

CANNOT_WAIT = (
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.FeatureNotSupported,
    psycopg.DataError,
)


class Registration:
    """What one wait has registered."""

    def __init__(self) -> None:
        self._ear: Ear | None = None
        self._task_ids: frozenset[str] = frozenset()
        self._at = 0.0
        self._snapshot: str | None = None
        self._over = False
        self._cannot = False

    @property
    def told(self) -> bool:
        """No end can pass unheard."""
        return self._ear is not None and self._over

    def renew(self, task_ids: Sequence[str]) -> Steps[bool]:
        """After each look that found them unfinished. True: look again at once, before you wait."""
        if self._cannot or len(task_ids) > REGISTERED_AT_ONCE:
            return False
        before, self._ear = self._ear, (yield Listen()).ear
        if self._ear is None:
            return False
        age = time.monotonic() - self._at
        anew = before is None or before.session != self._ear.session or not self._task_ids.issuperset(task_ids)
        if anew or age > RENEW_SECONDS:
            try:
                yield Query("client/wait", {"task_id": list(task_ids), "channel": self._ear.channel})
            except CANNOT_WAIT:
                self._cannot, self._ear = True, None
                return False
            self._at, self._task_ids = time.monotonic(), frozenset(task_ids)
            if anew or age > OLD_SECONDS:
                self._over, self._snapshot, anew = False, None, True
        was_over = self._over
        if not was_over:
            (row,) = (yield Query("client/open_transactions", {"snapshot": self._snapshot})).rows
            self._over, self._snapshot = row["over"], row["snapshot"]
        return anew or (self._over and not was_over) or (before is not None and before.heard != self._ear.heard)

    def pause(self, waited: float, timeout: float | None, most: float | None = None) -> Steps[None]:
        """Until the next look, or until something is heard. Seconds; `most`: not longer than that."""
        first, last = (LOOK_FIRST_SECONDS, LOOK_LAST_SECONDS) if self.told else (POLL_FIRST_SECONDS, POLL_LAST_SECONDS)
        seconds = min(last, max(first, waited * WAIT_SHARE)) if most is None else most
        yield Sleep(seconds if timeout is None else min(seconds, max(0.01, timeout - waited)), self._ear)


def follow(
    task_ids: str | Sequence[str], timeout: float | None, *, patient: bool, away: Away | None = None
) -> Stream[list[TaskStatus]]:
    """`patient`: wait through an outage of the database."""
    began = time.monotonic()
    registration = Registration()
    waiting = list(dict.fromkeys(listed(task_ids)))
    while True:
        tasks = yield from _patiently(partial(_statuses, waiting), began, timeout, patient, away)
        if missing := set(waiting) - {task.task_id for task in tasks}:
            raise UnknownTask(f"no task {sorted(missing)[0]!r}")
        yield tasks
        left = [task for task in tasks if not task.finished]
        if not left:
            return
        waiting = [task.task_id for task in left]
        waited = time.monotonic() - began
        if timeout is not None and waited >= timeout:
            what = f"task {waiting[0]} is" if len(waiting) == 1 else f"{len(waiting)} tasks are"
            raise TimeoutError(f"{what} still {left[0].status} after {timeout:g} s")
        if not (yield from _patiently(partial(registration.renew, waiting), began, timeout, patient, away)):
            yield from registration.pause(waited, timeout)


def progress(task_id: str, timeout: float | None, *, patient: bool, away: Away | None = None) -> Stream[RunView]:
    """Yield the run whenever it changes; the last one is finished."""
    began = time.monotonic()
    registration = Registration()
    before: RunView | None = None
    while True:
        now = yield from _patiently(partial(run, task_id), began, timeout, patient, away)
        if now != before:
            yield now
            before = now
        if now.finished:
            return
        waited = time.monotonic() - began
        if timeout is not None and waited >= timeout:
            raise TimeoutError(f"task {task_id} is still {now.status} after {timeout:g} s")
        if not (yield from _patiently(partial(registration.renew, [task_id]), began, timeout, patient, away)):
            yield from registration.pause(waited, timeout, PROGRESS_SECONDS)


def _statuses(task_ids: list[str]) -> Steps[list[TaskStatus]]:
    statuses: list[TaskStatus] = []
    for start in range(0, len(task_ids), FOLLOW_AT_ONCE):
        try:
            rows = (yield Query("client/follow", {"task_id": task_ids[start : start + FOLLOW_AT_ONCE]})).rows
        except psycopg.DataError:  # the id is not valid for the column's type
            return []
        statuses += [TaskStatus(**row) for row in rows]
    return (yield from _explained(statuses))


def _explained(statuses: list[TaskStatus]) -> Steps[list[TaskStatus]]:
    """With what the first of the blocked ones wait for. A role that may not see it is told nothing."""
    blocked = [status.task_id for status in statuses if status.status == TaskState.BLOCKED][:EXPLAINED_AT_ONCE]
    if not blocked:
        return statuses
    try:
        rows = (yield Query("client/blocked", {"task_id": blocked, "most": NAMED})).rows
    except psycopg.errors.InsufficientPrivilege:
        return statuses
    why = {row["task_id"]: read_blocked(row) for row in rows}
    return [
        replace(one, needs=tuple(n.task_id for n in why[one.task_id].waits_for), blocked=why[one.task_id].why)
        if one.task_id in why
        else one
        for one in statuses
    ]


def _patiently(
    operation: Callable[[], Steps[T]], began: float, timeout: float | None, patient: bool, away: Away | None
) -> Steps[T]:
    """The operation's result, once the database answers. Raises TimeoutError if the outage outlasts `timeout`."""
    backoff = Backoff()
    while True:
        try:
            result = yield from operation()
        except psycopg.Error as error:
            if not patient or not db.is_transient(error):
                raise
            if timeout is not None and time.monotonic() - began >= timeout:
                raise TimeoutError(f"the database is away: no answer within {timeout:g} s") from error
            if away is not None and backoff.failures == 0:
                away(error)
            yield Disconnect()
            yield Sleep(backoff.next())
        else:
            if away is not None and backoff.failures:
                away(None)
            return result
