"""Object-relational mappers on agent_tasks: what a save of every column may do to a task that turbo works on."""

from typing import Any

import psycopg
import pytest
from django.db import IntegrityError, OperationalError
from psycopg.rows import dict_row
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import OperationalError as AlchemyError
from sqlalchemy.orm import Session

from tests.support.orm import COLUMNS, AlchemyTask, alchemy_on, django_on, hibernate_save
from tests.support.steps import claim_one, ended
from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import RescueReason


@pytest.fixture
def tasks(dsn):
    with django_on(dsn) as model:
        yield model.objects


def row(db, task_id="t") -> dict[str, Any]:
    with db.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("select * from agent_tasks where task_id = %s", [task_id]).fetchone()


def add(db, **columns):
    given = {"task_id": "t", "task_description": "x", **columns}
    db.execute(
        f"insert into agent_tasks ({', '.join(given)}) values ({', '.join(['%s'] * len(given))})", [*given.values()]
    )


async def go_on(stores, db, state: str) -> None:
    """From pending to `state`, by turbo's own statements."""
    held = await claim_one(stores)
    if state == "running":
        return
    if state == "rescued":
        db.execute("update agent_workers set state = 'dead'")
        await stores.registry.rescue(RescueReason.WORKER_SILENT)
    elif state == "released":
        await stores.results.release([(held, None)], "drain")
    else:
        outcome = OutcomeKind.SUCCEEDED if state == "completed" else OutcomeKind.FAILED
        done = ended(held, outcome, output='{"output": 7}', final=True)
        await stores.results.finish([done])


STATES = ["running", "completed", "failed", "released", "rescued"]


@pytest.mark.parametrize("state", STATES)
async def test_stale_save_of_every_column_is_refused(db, stores, tasks, state):
    add(db)
    read = tasks.get(task_id="t")
    entity = row(db)
    await go_on(stores, db, state)
    before = row(db)
    read.task_description = "changed in a form"
    with pytest.raises(OperationalError, match="has changed since it was read") as refused:
        read.save()
    assert "Read the row again" in refused.value.__cause__.diag.message_hint
    with pytest.raises(psycopg.errors.SerializationFailure, match="its turbo_rev is"):
        hibernate_save(db, entity | {"task_description": "changed in a form"})
    assert row(db) == before
    again = tasks.get(task_id="t")
    again.task_description = "changed after another look"
    again.save()
    assert row(db) == before | {"task_description": "changed after another look"}
    read.save(update_fields=["task_priority"])
    assert row(db)["status"] == before["status"], "a save of chosen columns writes these alone"


async def test_save_in_the_revision_read_is_a_hand_edit(db, stores, tasks):
    add(db)
    read = tasks.get(task_id="t")
    read.status = "cancelled"
    read.save()
    assert row(db)["status"] == "cancelled"
    read.status = "pending"
    read.save()
    await go_on(stores, db, "running")
    read = tasks.get(task_id="t")
    read.status = "cancelled"
    read.save()
    assert (row(db)["status"], row(db)["cancel_to"]) == ("running", "cancelled"), "its agent is stopped first"


async def test_promoted_task_is_not_put_back_by_a_stale_save(db, stores, tasks):
    add(db, run_after="2099-01-01")
    read = tasks.get(task_id="t")
    db.execute("update agent_tasks set run_after = now(), status = 'scheduled', turbo_rev = turbo_rev + 1")
    await stores.claims.poll(["default"])
    assert row(db)["status"] == "pending"
    with pytest.raises(OperationalError, match="has changed since"):
        read.save()


@pytest.mark.parametrize("revision", ["null", "turbo_rev - 1", "turbo_rev + 2", "0", "9223372036854775807"])
async def test_only_the_next_revision_is_turbos_own(db, stores, revision):
    add(db)
    await go_on(stores, db, "running")
    db.execute("update agent_tasks set turbo_rev = turbo_rev + 1")
    before = row(db)
    for more in ("", ", status = 'pending'", ", output_data = '{}'"):
        with pytest.raises(psycopg.errors.SerializationFailure, match="has changed since it was read"):
            db.execute(f"update agent_tasks set turbo_rev = {revision}{more}".encode())
    assert row(db) == before


async def test_upsert_of_every_column_cannot_reset_a_task(db, stores, dsn):
    """SQLAlchemy's ON CONFLICT DO UPDATE."""
    add(db)
    await go_on(stores, db, "completed")
    before = row(db)
    new = insert(AlchemyTask).values(task_id="t", task_description="anew")
    upsert = new.on_conflict_do_update(
        index_elements=["task_id"], set_={c.name: c for c in new.excluded if c.name != "task_id"}
    )
    with (
        alchemy_on(dsn).connect() as connection,
        pytest.raises(AlchemyError, match="has changed since it was read"),
    ):
        connection.execute(upsert)
    assert row(db) == before


async def test_alchemy_writes_what_changed_in_any_state(db, stores, dsn):
    add(db)
    with Session(alchemy_on(dsn), expire_on_commit=False) as session:
        task = session.get_one(AlchemyTask, "t")
        session.commit()
        await go_on(stores, db, "running")
        task.task_description = "changed"
        session.commit()
    assert (row(db)["status"], row(db)["task_description"]) == ("running", "changed")


# ── inserts ─────────────────────────────────────────────────────────────────────────────────────────────────────────

DEFAULTS = {
    "task_type": "default",
    "task_priority": None,
    "status": "pending",
    "timeout_seconds": 300,
    "max_retries": 3,
    "retry_count": 0,
    "queue": "default",
    "infra_count": 0,
    "turbo_rev": 0,
}


def check_defaults(found: dict[str, Any]) -> None:
    assert {name: found[name] for name in DEFAULTS} == DEFAULTS
    assert found["created_at"] is not None
    assert found["run_after"] is not None


async def test_plain_models_insert_with_null_everywhere(db, stores, tasks, dsn):
    tasks.create(task_id="django", task_description="x")
    check_defaults(row(db, "django"))
    with Session(alchemy_on(dsn)) as session:
        session.add(AlchemyTask(task_id="alchemy", task_description="x"))
        session.commit()
    check_defaults(row(db, "alchemy"))
    claimed = (await stores.claims.claim("default", 5, may_idle=True)).tasks
    assert {task.task_id for task in claimed} == {"django", "alchemy"}


def test_null_counts_as_not_given_in_every_column(db):
    for column in COLUMNS:
        if column != "task_description":
            insert = f"insert into agent_tasks (task_description, {column}) values ('x', null) returning task_id"
            (found,) = db.execute(insert.encode()).fetchone()
            assert found.startswith("t_"), column
            check_defaults(row(db, found) | {"task_priority": None})


async def test_django_object_without_an_id_is_refused_with_a_hint(tasks):
    """An empty CharField or TextField is '' in Django, the primary key too."""
    with pytest.raises(IntegrityError, match="task_id is empty") as refused:
        tasks.create(task_description="x")
    assert "Leave task_id out" in refused.value.__cause__.diag.message_hint


def test_alchemy_insert_of_null_ids_generates_them(db, dsn):
    with alchemy_on(dsn).begin() as connection:
        connection.execute(insert(AlchemyTask).values(task_id=None, task_description="x"))
    assert db.execute("select task_id like 't\\_%' from agent_tasks").fetchall() == [(True,)]
