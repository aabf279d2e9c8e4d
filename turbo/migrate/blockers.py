"""The sessions that block a migration, found while it waits, because a failed wait no longer knows them.

A watcher opens a separate connection when a statement has waited for a while, and asks `pg_blocking_pids` about the
migration's backend. An operator reads its lines and decides which session to end.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg.rows import TupleRow

from turbo import db
from turbo.db import search_path
from turbo.sql import statement

Connection = psycopg.Connection[TupleRow]

_POLL_SECONDS = 0.3
_REMIND_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Blocker:
    """One session that holds a lock the migration needs; `pid` 0 is a prepared transaction. Times are the server's."""

    pid: int
    user: str
    application: str
    state: str
    query_start: str | None
    open_seconds: int | None

    def __str__(self) -> str:
        if self.pid == 0:
            return "a prepared transaction (select * from pg_prepared_xacts)"
        parts = [self.application or "no application_name", f"user {self.user}" if self.user else "", self.state]
        if self.open_seconds is not None:
            parts.append(f"transaction open for {self.open_seconds} s")
        if self.query_start:
            parts.append(f"query started {self.query_start}")
        return f"pid {self.pid} ({', '.join(part for part in parts if part)})"


Blockers = tuple[Blocker, ...]


def describe(blockers: Blockers) -> str:
    """For a message: the sessions, and how to end the first."""
    if not blockers:
        return "held by a session that was gone too soon to be identified"
    shown = "; ".join(str(blocker) for blocker in blockers[:3])
    if len(blockers) > 3:
        shown += f"; and {len(blockers) - 3} more"
    first = next((blocker.pid for blocker in blockers if blocker.pid), None)
    return f"held by {shown}" + (f"; to end it: select pg_terminate_backend({first})" if first else "")


def in_the_way(connection: Connection, table: str, *, readers: bool) -> Blockers:
    """Sessions that a concurrent index build on `table` (or, with `readers`, a drop) would have to wait for now."""
    rows = connection.execute(statement("migrate/in_the_way"), {"table": table, "readers": readers}).fetchall()
    return tuple(Blocker(*row) for row in rows)


class LockWatcher:
    """Finds the sessions that block one backend, several times within each `lock_timeout` (seconds).

    `seen` has the sessions from the last query of the current watch.
    """

    def __init__(self, dsn: str, pid: int, lock_timeout: float, report: Callable[[Blockers], None]) -> None:
        self._dsn, self._pid, self._report = dsn, pid, report
        self._pause = min(_POLL_SECONDS, lock_timeout / 4)
        self._connection: Connection | None = None
        self._reported: tuple[frozenset[int], float] = (frozenset(), 0.0)
        self.seen: Blockers = ()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block runs a statement that may wait."""
        self.seen = ()
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,), name="migrate-blockers", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def report(self, blockers: Blockers) -> None:
        """Report the blocking sessions: at once when they change, else every _REMIND_SECONDS."""
        pids, now = frozenset(blocker.pid for blocker in blockers), time.monotonic()
        reported, reported_at = self._reported
        if pids != reported or now - reported_at > _REMIND_SECONDS:
            self._reported = (pids, now)
            self._report(blockers)

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(self._pause):
            with suppress(psycopg.Error):  # without a second connection the wait is the same, only less explained
                blockers = self._current()
                if blockers:
                    self.seen = blockers
                    self.report(blockers)

    def _current(self) -> Blockers:
        if self._connection is None or self._connection.closed:
            arguments = db.connect_arguments(self._dsn, "turbo migrate (who blocks)")
            self._connection = Connection.connect(**arguments, autocommit=True, prepare_threshold=None)  # type: ignore[arg-type]
            self._connection.execute(search_path.CLOSE)
        rows = self._connection.execute(statement("migrate/blocking"), {"pid": self._pid}).fetchall()
        return tuple(Blocker(*row) for row in rows)
