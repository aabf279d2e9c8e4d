"""RowRetention deletes what is old enough and turbo's own, and nothing else. Time is stepped by writing old moments."""

import asyncio
import logging
import re
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
import yaml

from tests.support.logins import login
from tests.support.migrations import OLD_TABLE, query
from tests.support.waiting import until
from tests.support.workers import Bench
from turbo.config.worker import load_worker_config
from turbo.db.lane import Lane
from turbo.db.retention_store import DeletedTasks, RetentionAges, RetentionStore
from turbo.maintenance.leadership import Leadership
from turbo.maintenance.row_retention import RowRetention
from turbo.migrate import grant_roles, migrate
from turbo.observability.metrics import Metrics
from turbo.sql import statement

DAY = 86_400.0
ALL = RetentionAges(completed=30 * DAY, failed=90 * DAY, cancelled=7 * DAY, actions=30 * DAY)


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection]:
    """A session past the triggers: it can write history."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")
        yield connection


@asynccontextmanager
async def leader(
    dsn: str, ages: RetentionAges = ALL, leadership: Leadership | None = None, **settings: float
) -> AsyncIterator[RowRetention]:
    lane, leads = Lane(dsn, "retention"), leadership or Leadership()
    leads.update(True)
    yield RowRetention(RetentionStore(lane, ages), leads, Metrics(), pause=0, **settings)  # type: ignore[arg-type]
    await lane.close()


def finished(
    db: psycopg.Connection,
    task_id: str,
    status: str = "completed",
    days: float = 31,
    token: int | None = -7,
    run_after: float = 31,
) -> str:
    db.execute(
        "insert into agent_tasks (task_id, task_description, status, fencing_token, completed_at, run_after, created_at)"
        " values (%s, 'x', %s, %s, now() - make_interval(secs => %s), now() - make_interval(secs => %s), now())",
        (task_id, status, token, days * DAY, run_after * DAY),
    )
    return task_id


def left(db: psycopg.Connection) -> set[str]:
    return {row[0] for row in db.execute("select task_id from agent_tasks")}


async def test_nothing_is_deleted_unless_configured(db: psycopg.Connection, dsn: str, tmp_path: Path) -> None:
    for status in ("completed", "failed", "cancelled"):
        finished(db, status, status, days=3650, run_after=3650)
    db.execute(
        "insert into agent_actions (task_id, action_type, actor, executed_at) values ('x', 'finished', 'w', '2001-01-01')"
    )
    async with leader(dsn, RetentionAges()) as one:
        await asyncio.wait_for(one.run(), 5)
        await one.once()
    assert left(db) == {"completed", "failed", "cancelled"}
    assert db.execute("select count(*) from agent_actions").fetchone() == (1,)
    settings = load_worker_config(Path(__file__).parents[2] / "config" / "worker.yaml").retention
    assert set(settings.model_dump().values()) == {None}


async def test_old_finished_rows_go_and_all_others_stay(db: psycopg.Connection, dsn: str) -> None:
    goes = {
        finished(db, "completed 31 days ago"),
        finished(db, "cancelled 8 days ago", "cancelled", 8),
        finished(db, "failed 91 days ago", "failed", 91, run_after=91),
        finished(db, "poison, its token still alive", "failed", 91, token=7, run_after=91),
        finished(db, "cancelled by hand while it waited", "cancelled", 8, token=None),
        finished(db, "held, and denied", "cancelled", 8, token=None),
    }
    db.execute(
        "insert into agent_actions (task_id, action_type, actor, from_status, to_status)"
        " values ('cancelled by hand while it waited', 'edited', 'ana', 'pending', 'cancelled'),"
        " ('held, and denied', 'answered', 'ana', 'waiting', 'cancelled')"
    )
    stays = {
        finished(db, "completed 29 days ago", days=29),
        finished(db, "failed 89 days ago", "failed", 89, run_after=89),
        finished(db, "cancelled 6 days ago", "cancelled", 6),
        finished(db, "an old poller's", token=None),
        finished(db, "an old poller's, cancelled", "cancelled", 31, token=None),
        finished(db, "in the old history, adopted yesterday", run_after=1),
        finished(db, "of another system", "archived"),
        finished(db, "of another system, done", "done", token=None),
        finished(db, "in progress at an old poller", "in_progress", token=None),
        *(
            finished(db, f"{status} with an old end", status)
            for status in ("pending", "scheduled", "running", "waiting", "blocked")
        ),
    }
    db.execute(
        "insert into agent_tasks (task_id, task_description, status, fencing_token, run_after)"
        " values ('no end known', 'x', 'completed', -7, '2001-01-01')"
    )
    async with leader(dsn) as one:
        await one.once()
        assert one.deleted == {"completed": 1, "cancelled": 3, "failed": 2}
    assert left(db) == stays | {"no end known"}
    assert not goes & left(db)


async def test_one_status_can_be_kept_for_ever(db: psycopg.Connection, dsn: str) -> None:
    finished(db, "c", days=4000, run_after=4000)
    finished(db, "f", "failed", 4000, run_after=4000)
    async with leader(dsn, RetentionAges(completed=30 * DAY)) as one:
        await one.once()
    assert left(db) == {"f"}


async def test_many_rows_with_one_timestamp_are_all_found(
    db: psycopg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass goes on from (end, id): kept rows in front, and a thousand with one end, must not stop it."""
    monkeypatch.setattr("turbo.maintenance.row_retention.READ_ROWS", 50)
    db.execute(
        "insert into agent_tasks (task_id, task_description, status, fencing_token, completed_at, run_after)"
        " select 't' || i, 'x', case when i % 3 = 0 then 'failed' else 'completed' end, -i,"
        "        now() - interval '40 days', now() - interval '40 days' from generate_series(1, 1000) i"
    )
    async with leader(dsn, batch=20) as one:
        await one.once()
        assert one.deleted == {"completed": 667}
    assert len(left(db)) == 333


