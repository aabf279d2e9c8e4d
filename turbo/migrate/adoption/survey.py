"""An existing `agent_tasks` and `agent_actions`: their definitions from the catalog, and facts about their rows.

    survey(connection)          ──▶ Survey: two tables (or None), clashing names, privileges of this session
    inspect_rows(connection, …) ──▶ Rows: statuses and counts, and rows postponed by a column that turbo does not use

Reads only. May wait for an exclusive lock on a table, so the caller sets `lock_timeout` and handles psycopg's
LockNotAvailable.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import errors
from psycopg.rows import TupleRow, class_row

from turbo import db
from turbo.domain.states import TaskState
from turbo.migrate.adoption import contract
from turbo.migrate.adoption.sequences import Sequence as NumberSequence
from turbo.migrate.adoption.sequences import sequences
from turbo.sql import statement

Connection = psycopg.Connection[TupleRow]

_ROWS_MILLISECONDS = 10_000
_TIMESTAMPS = frozenset({"timestamptz", "timestamp", "date"})


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column as declared. `kind`: the base type under any domain, 'enum' for an enum; `length`: a varchar's limit.
    `required`: NOT NULL, by itself or by its domain. `labels`: the enum's."""

    name: str
    type: str
    kind: str
    length: int | None
    required: bool
    has_default: bool
    identity: str
    generated: str
    domain: str | None
    enum: str | None
    labels: list[str]
    may_alter_type: bool
    comment: str = ""

    @property
    def filled(self) -> bool:
        """Whether an INSERT may omit it."""
        return self.has_default or not self.required or self.generated != ""


@dataclass(frozen=True, slots=True)
class CheckConstraint:
    name: str
    expression: str
    validated: bool
    no_inherit: bool
    columns: list[str]


@dataclass(frozen=True, slots=True)
class Dependent:
    """An object that depends on the table. `what`: key_out | key_in | unique | index | trigger | rule | view |
    partition | publication; `updates`: a trigger that would fire when turbo fills run_after."""

    what: str
    name: str
    other: str
    columns: list[str] | None
    updates: bool


@dataclass(frozen=True, slots=True)
class AdoptedTable:
    """An existing table. `rows` is the planner's estimate, -1 without one; `size` in bytes, of the table alone."""

    name: str
    kind: str
    size: int
    rows: int
    owner: str
    may: bool
    options: tuple[str, ...]
    row_security: bool
    is_partition: bool
    inherits: bool
    columns: tuple[TableColumn, ...]
    defaults: dict[str, str]
    checks: tuple[CheckConstraint, ...]
    neighbours: tuple[Dependent, ...]
    sequences: tuple[NumberSequence, ...]

    def column(self, name: str) -> TableColumn | None:
        return next((c for c in self.columns if c.name == name), None)

    def of(self, what: str) -> list[Dependent]:
        return [n for n in self.neighbours if n.what == what]


@dataclass(frozen=True, slots=True)
class Survey:
    """`begun`: turbo's own tables exist already. `clashes`: (name, kind) of foreign objects with turbo's names. `quiet`: this
    session can disable foreign triggers for one transaction."""

    tasks: AdoptedTable | None
    actions: AdoptedTable | None
    begun: bool
    clashes: tuple[tuple[str, str], ...]
    may_create: bool
    quiet: bool
    user: str
    refused: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """CHECK constraints (`agent_tasks.name`; `domain name`) with the states, or kinds of trail rows, that they refuse."""
    unjudged: tuple[str, ...] = ()
    unvalidated: tuple[str, ...] = ()
    """Constraints of agent_tasks that turbo replaced and has not validated yet."""


@dataclass(frozen=True, slots=True)
class Rows:
    """`statuses`: (status, rows), the most frequent first; None if the table is too large to count for a plan. `put_off`:
    waiting rows with a future value in a foreign column, by column."""

    statuses: tuple[tuple[str | None, int], ...] | None
    put_off: tuple[tuple[str, int], ...] = ()


def survey(connection: Connection) -> Survey:
    """Read the catalog. Raises psycopg.errors.LockNotAvailable while a table is locked exclusively."""
    begun, may_create, superuser = connection.execute(statement("migrate/survey_session")).fetchone() or (False,) * 3
    quiet = superuser
    if not superuser and connection.info.server_version >= 150000:
        row = connection.execute(statement("migrate/survey_replicate")).fetchone()
        quiet = bool(row and row[0])
    names = {"relations": list(contract.RELATIONS), "types": list(contract.TYPES)}
    clashes = [] if begun else connection.execute(statement("migrate/survey_names"), names).fetchall()
    unvalidated = connection.execute(statement("migrate/survey_unvalidated")).fetchall() if begun else []
    tasks, actions = _table(connection, "agent_tasks"), _table(connection, "agent_actions")
    refused: dict[str, tuple[str, ...]] = {}
    unjudged: list[str] = []
    if tasks is not None:
        _judge_checks(connection, tasks, contract.ROWS, refused, unjudged)
        _judge_domain(connection, tasks.column("status"), refused)
    if actions is not None:
        trail = [(row["action_type"], row) for row in contract.TRAIL_ROWS]
        _judge_checks(connection, actions, trail, refused, unjudged)
    return Survey(
        tasks, actions, begun, tuple((n, k) for n, k in clashes), may_create, quiet, connection.info.user, refused,
        tuple(unjudged), tuple(row[0] for row in unvalidated),
    )  # fmt: skip


