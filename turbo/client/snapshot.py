"""The clients' operation that reads the fleet's status."""

import psycopg

from turbo.client import answering, budget_status, limits, placement, schedule_status, subscription_status, work
from turbo.client.fleet_status import (
    ACCOUNTS_LISTED,
    BLOCKED_LISTED,
    COUNTED,
    HOSTS_LISTED,
    QUESTIONS_LISTED,
    QUEUES_LISTED,
    SETTLING_SCHEMA,
    STRANDED_EACH,
    STRANDED_LOOKED_AT,
    WINDOW_SECONDS,
    WORKERS_LISTED,
    FinishedLine,
    FleetStatus,
    QueueLine,
    RunningLine,
    StrandedLine,
    UnsettledLine,
    WindowLine,
    account_lines,
    left_out,
    running_line,
    unsettled_lines,
    window_lines,
    worker_lines,
)
from turbo.client.graph import Blocked
from turbo.client.models import TaskFilter
from turbo.client.operations import Query, Steps


def fleet(window_seconds: float = WINDOW_SECONDS) -> Steps[FleetStatus]:
    workers = (yield Query("status/workers", {"limit": WORKERS_LISTED})).rows
    queues = (yield Query("status/queues", {"limit": QUEUES_LISTED})).rows
    accounts = (yield Query("status/accounts", {"limit": ACCOUNTS_LISTED})).rows
    finished = (yield Query("status/finished", {"seconds": window_seconds, "limit": HOSTS_LISTED})).rows
    questions = yield from answering.questions(TaskFilter(), None, None, QUESTIONS_LISTED, whole=False)
    stranded = (yield Query("status/stranded", {"most": STRANDED_LOOKED_AT})).rows
    blocked = (yield from _longest_blocked()) if any(row["blocked"] for row in queues) else []
    left = (yield from unsettled()) if any(row["blocked"] for row in queues) else []
    schedules, more_schedules = yield from schedule_status.troubles()
    budgets, more_budgets = yield from budget_status.troubles()
    subscriptions, more_subscriptions = yield from subscription_status.troubles()
    return FleetStatus(
        worker_lines(workers),
        [QueueLine(**row) for row in queues],
        account_lines(accounts),
        [FinishedLine(**row) for row in finished],
        window_seconds,
        questions,
        [StrandedLine(**row) for row in stranded],
        left_out(workers),
        left_out(accounts),
        blocked,
        left,
        schedules,
        more_schedules,
        (yield from _windows()),
        budgets,
        more_budgets,
        (yield from placement.unplaceable()),
        (yield from limits.full()),
        subscriptions,
        more_subscriptions,
    )


def live() -> Steps[FleetStatus]:
    """What `fleet` has, at a cost that is bounded whatever waits: counts stop at COUNTED, and what has ended is left out. For pages
    that ask again and again."""
    workers = (yield Query("status/workers", {"limit": WORKERS_LISTED})).rows
    rows = (yield Query("top/queues", {"most": COUNTED, "limit": QUEUES_LISTED})).rows
    queues = [QueueLine(**row) for row in rows]
    accounts = (yield Query("status/accounts", {"limit": ACCOUNTS_LISTED})).rows
    stranded = (yield Query("status/stranded", {"most": STRANDED_EACH})).rows
    any_blocked = any(one.blocked for one in queues)
    left = (yield from unsettled()) if any_blocked else []
    schedules, more_schedules = yield from schedule_status.troubles()
    budgets, more_budgets = yield from budget_status.troubles()
    return FleetStatus(
        worker_lines(workers),
        queues,
        account_lines(accounts),
        [],
        0.0,
        stranded=[StrandedLine(**row) for row in stranded],
        more_workers=left_out(workers),
        more_accounts=left_out(accounts),
        unsettled=left,
        schedules=schedules,
        more_schedules=more_schedules,
        windows=(yield from _windows()),
        budgets=budgets,
        more_budgets=more_budgets,
        unplaceable=(yield from placement.unplaceable()),
        full_keys=(yield from limits.full()),
    )


def running(limit: int) -> Steps[list[RunningLine]]:
    """The running tasks, longest first, each with the last line of its agent."""
    return [running_line(row) for row in (yield Query("top/running", {"limit": limit})).rows]


def _longest_blocked() -> Steps[list[Blocked]]:
    """Those that have waited longest for others. None for a role that may not see them."""
    try:
        rows = (yield Query("status/blocked", {"limit": BLOCKED_LISTED})).rows
        found = yield from work.blocked([row["task_id"] for row in rows])
    except psycopg.errors.InsufficientPrivilege:
        return []
    return sorted(found, key=lambda one: -one.seconds)


def _windows() -> Steps[list[WindowLine]]:
    """How much of the accounts' windows is used. None for a role that may not see them, and before schema 20."""
    try:
        rows = (yield Query("status/windows", {"limit": ACCOUNTS_LISTED})).rows
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
        return []
    return window_lines(rows)


def unsettled() -> Steps[list[UnsettledLine]]:
    """Blocked tasks that nobody lets go. None for a role that may not see them."""
    try:
        rows = (yield Query("status/unsettled", {"settling_schema": SETTLING_SCHEMA})).rows
    except psycopg.errors.InsufficientPrivilege:
        return []
    return unsettled_lines(rows)
