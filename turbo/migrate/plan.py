"""`turbo migrate --plan`: the existing tables, the findings about them, and every statement of a migration, in order.

The session is read-only and waits half a second at most. If a table is locked exclusively, the plan reports the lock and
shows the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import errors
from psycopg.rows import TupleRow

from turbo.domain.finding import Finding, warn
from turbo.domain.states import Level
from turbo.migrate import blockers, history, ownership, session
from turbo.migrate.adoption import adopt, backfill, upgrade
from turbo.migrate.adoption.finding import sorted_by_level
from turbo.migrate.adoption.judge import judge, judge_rows
from turbo.migrate.adoption.survey import AdoptedTable, Rows, Survey, inspect_rows, survey, twice
from turbo.migrate.files import Migration, read
from turbo.migrate.locks import NONE, Lock, lock_of

Connection = psycopg.Connection[TupleRow]

LOCK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class PlannedStatement:
    """SQL that is sent at once. `label`: its file, 'adoption' or 'backfill'. `note`: when, how often, why."""

    label: str
    sql: str
    in_transaction: bool
    lock: Lock
    note: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The migrations that a database lacks, in order; its existing tables; and every statement that would run.

    `tables` and `findings` are empty if nothing is adopted. `in_the_way`: sessions with an open transaction that a migration
    would have to wait for now.
    """

    database: str
    version: int
    latest: int
    pending: tuple[Migration, ...]
    tables: tuple[AdoptedTable, ...] = ()
    rows: Rows | None = None
    findings: tuple[Finding, ...] = ()
    statements: tuple[PlannedStatement, ...] = ()
    in_the_way: tuple[str, ...] = ()

    @property
    def refused(self) -> bool:
        return any(finding.level is Level.REFUSE for finding in self.findings)


def plan(dsn: str = "") -> Plan:
    """The plan of `migrate(dsn)`. Changes nothing. Raises MigrationError as `migrate` does."""
    with session.open_session(dsn, lock_timeout=LOCK_SECONDS, read_only=True) as connection:
        if owners := tuple(ownership.judge(connection)):  # nothing of theirs is read
            return Plan(session.place(connection), 0, history.SCHEMA_VERSION, read(), findings=owners)
        state = history.status(connection)
        pending = history.pending(connection, read())
        known = Plan(session.place(connection), state.version, state.latest, pending)
        try:
            if upgrade.concerns(pending):
                existing = survey(connection)
                return _with_statements(known, None, tuple(upgrade.judge(existing)), widening=_widening(existing))
            if not adopt.concerns(pending):
                return _with_statements(known, None)
            existing = survey(connection)
            judged = judge(existing, twice(connection, adopt.keys_of_its_own(existing)))
            rows = inspect_rows(connection, existing.tasks)
        except errors.LockNotAvailable:
            return _with_statements(known, None, _locked(connection))
        return _with_statements(known, existing, (), connection, tuple(judged), rows)


def _locked(connection: Connection) -> tuple[Finding, ...]:
    names = ("agent_tasks", "agent_actions")
    held = {str(b) for name in names for b in blockers.in_the_way(connection, f"public.{name}", readers=True)}
    by = "; ".join(sorted(held)) or "a session that has just started"
    return (
        warn(
            f"agent_tasks or agent_actions is locked exclusively by {by}, so its contents and the changes to it are not shown. "
            "Run the plan again when the lock is gone",
        ),
    )


def _with_statements(
    known: Plan,
    existing: Survey | None,
    findings: tuple[Finding, ...] = (),
    connection: Connection | None = None,
    judged: tuple[Finding, ...] = (),
    rows: Rows | None = None,
    widening: Sequence[PlannedStatement] = (),
) -> Plan:
    statements: list[PlannedStatement] = []
    for file in known.pending:
        if file.version == upgrade.BEFORE:
            statements += widening
        if existing is not None and file.version == adopt.STEPS_BEFORE:
            statements += _planned(adopt.steps(existing), existing)
        if existing is not None and existing.tasks is not None and file.version == adopt.BACKFILL_BEFORE:
            statements += _backfill(existing)
        for block in file.blocks:
            if existing is not None and adopt.has_been_built(block, existing):
                continue
            lock = lock_of(block, existing) if existing is not None else NONE
            statements.append(PlannedStatement(file.label, block.sql, file.in_transaction, lock))
    tables = tuple(t for t in (existing.tasks, existing.actions) if t is not None) if existing is not None else ()
    ours = existing is not None and existing.begun and not adopt.steps(existing)
    blocking: tuple[str, ...] = ()
    if connection is not None and not ours:
        sessions = {str(b) for t in tables for b in blockers.in_the_way(connection, f"public.{t.name}", readers=True)}
        blocking = tuple(sorted(sessions))
    all_findings = (*findings, *judged, *(judge_rows(rows) if rows is not None else ()))
    return Plan(
        known.database, known.version, known.latest, known.pending, tables, rows,
        tuple(sorted_by_level(all_findings)), tuple(statements), blocking,
    )  # fmt: skip


def _widening(existing: Survey) -> list[PlannedStatement]:
    return _planned(upgrade.steps(existing), existing)


def _planned(steps: Sequence[adopt.Step], existing: Survey) -> list[PlannedStatement]:
    return [
        PlannedStatement("adoption", step.block.sql, step.in_transaction, lock_of(step.block, existing), step.why)
        for step in steps
    ]


def _backfill(existing: Survey) -> list[PlannedStatement]:
    method = backfill.method_for(existing)
    if method is None or not adopt.will_mark(existing):
        return []
    lock = Lock("agent_tasks", "row locks", "sessions that need one of these rows wait for its batch", 0.05)
    once, *batch, done = method.sql()
    again = f"one batch of at most {backfill.BATCH} waiting rows, repeated until no row is left"
    return [
        PlannedStatement("backfill", once.rstrip() + ";\n", False, NONE, "once"),
        PlannedStatement("backfill", "".join(part.rstrip() + ";\n" for part in batch), True, lock, again),
        PlannedStatement("backfill", done.rstrip() + ";\n", False, NONE, "once"),
    ]
