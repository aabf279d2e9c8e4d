"""Which database a worker works for.

    unknown ──start-up has read turbo_database_id()──▶ settled ──a session finds another one──▶ that session is refused

What a worker keeps on disk (results, logs, working directories) belongs to one database. A service file, a changed name
server, or a database that was dropped and made again can lead the same DSN to another one. So every session that a settled
worker opens reads the identity first. Behind a pooler that lends backends, one session meets many: there each statement's
transaction reads it first (turbo.db.search_path). Copies of a database (a dump, a template, a base backup) have the same identity.

A worker with two DSNs (database.listen_dsn) also compares the servers, so that it never beats in one copy and claims in another:

    listening on a server ──▶ a pooled statement whose backend is on another one is not sent
           ▲                            │
           └── the listener is back ────┴── for PATIENCE_SECONDS after the listener has lost its session; then any server will do
"""

import time
from typing import Final

from turbo.db.errors import AnotherDatabase, AnotherServer

IDENTITY = "select public.turbo_database_id()"

SERVER: Final = (
    "pg_catalog.concat(extract(epoch from pg_catalog.pg_postmaster_start_time())::pg_catalog.text,"
    " ' '::pg_catalog.text, pg_catalog.current_database()::pg_catalog.text)"
)
"""An expression that differs between servers, between starts of one server, and between its databases. It depends on no setting of
the session."""

PATIENCE_SECONDS = 5.0
"""As long as claims wait for a listener that cannot reconnect (turbo.worker.recovery_gate)."""


class DatabaseIdentity:
    """Of one process. Any thread may use it."""

    def __init__(self) -> None:
        self._id: str | None = None

    @property
    def id(self) -> str | None:
        """None until it is settled."""
        return self._id

    def settle(self, found: str) -> None:
        """This process works for the database `found`, from now on. Raises AnotherDatabase if it works for another one."""
        self._id = self._id or found
        self.check(found)

    def check(self, found: str | None) -> None:
        """Raises AnotherDatabase. `found` None: the database has no identity."""
        if self._id is not None and found != self._id:
            what = "has no identity" if found is None else f"is {found}"
            raise AnotherDatabase(
                f"the DSN leads to another database than before: it {what}, and this worker's is {self._id}. Its results wait "
                "on this host. Lead the DSN back, or restart the worker to work for the new database"
            )


class ListeningServer:
    """Which server a worker's listener is on, where its other sessions lead there by another DSN. Any thread may use it."""

    def __init__(self) -> None:
        self._server: str | None = None
        self._lost_at: float | None = None  # monotonic; None: there is a session

    def listens_on(self, server: str) -> None:
        """The listener has a session (`server`: as SERVER gives it)."""
        self._server, self._lost_at = server, None

    def lost(self) -> None:
        """The listener has none any more."""
        if self._lost_at is None:
            self._lost_at = time.monotonic()

    def check(self, found: str) -> None:
        """Raises AnotherServer."""
        if self._server in (None, found):
            return
        if self._lost_at is not None and time.monotonic() - self._lost_at > PATIENCE_SECONDS:
            return
        raise AnotherServer(
            "dsn leads to another server or database than listen_dsn, and nothing is sent there; after a failover it passes, else let "
            "both name one database"
        )
