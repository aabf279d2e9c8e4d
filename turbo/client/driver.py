"""The blocking driver of the clients' operations: one connection, on which each request of an operation is performed in turn."""

import os
import time
from collections.abc import Iterator
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row

from turbo import db
from turbo.client import operations
from turbo.client.hearing import Hearing, listen_dsn_for
from turbo.client.operations import (
    Disconnect,
    Listen,
    Operation,
    Query,
    QueryResult,
    Request,
    Sleep,
    Steps,
    Stream,
    T,
)
from turbo.sql import statement


class Driver:
    """What `Client` does with its connection: its own, or the caller's, which is used as it is."""

    def __init__(
        self,
        dsn: str = "",
        connection: psycopg.Connection[Any] | None = None,
        *,
        lock_seconds: float | None = None,
        listen_dsn: str | None = None,
    ) -> None:
        """`listen_dsn`: where it listens while it waits, if `dsn` goes through a pooler in transaction mode; None: TURBO_LISTEN_DSN, if
        `dsn` is TURBO_DSN; '': on its own connection. `lock_seconds`: a statement that waits so long for a lock, on the client's own
        connection, fails with psycopg.errors.LockNotAvailable. An insert waits for a transaction that has inserted the same id and is
        not finished."""
        self._lock_seconds = lock_seconds
        self._dsn = dsn or os.environ.get("TURBO_DSN", "")
        self._owns = connection is None
        self._connection = connection or self._connect()
        self._listen_dsn = listen_dsn_for(self._dsn, listen_dsn)
        self._hearing = Hearing(self._listen_dsn)
        self._waits = 0
        """Operations that wait and may hear."""

    def _connect(self) -> psycopg.Connection[Any]:
        return db.open_client(self._dsn, "turbo client", self._lock_seconds)

    @property
    def backend_pid(self) -> int:
        """Of the server's process, as pg_blocking_pids takes it."""
        return self._connection.info.backend_pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the client's own connection; yours stays open."""
        if self._owns:
            self._connection.close()

    def _run(self, steps: Steps[T]) -> T:
        operation: Operation[T] = Operation(steps)
        while not operation.done:
            self._advance(operation)
        result: T = operation.result
        return result

    def _stream(self, steps: Stream[T]) -> Iterator[T]:
        operation: Operation[T] = Operation(steps)
        waits = False
        try:
            while not operation.done:
                if isinstance(operation.request, Listen) and not waits:
                    waits = True
                    self._waits += 1
                if isinstance(operation.request, Query | Sleep | Disconnect | Listen):
                    self._advance(operation)
                else:
                    yield operation.request
                    operation.answer()
        finally:
            if waits:
                self._waits -= 1
                if self._waits == 0:
                    self._hearing.stop()

    def _advance(self, operation: Operation[T]) -> None:
        try:
            answer = self._perform(operation.request)
        except Exception as error:
            operation.fail(error)
        else:
            operation.answer(answer)

    def _perform(self, step: Request) -> QueryResult:
        if isinstance(step, Sleep):
            time.sleep(step.seconds) if step.ear is None else self._hearing.wait(step.seconds, step.ear)
            return QueryResult()
        if isinstance(step, Listen) and not self._owns:
            return QueryResult()
        if isinstance(step, Disconnect):
            if self._owns:
                self._connection.close()
            return QueryResult()
        if self._owns and self._connection.closed:
            self._connection = self._connect()
        if isinstance(step, Listen):
            return QueryResult(ear=self._hearing.listen(self._connection))
        try:
            return self._execute(step)
        except psycopg.Error as error:
            if not operations.may_send_again(error, self._connection.info.transaction_status):
                raise
        if self._owns:
            self._connection.close()
            self._connection = self._connect()
        return self._execute(step, prepare=False)

    def _execute(self, query: Query, prepare: bool | None = None) -> QueryResult:
        # A plain cursor: the caller's connection may have another cursor class, with other parameters.
        kind = self._connection.cursor_factory if self._owns else psycopg.Cursor
        with kind(self._connection, row_factory=dict_row) as cursor:
            operations.prepare(cursor)
            cursor.execute(statement(query.name, query.variant), query.parameters, prepare=prepare)
            return QueryResult(cursor.fetchall() if cursor.description else [], cursor.rowcount)

    def _check_may_wait(self) -> None:
        operations.check_may_wait(self._owns, self._connection.autocommit, self._connection.info.transaction_status)