def in_step(monkeypatch: pytest.MonkeyPatch, steps: int, leaders: int) -> None:
    """For the first `steps` batches of each leader, none deletes before all hold theirs."""
    met = asyncio.Barrier(leaders)
    delete = RetentionStore.delete_tasks
    steps_left: dict[int, int] = {}

    async def meet_then_delete(self: RetentionStore, task_ids: Sequence[str]) -> DeletedTasks:
        steps_left[id(self)] = steps_left.get(id(self), steps) - 1
        if steps_left[id(self)] >= 0:
            await met.wait()
        return await delete(self, task_ids)

    monkeypatch.setattr(RetentionStore, "delete_tasks", meet_then_delete)


async def test_two_leaders_delete_every_row_once(
    db: psycopg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.execute(
        "insert into agent_tasks (task_id, task_description, status, fencing_token, completed_at, run_after)"
        " select 't' || i, 'x', 'completed', -i, now() - interval '40 days' + i * interval '1 second', now() - interval '40 days'"
        "   from generate_series(1, 2000) i"
    )
    db.execute(
        "insert into agent_actions (task_id, action_type, actor, executed_at)"
        " select 't' || i, 'finished', 'w', now() - interval '40 days' from generate_series(1, 2000) i"
    )
    async with leader(dsn, batch=50) as one, leader(dsn, batch=50) as two:
        in_step(monkeypatch, 20, 2)  # both hold the same list before either deletes: what could delete twice
        await asyncio.gather(one.once(), two.once())
        assert one.deleted["completed"] + two.deleted["completed"] == 2000
        assert one.deleted["audit rows"] + two.deleted["audit rows"] == 2000
    assert left(db) == set()


async def test_referenced_rows_stay_and_are_logged_once(
    db: psycopg.Connection, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    db.execute("create table invoice (id int, task_id text references agent_tasks)")
    for number in range(40):
        finished(db, f"t{number}")
    db.execute("set session_replication_role = origin")
    db.execute("insert into invoice select n, 't' || n from generate_series(3, 5) n")
    async with leader(dsn) as one:
        with caplog.at_level(logging.WARNING):
            await one.once()
            assert one.deleted["completed"] == 37
            await one.once()
    assert left(db) == {"t3", "t4", "t5"}
    assert db.execute("select count(*) from invoice").fetchone() == (3,)
    warned = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert warned == ["retention keeps finished tasks that table invoice refers to (invoice_task_id_fkey)"]


async def test_revived_task_stays(db: psycopg.Connection, dsn: str) -> None:
    """Looked at as finished; retried by hand, or held by somebody, before the delete arrives."""
    finished(db, "retried"), finished(db, "held"), finished(db, "plain")
    lane = Lane(dsn, "retention")
    store = RetentionStore(lane, ALL)
    due = (await store.due_tasks("-infinity", None, 10)).task_ids
    assert set(due) == {"retried", "held", "plain"}
    db.execute("update agent_tasks set status = 'pending' where task_id = 'retried'")
    with psycopg.connect(dsn) as other:
        other.execute("select from agent_tasks where task_id = 'held' for update")
        await store.delete_tasks(due)
    assert left(db) == {"retried", "held"}
    await lane.close()


async def test_losing_leadership_stops_after_the_batch(
    db: psycopg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        finished(db, f"t{number}")
    leadership = Leadership()
    delete = RetentionStore.delete_tasks

    async def delete_and_lose(self: RetentionStore, task_ids: Sequence[str]) -> DeletedTasks:
        leadership.update(False)
        return await delete(self, task_ids)

    monkeypatch.setattr(RetentionStore, "delete_tasks", delete_and_lose)
    async with leader(dsn, leadership=leadership, batch=10) as one:
        await one.once()
        assert one.deleted == {"completed": 10}
    assert len(left(db)) == 20


async def test_audit_trail_has_its_own_age(db: psycopg.Connection, dsn: str) -> None:
    finished(db, "done", days=1)
    db.execute("insert into agent_tasks (task_id, task_description, status) values ('waits', 'x', 'pending'),"
               " ('asked', 'x', 'waiting'), ('needs', 'x', 'blocked')")  # fmt: skip
    rows = [
        ("done", "claimed", "w", 31, False),
        ("done", "finished", "w", 1, True),
        ("deleted long ago", "finished", "w", 31, False),
        (None, "claimed", "w", 31, False),
        ("waits", "promoted", "w", 31, True),
        ("asked", "asked", "w", 31, True),
        ("needs", "edited", "w", 31, True),
        ("done", "logged by an old poller", None, 4000, True),
    ]
    for task, action, actor, days, _ in rows:
        db.execute(
            "insert into agent_actions (task_id, action_type, actor, executed_at)"
            " values (%s, %s, %s, now() - make_interval(secs => %s))",
            (task, action, actor, days * DAY),
        )
    async with leader(dsn, RetentionAges(actions=30 * DAY)) as one:
        await one.once()
        assert one.deleted == {"audit rows": 3}
    assert {(r[0], r[1]) for r in db.execute("select task_id, action_type from agent_actions")} == {
        (task, action) for task, action, _, _, keep in rows if keep
    }
    assert left(db) == {"done", "waits", "asked", "needs"}


async def test_usage_has_its_own_age(db: psycopg.Connection, dsn: str) -> None:
    insert = (
        "insert into agent_usage (task_id, fencing_token, executor, attempt, queue, task_type, at)"
        " select 't', n, 'claude', 1, 'default', 'x', now() - %s * interval '1 day' from generate_series(1, %s) n"
    )
    db.execute(insert, [8, 25])
    db.execute(insert.replace("'t'", "'young'"), [6, 3])
    finished(db, "its task stays", days=4000, run_after=4000)
    async with leader(dsn, RetentionAges(usage=7 * DAY), batch=10) as one:
        await one.once()
        assert one.deleted == {"usage rows": 25}
    assert db.execute("select task_id, count(*) from agent_usage group by 1").fetchall() == [("young", 3)]
    assert left(db) == {"its task stays"}


async def test_transcripts_go_with_their_conversations(
    db: psycopg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turbo.maintenance.row_retention.TRANSCRIPT_ROWS", 10)
    for task_id in ("asks", "followed", "over", "young"):
        finished(db, task_id, "waiting" if task_id == "asks" else "completed", days=4000, run_after=4000)
    finished(db, "follow-up", "blocked")
    db.execute(
        "insert into agent_conversations (task_id, conversation, place, first)"
        " values ('followed', 1, 0, 'followed'), ('follow-up', 1, 1, 'followed')"
    )
    db.execute(
        "insert into agent_transcripts (task_id, fencing_token, batch, kind, lines, sha256, at)"
        " select t, 1, n, 'event', '{}', '', now() - n * interval '1 second' - case t when 'young' then 6 else 8 end * interval '1 day'"
        " from unnest(array['asks', 'followed', 'gone', 'over', 'young']) t, generate_series(1, 25) n"
    )
    async with leader(dsn, RetentionAges(transcripts=7 * DAY)) as one:
        await one.once()
        assert one.deleted == {"batches of transcripts": 50}
    query = "select task_id, count(*) from agent_transcripts group by 1 order by 1"
    assert db.execute(query).fetchall() == [("asks", 25), ("followed", 25), ("young", 25)]
    assert left(db) == {"asks", "followed", "follow-up", "over", "young"}


async def test_audit_trail_of_many_pages_is_read_through(
    db: psycopg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turbo.maintenance.row_retention.PAGES", 3)
    db.execute(
        "insert into agent_actions (task_id, action_type, actor, executed_at)"
        " select 't', 'finished', 'w', now() - (i % 2) * interval '40 days' from generate_series(1, 5000) i"
    )
    async with leader(dsn, RetentionAges(actions=30 * DAY), batch=100) as one:
        await one.once()
        assert one.deleted == {"audit rows": 2500}
    assert db.execute("select count(*), min(executed_at) > now() - interval '1 day' from agent_actions").fetchone() == (
        2500,
        True,
    )


OWNER_KEEPS = (
    "create function keep() returns trigger language plpgsql as $$ begin"
    " if old.task_id like 'kept%' then perform old.task_id::int; end if; return old; end $$;"
    " create trigger keep before delete on {} for each row execute function keep()"
)


async def test_task_whose_deletion_fails_keeps_no_other(db: psycopg.Connection, dsn: str) -> None:
    """An owner's trigger that fails with an error of its own, not with RAISE."""
    for number in range(40):
        finished(db, f"kept{number}" if number % 20 == 7 else f"goes{number}")
    db.execute(OWNER_KEEPS.format("agent_tasks").encode())
    async with leader(dsn) as one:
        await one.once()
        assert one.deleted == {"completed": 38}
    assert left(db) == {"kept7", "kept27"}


async def test_audit_row_whose_deletion_fails_keeps_no_other(db: psycopg.Connection, dsn: str) -> None:
    db.execute(
        "insert into agent_actions (task_id, action_type, actor, executed_at)"
        " select case when i % 40 = 7 then 'kept' else 'goes' end || i, 'finished', 'w', now() - interval '40 days'"
        "   from generate_series(1, 100) i"
    )
    db.execute(OWNER_KEEPS.format("agent_actions").encode())
    async with leader(dsn, RetentionAges(actions=30 * DAY), batch=30) as one:
        await one.once()
        assert one.deleted == {"audit rows": 97}
    assert db.execute("select count(*) from agent_actions where task_id like 'kept%'").fetchone() == (3,)


def test_batch_never_reads_the_whole_table(db: psycopg.Connection) -> None:
    """The plans at a size where PostgreSQL would rather scan than not."""
    db.execute(
        "insert into agent_tasks (task_id, task_description, status, fencing_token, completed_at, run_after)"
        " select 't' || i, 'x', 'completed', -i, now() - interval '40 days' + i * interval '1 second', now() - interval '40 days'"
        "   from generate_series(1, 40000) i"
    )
    db.execute(
        "insert into agent_actions (task_id, action_type, actor, executed_at)"
        " select 't' || i, 'finished', 'w', now() - interval '40 days' from generate_series(1, 40000) i"
    )
    db.execute(
        "insert into agent_usage (task_id, fencing_token, executor, attempt, queue, task_type, at)"
        " select 't' || i, i, 'claude', 1, 'default', 'x', now() - interval '40 days' from generate_series(1, 40000) i"
    )
    db.execute("analyze agent_tasks, agent_actions, agent_usage")
    known = {
        "completed": "2592000",
        "failed": "null",
        "cancelled": "604800",
        "actions": "2592000",
        "usage": "2592000",
        "limit": "1000",
        "after": "'-infinity'",
        "after_id": "null",
        "to_page": "150",
        "task_id": "array(select 't' || i from generate_series(1, 1000) i)",
    }

    def plan(name: str, **more: str) -> str:
        values = known | more
        text = re.sub(r"%\((\w+)\)s", lambda m: values[m[1]], statement(name)).replace("%%", "%")
        return "\n".join(row[0] for row in db.execute(f"explain {text}".encode()))

    due = plan("retention/due")
    assert "agent_tasks_finished" in due
    assert "Seq Scan on agent_tasks" not in due
    assert "agent_tasks_finished" in plan("retention/due", after="(now() - interval '39 days')", after_id="'t7'")
    tasks = plan("retention/tasks")
    assert "agent_tasks_pkey" in tasks
    assert "Seq Scan" not in tasks
    actions = plan("retention/actions", after="'(100,0)'")
    assert "Tid Range Scan on agent_actions" in actions
    assert "Seq Scan" not in actions
    usage = plan("retention/usage")
    assert "agent_usage_at" in usage
    assert "Seq Scan" not in usage


async def test_adopted_table_without_zone_or_usual_keys_works(empty_dsn: str) -> None:
    query(
        empty_dsn,
        OLD_TABLE.replace("task_id text", "task_id serial").replace(
            "completed_at timestamptz", "completed_at timestamp"
        ),
    )
    query(
        empty_dsn,
        "insert into agent_tasks (task_description, status, completed_at)"
        " select 'x', 'completed', now() - interval '400 days' from generate_series(1, 3)",
    )
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as db:
        async with leader(empty_dsn, RetentionAges(completed=30 * DAY)) as one:
            await one.once()
            assert one.deleted == {}  # history from before turbo stays
            db.execute("set session_replication_role = replica")
            db.execute(
                "update agent_tasks set fencing_token = -1, run_after = now() - interval '31 days' where task_id <= 2"
            )
            await one.once()
            assert one.deleted == {"completed": 2}


async def test_turbo_worker_may_delete_and_others_log_once(
    db: psycopg.Connection, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    grant_roles(dsn)
    finished(db, "one"), finished(db, "two", days=32)
    with login(dsn, "turbo_worker") as fleet:
        async with leader(fleet) as one:
            await one.once()
        assert left(db) == set()
        finished(db, "three")
        db.execute("revoke delete on agent_tasks from turbo_worker")
        async with leader(fleet) as one:
            await one.once()
            await one.once()
    assert left(db) == {"three"}
    assert sum("retention may not delete" in record.message for record in caplog.records) == 1


def test_leading_worker_deletes_and_counts(bench: Bench, db: psycopg.Connection) -> None:
    finished(db, "old"), finished(db, "young", days=1)
    worker = bench.start(bench.config() | {"retention": {"completed_days": 30}})
    until(lambda: left(db) == {"young"}, what=f"retention deletes\n{bench.logs()}")
    worker.said("retention deleted 1 completed")
    address = bench.sql("select metrics_address from agent_workers")[0][0]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
        assert 'turbo_retention_deleted_total{table="agent_tasks"} 1.0' in page.read().decode()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("completed_days", 0, "retention.completed_days: must be greater than or equal to 1"),
        ("completed_day", 3, "retention.completed_day: unknown key; did you mean 'completed_days'?"),
    ],
)
def test_invalid_retention_is_one_clear_error(tmp_path: Path, key: str, value: object, message: str) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text(
        yaml.safe_dump({"executors": {"e": {"kind": "python", "handler": "a:b"}}, "retention": {key: value}})
    )
    with pytest.raises(Exception, match=re.escape(message)):
        load_worker_config(file)
