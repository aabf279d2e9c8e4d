"""The base of all stores: sends statements of turbo/sql over one lane.

A method of a store is one statement and one round trip; its guarantees are written in the statement's file. All of them
are right with any number of workers at once, after a replay, and for rows that bypassed the triggers. Methods raise
psycopg.Error and OSError (`db.DATABASE_ERRORS`); `db.is_transient` tells whether trying again may help.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import psycopg

from turbo.db.connect import Connection
from turbo.db.errors import is_outdated
from turbo.db.lane import Lane
from turbo.domain.claim import ClaimRef
from turbo.sql import Variant, statement

Row = tuple[Any, ...]
T = TypeVar("T")


class Store:
    """Statements of one concern, over one lane."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def _rows(
        self, name: str, parameters: Mapping[str, object], deadline: float | None = None, variant: Variant | None = None
    ) -> list[Row]:
        return await self._use(lambda connection: rows(connection, name, parameters, variant), deadline)

    async def _run(self, name: str, parameters: Mapping[str, object]) -> None:
        await self._rows(name, parameters)

    async def _use(self, work: Callable[[Connection], Awaitable[T]], deadline: float | None = None) -> T:
        """Do `work`, one statement, on the lane. A session that the schema has changed under is replaced, and the statement
        is sent again: it was refused before it did anything."""
        try:
            async with self._lane.use(deadline) as connection:
                return await work(connection)
        except psycopg.Error as error:
            if not is_outdated(error):
                raise
        async with self._lane.use(deadline) as connection:
            return await work(connection)


async def rows(
    connection: Connection, name: str, parameters: Mapping[str, object], variant: Variant | None = None
) -> list[Row]:
    """The rows that one statement returns, on any connection."""
    cursor = await connection.execute(statement(name, variant), parameters)
    return await cursor.fetchall() if cursor.description else []


def ids_of(variant: Variant | None, task_ids: Sequence[str]) -> dict[str, object]:
    """The parameter of a variant (turbo.sql): the tasks that it leaves out, or takes."""
    return {} if variant is None else {variant: list(task_ids)}


def claim_columns(claims: Iterable[ClaimRef]) -> dict[str, object]:
    """Claims as parameters: an array of ids, and one of tokens."""
    items = list(claims)
    return {"task_id": [c.task_id for c in items], "token": [c.token for c in items]}
