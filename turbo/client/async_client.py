"""The user's side of the queue, for asyncio: `Client` with `await` and `async for`.

The methods, their arguments and their exceptions are those of `Client` (a test compares them). Both use the same operations
(turbo.client.operations); this module is the asynchronous driver.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from turbo import db
from turbo.client import answering, operations, snapshot
from turbo.client.answering import Answer, Waiting
from turbo.client.fleet_status import FleetStatus
from turbo.client.models import Action, Changed, RunView, Submitted, TaskFilter, TaskLine, TaskRow, TaskStatus
from turbo.client.new_task import NewTask
from turbo.client.operations import (
    Away,
    Disconnect,
    Operation,
    Query,
    QueryResult,
    Request,
    Sleep,
    Steps,
    Stream,
    T,
)
from turbo.client.questions import OpenQuestion
from turbo.sql import statement


class AsyncClient:
    """`async with AsyncClient(dsn) as client: …`, or `AsyncClient(connection=…)` on a psycopg AsyncConnection of yours.

    The first call opens the client's own connection. Several asyncio tasks may use one client: their statements take turns on
    that connection. Cancelling a task in the middle of its statement discards the connection, and the next statement opens
    another; no other task is disturbed.
    """

    _statement_seconds: float | None = None
    """How long a statement may take on the client's own connection; None: no limit. Raises psycopg.OperationalError after it."""

    def __init__(self, dsn: str = "", connection: psycopg.AsyncConnection[Any] | None = None) -> None:
        self._dsn = dsn or os.environ.get("TURBO_DSN", "")
        self._owns = connection is None
        self._connection = connection
        self._turn = asyncio.Lock()
        """Held by the task whose statement is on the connection, and by any task that opens or discards it."""
        self._failed: psycopg.AsyncConnection[Any] | None = None
        """The connection on which a statement failed last: what a Disconnect discards."""

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        """The connection, opened if need be. Only with `_turn`."""
        if self._connection is None or (self._owns and self._connection.closed):
            self._connection = await db.open_async_client(self._dsn, "turbo client")
        return self._connection

    async def __aenter__(self) -> "AsyncClient":
        async with self._turn:
            await self._connected()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the client's own connection; yours stays open. A statement under way ends with psycopg.OperationalError."""
        if self._owns and (connection := self._connection) is not None:
            if self._turn.locked():
                db.cut(connection)
            async with self._turn:
                await connection.close()

    # ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(
        self,
        text: str,
        *,
        task_id: str | None = None,
        task_type: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        run_after: datetime | str | None = None,
        input_data: object = None,
        timeout_seconds: int | None = None,
        max_retries: int | None = None,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        hold: bool = False,
    ) -> Submitted:
        """Insert a task. `created` is False if the idempotency key already had one."""
        task = NewTask(
            text,
            task_id=task_id,
            task_type=task_type,
            queue=queue,
            task_priority=priority,
            run_after=run_after,
            input_data=input_data,
            timeout_seconds=timeout_seconds,
            max_retries=max_retries,
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            hold=hold or None,
        )
        return await self._run(operations.submit(task))

    async def submit_many(self, tasks: Sequence[NewTask]) -> list[Submitted]:
        """Insert tasks in one statement, all or none. The answers are in the order of the tasks. Raises psycopg.Error."""
        return await self._run(operations.submit_many(tasks))

    async def get(self, task_id: str) -> TaskRow:
        """One task, with every column. Raises UnknownTask."""
        return await self._run(operations.get(task_id))

    async def run(self, task_id: str) -> RunView:
        """The task's latest run, and its last output. Raises UnknownTask."""
        return await self._run(operations.run(task_id))

    async def database_id(self) -> str | None:
        """The identity of the database, to which workers tie what they keep on disk; None where its schema is from before."""
        return await self._run(operations.database_id())

    async def trail(self, task_id: str) -> list[Action]:
        """The task's audit trail, oldest first."""
        return await self._run(operations.trail(task_id))

    async def resolve(self, prefix: str) -> str:
        """The full id for an id or a unique prefix. Raises UnknownTask, AmbiguousTask."""
        return await self._run(operations.resolve(prefix))

    async def newest_ids(self, prefix: str, limit: int = 50) -> list[str]:
        """Ids with this prefix, newest tasks first, for shell completion."""
        return await self._run(operations.newest_ids(prefix, limit))

    async def waiting_ids(self, prefix: str, kinds: Sequence[str] | None = None, limit: int = 50) -> list[str]:
        """Ids with this prefix of tasks that wait for a person, the longest first, for shell completion. `kinds`: question,
        approval, hold."""
        return await self._run(operations.waiting_ids(prefix, kinds, limit))

    async def tasks(
        self,
        criteria: TaskFilter | None = None,
        *,
        status: str | None = None,
        queue: str | None = None,
        limit: int | None = 50,
    ) -> list[TaskLine]:
        """The newest matching tasks. `limit` None: all of them."""
        chosen = criteria or TaskFilter(statuses=(status,) if status else None, queue=queue)
        return await self._run(operations.tasks(chosen, limit))

    async def cancel(self, task_ids: str | Sequence[str]) -> list[Changed]:
        """Cancel unfinished tasks. Unknown and finished ids are not in the answer."""
        return await self._run(operations.change("cancel", task_ids))

    async def retry(self, task_ids: str | Sequence[str], *, anew: bool = False) -> list[Changed]:
        """Run finished tasks again. Unknown and unfinished ids are not in the answer.

        `anew`: forget the agent's conversation, and the host that has it. The next run begins a new one, on any host; a task that
        waits or rests is changed, too, and keeps its status.
        """
        return await self._run(operations.change("retry_anew" if anew else "retry", task_ids))

    # ── questions ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def questions(
        self,
        criteria: TaskFilter | None = None,
        *,
        kinds: Sequence[str] | None = None,
        task_ids: Sequence[str] | None = None,
        queue: str | None = None,
        limit: int | None = 50,
    ) -> list[OpenQuestion]:
        """Who waits for a person, the longest first. `kinds`: only question, approval or hold. `limit` None: all of them.

        Of `criteria`, `since` is when the task asked, `text` may be in the question, and statuses and failure_kind do not count.
        """
        chosen = criteria or TaskFilter(queue=queue)
        return await self._run(answering.questions(chosen, kinds, task_ids, limit))

    async def answer(self, task: Waiting, answer: Answer) -> Changed:
        """Answer what a task asks. It goes on at once: the task is pending then.

        `answer`: text, or one of the options' labels; where several questions were asked, a mapping from their exact texts. `task`:
        its id, or its OpenQuestion: then the answer counts only if it still asks just that. Raises UnknownTask, NotWaiting (another
        answer was first), AnswerRefused (its message shows the form), MayNotAnswer, BadField.
        """
        return await self._run(answering.answer(task, answer))

    async def approve(self, tasks: Waiting | Sequence[Waiting], *, always: bool = False) -> list[Changed]:
        """Say yes to approvals and holds. `always`: to every call of this task that the same rule holds; not for holds.

        Several tasks are one statement, all or none; those that do not wait for this are not in the answer. One task, given
        as such: raises UnknownTask, NotWaiting. Raises AnswerRefused, MayNotAnswer.
        """
        return await self._run(answering.approve(tasks, always=always))

    async def deny(self, tasks: Waiting | Sequence[Waiting], because: str | None = None) -> list[Changed]:
        """Say no to approvals and holds. The agent gets the reason, and goes on; a task that was held is cancelled.

        Several tasks, and errors: as for `approve`.
        """
        return await self._run(answering.deny(tasks, because))

    async def wait(self, task_id: str, timeout: float | None = None) -> TaskRow:
        """Wait until the task is finished, however it ends. Raises TimeoutError after `timeout` seconds, UnknownTask."""
        async for _ in self.follow(task_id, timeout):
            pass
        return await self.get(task_id)

    def follow(
        self, task_ids: str | Sequence[str], timeout: float | None = None, away: Away | None = None
    ) -> AsyncIterator[list[TaskStatus]]:
        """Poll until all are finished. Yields the status of those that were unfinished at the previous poll."""
        self._check_may_wait()
        return self._stream(operations.follow(task_ids, timeout, patient=self._owns, away=away))

    def progress(self, task_id: str, timeout: float | None = None, away: Away | None = None) -> AsyncIterator[RunView]:
        """Yield the task's run whenever its status, last line or tokens change, at most once a second."""
        self._check_may_wait()
        return self._stream(operations.progress(task_id, timeout, patient=self._owns, away=away))

    # ── queues, accounts, the fleet ─────────────────────────────────────────────────────────────────────────────────

    async def served(self, queue: str) -> tuple[bool, bool]:
        """Whether a live worker serves `queue`, and whether it is paused."""
        return await self._run(operations.served(queue))

    async def pause_queue(self, queue: str, reason: str | None = None) -> bool:
        """Stop claiming from `queue`; running tasks continue. Safe to repeat. False: it was already paused."""
        return await self._run(operations.pause_queue(queue, reason))

    async def resume_queue(self, queue: str) -> bool:
        """Start claiming from `queue` again. False: it was not paused."""
        return await self._run(operations.resume_queue(queue))

    async def pause_account(self, account: str, reason: str | None = None) -> None:
        """Stop claiming tasks that need the account, on every host, until it is resumed."""
        await self._run(operations.pause_account(account, reason))

    async def resume_account(self, account: str) -> bool:
        """Open the account on every host, whether a user or turbo paused it. False: it was open."""
        return await self._run(operations.resume_account(account))

    async def account_used(self, account: str) -> bool:
        """Whether a live worker uses it."""
        return await self._run(operations.account_used(account))

    async def fleet(self) -> FleetStatus:
        """The current workers, queues and accounts, and the tasks that ended in the last hour."""
        return await self._run(snapshot.fleet())

    # ── the driver ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, steps: Steps[T]) -> T:
        operation: Operation[T] = Operation(steps)
        while not operation.done:
            await self._advance(operation)
        result: T = operation.result
        return result

    async def _stream(self, steps: Stream[T]) -> AsyncIterator[T]:
        operation: Operation[T] = Operation(steps)
        while not operation.done:
            if isinstance(operation.request, Query | Sleep | Disconnect):
                await self._advance(operation)
            else:
                yield operation.request
                operation.answer()

    async def _advance(self, operation: Operation[T]) -> None:
        try:
            answer = await self._perform(operation.request)
        except Exception as error:
            operation.fail(error)
        else:
            operation.answer(answer)

    async def _perform(self, step: Request) -> QueryResult:
        if isinstance(step, Sleep):
            await asyncio.sleep(step.seconds)
            return QueryResult()
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
        work = asyncio.ensure_future(
            _rows(connection, query, prepare, connection.cursor_factory if self._owns else psycopg.AsyncCursor)
        )
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


async def _rows(
    connection: psycopg.AsyncConnection[Any], query: Query, prepare: bool | None, kind: type[psycopg.AsyncCursor[Any]]
) -> QueryResult:
    async with kind(connection, row_factory=dict_row) as cursor:
        operations.prepare(cursor)
        await cursor.execute(statement(query.name, query.variant), query.parameters, prepare=prepare)
        return QueryResult(await cursor.fetchall() if cursor.description else [], cursor.rowcount)
