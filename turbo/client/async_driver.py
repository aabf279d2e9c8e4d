"""The asynchronous driver of the clients' operations: one connection, on which the statements of several asyncio tasks take turns."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row

from turbo import db
from turbo.client import operations
from turbo.client.hearing import ASK_SERVER, AsyncHearing, listen_dsn_for
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


class AsyncDriver:
    """What `AsyncClient` does with its connection: its own, or the caller's, which is used as it is."""

    _statement_seconds: float | None = None
    """How long a statement may take on the client's own connection; None: no limit. Raises psycopg.OperationalError after it."""

    _person: str | None = None
    """Who stands behind the statements, for detail.on_behalf_of of the audit trail."""

    def __init__(
        self,
        dsn: str = "",
        connection: psycopg.AsyncConnection[Any] | None = None,
        *,
        listen_dsn: str | None = None,
    ) -> None:
        """`listen_dsn`: where it listens while it waits, if `dsn` goes through a pooler in transaction mode; None: TURBO_LISTEN_DSN, if
        `dsn` is TURBO_DSN; '': to `dsn`."""
        self._dsn = dsn or os.environ.get("TURBO_DSN", "")
        self._owns = connection is None
        self._connection = connection
        self._turn = asyncio.Lock()
        """Held by the task whose statement is on the connection, and by any task that opens or discards it."""
        self._failed: psycopg.AsyncConnection[Any] | None = None
        """The connection on which a statement failed last: what a Disconnect discards."""
        self._listen_dsn = listen_dsn_for(self._dsn, listen_dsn)
        self._hearing = AsyncHearing(self._listen_dsn or self._dsn, self._server if self._listen_dsn else None)
        self._waits = 0
        """Operations that wait and may hear."""

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        """The connection, opened if need be. Only with `_turn`."""
        if self._connection is None or (self._owns and self._connection.closed):
            self._connection = await db.open_async_client(self._dsn, "turbo client")
        return self._connection

    async def _server(self) -> str:
        """Which server its own connection is on. Raises psycopg.Error."""
        async with self._turn:
            connection = await self._connected()
            ((server,),) = await (await connection.execute(ASK_SERVER, prepare=False)).fetchall()
            return str(server)

    async def __aenter__(self) -> Self:
        async with self._turn:
            await self._connected()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the client's own connection; yours stays open. A statement under way ends with psycopg.OperationalError."""
        await self._hearing.stop()
        if self._owns and (connection := self._connection) is not None:
            if self._turn.locked():
                db.cut(connection)
            async with self._turn:
                await connection.close()

    async def _run(self, steps: Steps[T]) -> T:
        operation: Operation[T] = Operation(steps)
        while not operation.done:
            await self._advance(operation)
        result: T = operation.result
        return result

    async def _stream(self, steps: Stream[T]) -> AsyncIterator[T]:
        operation: Operation[T] = Operation(steps)
        waits = False
        try:
            while not operation.done:
                if isinstance(operation.request, Listen) and not waits:
                    waits = True
                    self._waits += 1
                if isinstance(operation.request, Query | Sleep | Disconnect | Listen):
                    await self._advance(operation)
                else:
                    yield operation.request
                    operation.answer()
        finally:
            if waits:
                self._waits -= 1
                if self._waits == 0:
                    await self._hearing.stop()

    async def _advance(self, operation: Operation[T]) -> None:
        try:
            answer = await self._perform(operation.request)
        except Exception as error:
            operation.fail(error)
        else:
            operation.answer(answer)

    async def _perform(self, step: Request) -> QueryResult:
        if isinstance(step, Sleep):
            await (asyncio.sleep(step.seconds) if step.ear is None else self._hearing.wait(step.seconds, step.ear))
            return QueryResult()
        if isinstance(step, Listen):
            return QueryResult(ear=await self._hearing.listen() if self._owns else None)
        if isinstance(step, Disconnect):
            async with self._turn:  # another task may be working on it
                if self._owns and self._failed is not None:
                    await self._failed.close()
            return QueryResult()
        async with self._turn:
            connection = await self._connected()
            try:
                return await self._execute(connection, step)
            except psycopg.Error as error:
                if not operations.may_send_again(error, connection.info.transaction_status):
                    raise
            if self._owns:
                await connection.close()
            return await self._execute(await self._connected(), step, prepare=False)

    async def _execute(
        self, connection: psycopg.AsyncConnection[Any], query: Query, prepare: bool | None = None
    ) -> QueryResult:
        """Run one statement, in a task that outlives a cancellation of the caller's.

        psycopg answers a cancellation by asking the server to stop and waiting for it, for up to 10 s with a frozen server; a
        second cancellation meanwhile closes the connection. So our own connection is cut instead, before the next task's turn.
        """
        kind = connection.cursor_factory if self._owns else psycopg.AsyncCursor
        work = asyncio.ensure_future(self._rows(connection, query, prepare, kind))
        try:
            done, _ = await asyncio.wait({work}, timeout=self._statement_seconds if self._owns else None)
        except asyncio.CancelledError:
            await self._abandon(connection, work)
            raise
        if not done:
            await self._abandon(connection, work)
            raise psycopg.OperationalError(f"no answer from the database within {self._statement_seconds:g} s")
        try:
            return work.result()
        except psycopg.Error:
            self._failed = connection
            raise

    async def _rows(
        self,
        connection: psycopg.AsyncConnection[Any],
        query: Query,
        prepare: bool | None,
        kind: type[psycopg.AsyncCursor[Any]],
    ) -> QueryResult:
        async with kind(connection, row_factory=dict_row) as cursor:
            operations.prepare(cursor)
            if self._person is None:
                return await _answer(cursor, query, prepare)
            async with connection.transaction():  # the name must not stay behind in a session that a pooler shares
                await cursor.execute(statement("client/on_behalf_of"), {"person": self._person})
                return await _answer(cursor, query, prepare)

    async def _abandon(self, connection: psycopg.AsyncConnection[Any], work: "asyncio.Task[QueryResult]") -> None:
        """End a statement whose answer no one waits for any more."""
        work.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # so that asyncio does not log it
        if not self._owns:
            work.cancel()
            await asyncio.wait({work})
            return
        self._connection = None
        db.cut(connection)
        interrupted: asyncio.CancelledError | None = None
        while not work.done():  # the next connection may get this one's descriptor, so close it only once it is unused
            try:
                await asyncio.wait({work})
            except asyncio.CancelledError as error:
                interrupted = error
        await connection.close()
        if interrupted is not None:
            raise interrupted

    def _check_may_wait(self) -> None:
        if self._connection is not None:
            operations.check_may_wait(self._owns, self._connection.autocommit, self._connection.info.transaction_status)


async def _answer(cursor: psycopg.AsyncCursor[Any], query: Query, prepare: bool | None) -> QueryResult:
    await cursor.execute(statement(query.name, query.variant), query.parameters, prepare=prepare)
    return QueryResult(await cursor.fetchall() if cursor.description else [], cursor.rowcount)
