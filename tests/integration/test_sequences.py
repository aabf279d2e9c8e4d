"""A column that a sequence fills, near its end: `migrate --plan` and the doctor say so in time, and what to run."""

import psycopg
import pytest

from tests.support.database import fresh_database
from tests.support.migrations import OLD_TABLE
from turbo.doctor import Level, examine
from turbo.migrate import migrate, plan

TRAIL = "create table agent_actions ({}, task_id text, action_type text, success boolean, executed_at timestamptz default now())"
SERIALS = {
    "serial": ("id serial primary key", "agent_actions_id_seq"),
    "identity": ("id integer generated always as identity primary key", "agent_actions_id_seq"),
    "small": ("id smallserial primary key", "agent_actions_id_seq"),
    "sequence of its own": ("id int primary key default nextval('trail_numbers')", "trail_numbers"),
}


def old_tables(db: psycopg.Connection, column: str) -> None:
    db.execute(OLD_TABLE.encode())
    db.execute("create sequence trail_numbers")
    db.execute(TRAIL.format(column).encode())


@pytest.mark.parametrize("kind", SERIALS)
def test_column_near_its_last_number_is_named(kind: str) -> None:
    column, sequence = SERIALS[kind]
    most = 32_767 if kind == "small" else 2_147_483_647
    with fresh_database() as dsn, psycopg.connect(dsn, autocommit=True) as db:
        old_tables(db, column)
        assert not [f for f in plan(dsn).findings if "agent_actions.id" in f.what], "the control: most are left"
        db.execute("select setval(%s, %s)", [sequence, most * 9 // 10])
        (warned,) = [f for f in plan(dsn).findings if "agent_actions.id" in f.what]
        assert warned.level is Level.WARN
        assert f"{most - most * 9 // 10:,} numbers are left of {most:,}" in warned.what
        migrate(dsn)

        def doctor() -> tuple[Level, str, str]:
            (finding,) = [f for f in examine(dsn) if f.subject == "sequences"]
            return finding.level, finding.what, finding.do

        assert doctor() == (Level.WARN, warned.what, warned.do)
        db.execute("select setval(%s, %s)", [sequence, most])
        level, what, do = doctor()
        assert level is Level.FAIL
        assert "no number is left" in what
        assert what.endswith("turbo writes no audit trail, so it claims and finishes nothing")
        with pytest.raises(psycopg.Error):
            db.execute("insert into agent_actions (action_type) values ('x')")
        for statement in do.partition(": ")[2].split("; "):
            db.execute(statement.encode())
        db.execute("insert into agent_actions (action_type) values ('x')")
        assert doctor()[0] is Level.OK, "the remedy cures it"


def test_tables_of_a_new_database_are_far_from_their_last_number(dsn: str) -> None:
    (finding,) = [f for f in examine(dsn) if f.subject == "sequences"]
    assert finding.level is Level.OK
