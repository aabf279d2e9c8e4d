"""The heartbeat: "I am alive", from a thread and a connection of its own.

An executor that blocks the event loop must not make the fleet think this worker dead, so nothing here shares anything
with that loop but what `tell` posts to it. One statement a beat (sql/beat.sql): it also counts the silent, and holds the
leader's lease. The thread rides out any outage of the database; an outage costs beats, and kills nobody.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from turbo import db
from turbo.db import Backoff
from turbo.metrics import Metrics
from turbo.sql import statement

log = logging.getLogger(__name__)

LEADER_LEASE_BEATS = 3
BEAT_DEADLINE = 15.0


@dataclass(frozen=True, slots=True)
class Beat:
    """What one beat brought back."""

    alive: bool  # False: the row is gone or was declared dead; register again
    leads: bool
    died: tuple[str, ...]
    to_rescue: bool


class Heartbeat:
    def __init__(
        self,
        dsn: str,
        worker_id: str,
        metrics: Metrics,
        *,
        seconds: float,
        busy: Callable[[], int],
        tell: Callable[[Beat], None],
    ) -> None:
        """`busy` and `tell` are called in the thread. `seconds` is the interval between beats."""
        self._dsn = dsn
        self._worker_id = worker_id
        self._metrics = metrics
        self._seconds = seconds
        self._busy = busy
        self._tell = tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._trouble = False
        self.may_lead = True
        self.last_beat = time.monotonic()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; waits for a beat under way, at most its deadline."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=BEAT_DEADLINE)

    def _run(self) -> None:
        backoff = Backoff()
        connection: psycopg.Connection[tuple[object, ...]] | None = None
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection = self._connect()
                beat = self._beat(connection)
            except (psycopg.Error, OSError) as error:
                if not self._trouble:
                    log.warning("no heartbeat: %s", db.reason(error))
                    self._trouble = True
                if connection is not None:
                    db.cut(connection)
                    connection.close()
                    connection = None
                self._stop.wait(backoff.next())
                continue
            if self._trouble:
                log.info("heartbeat is back")
                self._trouble = False
            backoff.reset()
            self.last_beat = time.monotonic()
            self._metrics.heartbeat.set(time.time())
            self._tell(beat)
            # A little less than the interval: jitter must not make a beat late in the eyes of those who count.
            self._stop.wait(self._seconds * random.uniform(0.9, 1.0))
        if connection is not None:
            connection.close()

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        connection = psycopg.connect(
            **db.connect_arguments(self._dsn, f"turbo heartbeat {self._worker_id}"),  # type: ignore[arg-type]
            autocommit=True,
        )
        connection.prepare_threshold = None
        connection.execute(db.SESSION_SETTINGS)
        return connection

    def _beat(self, connection: psycopg.Connection[tuple[object, ...]]) -> Beat:
        watchdog = threading.Timer(BEAT_DEADLINE, db.cut, (connection,))  # a frozen server never answers
        watchdog.daemon = True
        watchdog.start()
        try:
            row = connection.execute(
                statement("beat"),
                {
                    "worker": self._worker_id,
                    "busy": self._busy(),
                    "may_lead": self.may_lead,
                    "leader_lease": LEADER_LEASE_BEATS * self._seconds,
                },
            ).fetchone()
        finally:
            watchdog.cancel()
        assert row is not None
        alive, leads, died, to_rescue = row[:4]
        return Beat(bool(alive), bool(leads), tuple(died), bool(to_rescue))  # type: ignore[arg-type]
