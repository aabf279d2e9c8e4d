"""An adoption may be cut off anywhere and run again; and what it does to rows that waited before turbo came."""

from typing import Any

import psycopg
import pytest

from tests.support.adoption import PATIENCE, contents, each, make, old_columns, places
from tests.support.migrations import Background, query
from tests.support.odd_tables import PREDECESSOR, OddTable
from turbo.migrate import migrate
from turbo.migrate.adoption import backfill
from turbo.migrate.files import read


class Killed(Exception):
    pass


@each
def test_adoption_resumes_after_a_cut_at_any_statement(
    empty_dsn: str, table: OddTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run k loses its connection when it would send its k-th statement: every statement is once the last one done. The
    backfill is cut off in the same way, between two of its batches."""
    make(empty_dsn, table, rows=200)
    columns = old_columns(empty_dsn)
    before, where = contents(empty_dsn, columns), places(empty_dsn)
    sent, allowed, cuts = 0, 0, 0
    execute, next_statement = psycopg.Connection.execute, backfill.statement  # type: ignore[attr-defined]
    monkeypatch.setattr(backfill, "BATCH", 7)

    def count(connection: psycopg.Connection | None) -> None:
        nonlocal sent
        sent += 1
        if sent > allowed:
            if connection is not None:
                connection.close()
            raise Killed

    def counted_execute(connection: psycopg.Connection, query: Any, *more: Any, **options: Any) -> Any:
        if isinstance(query, bytes):  # a statement of a migration's file
            count(connection)
        return execute(connection, query, *more, **options)

    def counted_statement(name: str) -> str:
        count(None)
        return next_statement(name)

    monkeypatch.setattr(psycopg.Connection, "execute", counted_execute)
    monkeypatch.setattr(backfill, "statement", counted_statement)
    while True:
        sent = 0
        try:
            migrate(empty_dsn)
        except Killed:
            cuts += 1
            allowed += 1
            assert contents(empty_dsn, columns) == before
        else:
            break
    monkeypatch.undo()
    assert cuts > 8, "the fault bit"
    assert migrate(empty_dsn).applied == ()
    assert [place for place in places(empty_dsn) if place in where] == where
    assert query(empty_dsn, "select count(*) from pg_index where not indisvalid") == [(0,)]
    assert query(empty_dsn, "select count(*) from pg_constraint where not convalidated") == [(0,)]
    assert query(empty_dsn, "select count(*) from turbo_meta where key ~ 'unvalidated'") == [(0,)]
    assert query(empty_dsn, "select count(distinct run_after) from agent_tasks where status = 'pending'") == [(40,)]


def test_locked_waiting_row_is_skipped_and_unchanged(empty_dsn: str) -> None:
    make(empty_dsn, PREDECESSOR, rows=200)
    with psycopg.connect(empty_dsn) as poller:
        locked: list[tuple[object, ...]] = []

        def lock(one: str) -> None:
            if one == f"applied {read()[1].label}":  # the indexes; the backfill is next
                locked.extend(
                    poller.execute(
                        "select task_id from agent_tasks where status = 'pending' limit 1 for update"
                    ).fetchall()
                )

        run = Background(empty_dsn, PATIENCE, on_line=lock).start()
        run.heard("39 waiting rows got their created_at")
        poller.execute("update agent_tasks set status = 'assigned' where task_id = %s", locked[0])
        poller.commit()
    run.result()
    assert query(
        empty_dsn,
        "select count(*) from agent_tasks where run_after < now() - interval '1 hour' and status = 'assigned'",
    ) == [(0,)]


def test_adopted_check_is_validated_and_still_enforced(empty_dsn: str) -> None:
    make(empty_dsn, PREDECESSOR, rows=200)
    migrate(empty_dsn)
    assert query(empty_dsn, "select conname, convalidated from pg_constraint where contype = 'c' and conrelid = 'agent_tasks'::regclass"
                            " order by 1") == [("from_1_to_10", True), ("known_status", True)]  # fmt: skip
    with pytest.raises(psycopg.errors.CheckViolation, match="known_status"):
        query(empty_dsn, "update agent_tasks set status = 'nonsense' where task_id = 'old_1'")
    with pytest.raises(psycopg.errors.CheckViolation, match="from_1_to_10"):
        query(empty_dsn, "insert into agent_tasks (task_description, task_priority) values ('x', 11)")


def test_rows_from_before_keep_their_order(empty_dsn: str) -> None:
    """created_at is in the zone of its writers, two hours ahead of the server: order holds, and nothing lies in the future."""
    make(empty_dsn, PREDECESSOR, rows=100)
    query(empty_dsn, "update agent_tasks set created_at = created_at + interval '2 hours', task_priority = 5")
    oldest_first = query(empty_dsn, "select task_id from agent_tasks where status = 'pending' order by created_at")
    migrate(empty_dsn)
    assert (
        query(empty_dsn, "select task_id from agent_tasks where status = 'pending' order by run_after") == oldest_first
    )
    assert query(empty_dsn, "select max(run_after) < now() from agent_tasks where status = 'pending'") == [(True,)]
    assert query(empty_dsn, "select count(distinct run_after) from agent_tasks where status = 'pending'") == [(40,)]
