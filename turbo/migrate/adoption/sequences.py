"""How many numbers are left for a column that a sequence fills. Without one, no row can be written: an old table's serial is
an integer, and the audit trail gets several rows for each task."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psycopg
from psycopg.rows import class_row

from turbo.domain.finding import Finding, warn
from turbo.migrate.adoption.finding import quoted
from turbo.sql import statement

FEW = 0.25
"""The share of the numbers below which to change the type: it rewrites the table, so it takes a quiet time to be planned."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """A column and its sequence. `total`: numbers that both can hold; `left`: None if this role may not read it."""

    column: str
    type: str
    identity: bool
    sequence: str
    sequence_type: str
    total: int
    left: int | None

    @property
    def few(self) -> bool:
        return self.left is not None and self.left < FEW * self.total


def sequences(connection: psycopg.Connection[object], table: str) -> tuple[Sequence, ...]:
    """Those of the columns of `table` in schema public."""
    with connection.cursor(row_factory=class_row(Sequence)) as cursor:
        return tuple(cursor.execute(statement("migrate/survey_sequences"), {"table": f"public.{table}"}).fetchall())


def judge_sequences(table: str, found: Iterable[Sequence]) -> Iterator[Finding]:
    """A warning for each that will soon have no number left."""
    for one in found:
        if one.few:
            yield warn(what(table, one), remedy(table, one))


def what(table: str, one: Sequence) -> str:
    left = f"{one.left:,} numbers are" if one.left else "no number is"
    writes = (
        "writes no audit trail, so it claims and finishes nothing" if table == "agent_actions" else "gets no new task"
    )
    return f"{table}.{one.column} is {one.type}, and {left} left of {one.total:,}: without one, turbo {writes}"


def remedy(table: str, one: Sequence) -> str:
    """The statements that make room. The sequence of an identity takes the type of its column."""
    widen = f"ALTER TABLE public.{table} ALTER COLUMN {quoted(one.column)} TYPE bigint"
    if not one.identity:
        widen += f"; ALTER SEQUENCE {one.sequence} AS bigint"
    return f"at a quiet time, because it rewrites the table: {widen}"
