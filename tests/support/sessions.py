"""Sessions that a test's own questions share: a test that asks a hundred times a second must not connect each time."""

import contextlib
import select
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import conninfo


class Sessions:
    """`with sessions.use(dsn) as db`: this thread's session with that server, opened anew when the server has closed it.

    A DSN of several hosts gets a new session each time: which host takes writes may have changed.
    """

    def __init__(self) -> None:
        self._idle: dict[tuple[int, str], psycopg.Connection[Any]] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def use(self, dsn: str) -> Iterator[psycopg.Connection[Any]]:
        shared = "," not in str(conninfo.conninfo_to_dict(dsn).get("host"))
        key = threading.get_ident(), dsn
        with self._lock:
            db = self._idle.pop(key, None) if shared else None
        if db is not None and _ended(db):
            db.close()
            db = None
        if db is None:
            db = psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
        kept = False
        try:
            yield db
            kept = shared and not db.closed
        finally:
            if kept:
                with self._lock:
                    self._idle[key] = db
            else:
                db.close()

    def close(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.popitem()[1].close()


def _ended(db: psycopg.Connection[Any]) -> bool:
    """Whether the server has hung up. An idle session has nothing to read, but for the end or the reason of it."""
    return db.closed or bool(select.select([db.fileno()], [], [], 0)[0])