def inspect_rows(connection: Connection, tasks: AdoptedTable | None) -> Rows | None:
    """Count the rows with a reader's lock only. Gives up on a large table after ten seconds."""
    if tasks is None or tasks.kind not in ("r", "p") or tasks.column("status") is None:
        return None
    try:
        with connection.transaction():
            connection.execute("select set_config('statement_timeout', %s, true)", (str(_ROWS_MILLISECONDS),))
            statuses = connection.execute(statement("migrate/survey_statuses")).fetchall()
            known = {*(column.name for column in contract.TASKS), *contract.RESERVED}
            theirs = [c.name for c in tasks.columns if c.name not in known and c.kind in _TIMESTAMPS]
            put_off: list[tuple[Any, ...]] = []
            if theirs:
                put_off = connection.execute(statement("migrate/survey_due_later"), {"columns": theirs}).fetchall()
    except errors.QueryCanceled:
        return Rows(None)
    return Rows(tuple((s, int(n)) for s, n in statuses), tuple((c, int(n)) for c, n in put_off))


def twice(connection: Connection, columns: Sequence[str]) -> tuple[str, ...]:
    """The `columns` of agent_tasks with duplicate values that turbo's unique index would refuse."""
    if not columns:
        return ()
    return tuple(row[0] for row in connection.execute(statement("migrate/survey_twice"), {"columns": list(columns)}))


def _table(connection: Connection, name: str) -> AdoptedTable | None:
    parameters = {"table": f"public.{name}"}

    def run(what: str) -> list[tuple[Any, ...]]:
        return connection.execute(statement(f"migrate/survey_{what}"), parameters).fetchall()

    tables = run("table")
    if not tables:
        return None
    _, kind, size, rows, owner, may, options, row_security, is_partition, has_children, has_parents = tables[0]
    with connection.cursor(row_factory=class_row(TableColumn)) as of_columns:
        columns = of_columns.execute(statement("migrate/survey_columns"), parameters).fetchall()
    with connection.cursor(row_factory=class_row(Dependent)) as of_neighbours:
        neighbours = of_neighbours.execute(statement("migrate/survey_neighbours"), parameters).fetchall()
    with connection.cursor(row_factory=class_row(CheckConstraint)) as of_checks:
        checks = of_checks.execute(statement("migrate/survey_checks"), parameters).fetchall()
    defaults = {str(column): str(text) for column, text in run("defaults")}
    return AdoptedTable(
        name, kind, size, rows, owner, may, tuple(options), row_security, is_partition, has_children or has_parents,
        tuple(columns), defaults, tuple(checks), tuple(neighbours), sequences(connection, name),
    )  # fmt: skip


def _judge_checks(
    connection: Connection,
    table: AdoptedTable,
    rows: Sequence[tuple[str, dict[str, str]]],
    refused: dict[str, tuple[str, ...]],
    unjudged: list[str],
) -> None:
    """Ask the server which of turbo's rows each CHECK would refuse, by evaluating its expression on sample rows."""
    for check in table.checks:
        states: list[str] = []
        for state, values in rows:
            row = values | ({"status": state} if table.name == "agent_tasks" else {})
            status = table.column("status")
            if table.name == "agent_tasks" and status and status.kind == "enum" and state not in status.labels:
                if "status" in check.columns:
                    states.append(state)
                continue
            try:
                row_passes = connection.execute(_judging(table, check, row)).fetchone()
            except psycopg.DatabaseError as error:
                if db.is_transient(error):
                    raise
                unjudged.append(f"{table.name}.{check.name}")  # it calls a function that fails on a sample row
                break
            if row_passes and row_passes[0] is False and state not in states:
                states.append(state)
        if states:
            refused[f"{table.name}.{check.name}"] = tuple(states)


def _judge_domain(connection: Connection, status: TableColumn | None, refused: dict[str, tuple[str, ...]]) -> None:
    """Ask the server which states the domain of a status column refuses."""
    if status is None or status.domain is None:
        return
    states = []
    for state in TaskState:
        if status.kind == "enum" and state not in status.labels:
            continue
        try:
            cast = psycopg.sql.SQL(f"select {{}}::{status.domain}").format(psycopg.sql.Literal(str(state)))
            connection.execute(cast)
        except (errors.IntegrityError, errors.DataError):
            states.append(str(state))
    if states:
        refused[f"domain {status.domain}"] = tuple(states)


def _judging(table: AdoptedTable, check: CheckConstraint, row: dict[str, str]) -> psycopg.sql.Composed:
    sql = psycopg.sql
    made_up = []
    for column in table.columns:
        value = row.get(column.name)
        if column.kind == "uuid" and value is not None:
            value = "00000000-0000-0000-0000-000000000001"
        # the base type: a domain's checks are judged separately
        cast = sql.SQL((column.enum or column.kind) if column.domain else column.type)
        literal = sql.SQL("null") if value is None else sql.Literal(value)
        made_up.append(sql.SQL("{}::{} as {}").format(literal, cast, sql.Identifier(column.name)))
    return sql.SQL("select ({}) from (select {}) as {}").format(
        sql.SQL(check.expression),
        sql.SQL(", ").join(made_up),
        sql.Identifier(table.name),
    )
