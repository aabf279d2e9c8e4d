"""The clients' operation that reads the fleet's status."""

from turbo.client import answering
from turbo.client.fleet_status import (
    ACCOUNTS_LISTED,
    HOSTS_LISTED,
    QUESTIONS_LISTED,
    QUEUES_LISTED,
    STRANDED_LOOKED_AT,
    WINDOW_SECONDS,
    WORKERS_LISTED,
    FinishedLine,
    FleetStatus,
    QueueLine,
    StrandedLine,
    account_lines,
    left_out,
    worker_lines,
)
from turbo.client.models import TaskFilter
from turbo.client.operations import Query, Steps


def fleet(window_seconds: float = WINDOW_SECONDS) -> Steps[FleetStatus]:
    workers = (yield Query("status/workers", {"limit": WORKERS_LISTED})).rows
    queues = (yield Query("status/queues", {"limit": QUEUES_LISTED})).rows
    accounts = (yield Query("status/accounts", {"limit": ACCOUNTS_LISTED})).rows
    finished = (yield Query("status/finished", {"seconds": window_seconds, "limit": HOSTS_LISTED})).rows
    questions = yield from answering.questions(TaskFilter(), None, None, QUESTIONS_LISTED, whole=False)
    stranded = (yield Query("status/stranded", {"most": STRANDED_LOOKED_AT})).rows
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
    )
