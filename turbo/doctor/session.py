"""The doctor's session with the database.

It only reads. If the server does not answer within DEADLINE_SECONDS, the connection is closed.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row

from turbo import db
from turbo.sql import Variant, statement

DEADLINE_SECONDS = 10.0
APPLICATION_NAME = "turbo doctor"

SessionRow = dict[str, Any]


class Session:
    """`with Session(dsn) as session: …`; `open` raises psycopg.Error when the database cannot be reached."""

    def __init__(self, dsn: str, listen_dsn: str = "") -> None:
        """`listen_dsn`: where LISTEN goes, if that is another way to the database."""
        self.dsn = dsn
        self.listen_dsn = listen_dsn or dsn
        self._connection: psycopg.Connection[Any] | None = None
        self._facts: SessionRow | None = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def open(self) -> None:
        self._connection = self.another()

    def another(self) -> psycopg.Connection[Any]:
        """Another session, which the caller closes."""
        return db.open_client(self.dsn, APPLICATION_NAME)

    def listening(self) -> psycopg.Connection[Any]:
        """Another session, for LISTEN, which the caller closes."""
        return db.open_client(self.listen_dsn, APPLICATION_NAME)

    @property
    def apart(self) -> bool:
        """Whether LISTEN goes another way than the rest."""
        return self.listen_dsn != self.dsn

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """Raises OperationalError before `open`, or when the connection is lost."""
        if self._connection is None or self._connection.closed:
            raise psycopg.OperationalError("the connection to the database is lost")
        return self._connection

    @contextmanager
    def deadline(self, seconds: float = DEADLINE_SECONDS) -> Iterator[None]:
        """The block raises OperationalError when the server does not answer in time."""
        timer = threading.Timer(seconds, db.cut, [self.connection])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def rows(self, name: str, parameters: Mapping[str, object] | None = None) -> list[SessionRow]:
        """`turbo/sql/doctor/<name>.sql`."""
        return self.statement(f"doctor/{name}", parameters)

    def statement(
        self, name: str, parameters: Mapping[str, object] | None = None, variant: Variant | None = None
    ) -> list[SessionRow]:
        """`turbo/sql/<name>.sql`."""
        with self.deadline(), self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement(name, variant), parameters or {}).fetchall()

    @property
    def facts(self) -> SessionRow:
        """Facts about the server (server.sql), queried once."""
        if self._facts is None:
            self._facts = self.rows("server")[0]
        return self._facts
