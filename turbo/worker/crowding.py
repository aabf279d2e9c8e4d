"""What a worker does while the server's notification queue fills up: it polls every second, and says so.

    usual ──a heartbeat finds the queue more than half full──▶ crowded ──a heartbeat finds room──▶ usual

The server has one queue for all its databases. A session that listens in an open transaction keeps it from being emptied,
and any login may do that. When it is full, every transaction that notifies fails at its commit. So neither triggers nor workers notify
while it is more than half full (migrations/0008_shared.sql), and inserts wake nobody.
"""

import logging
from typing import Protocol

from turbo.db.channels import CROWDED
from turbo.domain.problem import ProblemKind
from turbo.runtime.problems import Problems

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0


class PollsOften(Protocol):
    """The worker's wake-ups (turbo.worker.wakeups)."""

    def poll_every(self, seconds: float | None) -> None: ...


class Crowding:
    """Told by each heartbeat how full the queue is."""

    def __init__(self, wakeups: PollsOften, problems: Problems) -> None:
        self._wakeups = wakeups
        self._problems = problems
        self._crowded = False

    def measured(self, usage: float) -> None:
        """`usage`: of the server's notification queue, from 0 to 1."""
        if usage > CROWDED:
            self._problems.report(
                ProblemKind.NOTIFY_QUEUE,
                "",
                f"the server's notification queue is {usage:.0%} full: inserts wake nobody; it polls every second",
                "end the session that listens in an open transaction: turbo doctor and the server's log name it",
            )
            if not self._crowded:
                log.warning(
                    "the server's notification queue is %.0f %% full: inserts wake nobody. Polling every %g s.",
                    usage * 100,
                    POLL_SECONDS,
                )
                self._wakeups.poll_every(POLL_SECONDS)
        elif self._crowded:
            log.info("the server's notification queue has room again")
            self._wakeups.poll_every(None)
            self._problems.clear(ProblemKind.NOTIFY_QUEUE, "")
        self._crowded = usage > CROWDED
