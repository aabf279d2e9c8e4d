"""The clients' operation that reads the fleet's status."""

from turbo.client import answering
from turbo.client.fleet_status import (
    QUESTIONS_LISTED,
    QUEUES_LISTED,
    STRANDED_LOOKED_AT,
    WINDOW_SECONDS,
    AccountLine,
    FinishedLine,
    FleetStatus,
    QueueLine,
    StrandedLine,
    worker_lines,
)
from turbo.client.models import TaskFilter
from turbo.client.operations import Query, Steps


def fleet(window_seconds: float = WINDOW_SECONDS) -> Steps[FleetStatus]:
    return FleetStatus(
        worker_lines((yield Query("status/workers")).rows),
        [QueueLine(**row) for row in (yield Query("status/queues", {"limit": QUEUES_LISTED})).rows],
        [AccountLine(**row) for row in (yield Query("status/accounts")).rows],
        [FinishedLine(**row) for row in (yield Query("status/finished", {"seconds": window_seconds})).rows],
        window_seconds,
        (yield from answering.questions(TaskFilter(), None, None, QUESTIONS_LISTED)),
        [StrandedLine(**row) for row in (yield Query("status/stranded", {"most": STRANDED_LOOKED_AT})).rows],
    )
