"""A data-only restore: rows as turbo left them come back, from the table's owner and from nobody else."""

import os
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo

from tests.support import database
from tests.support.logins import login
from tests.support.steps import ME, claim_one, ended
from tests.support.stores import Stores
from tests.support.waiting_rows import record_question
from tests.support.work_rows import past_the_judges, place, tie
from turbo import embedded
from turbo.db.lane import Lane
from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import RescueReason, WorkerState
from turbo.migrate import grant_roles

STATES = ("completed", "failed", "running", "rescued", "retried", "cancelled", "pending", "scheduled")
ASKED = ("waiting", "held", "denied", "answered")


@pytest.fixture
async def used(dsn):
    """A database with a task in every state that turbo's statements leave."""
    lanes = Lane(dsn, "claims"), Lane(dsn, "results")
    stores = Stores("w-1-abc", *lanes)
    await stores.registry.register(ME, WorkerState.UP)
    with psycopg.connect(dsn, autocommit=True) as db:
        for state in ("completed", "failed", "rescued", "retried", "running"):
            db.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [state])
            held = await claim_one(stores)
            if state == "rescued":
                db.execute("update agent_workers set state = 'dead'")
                await stores.registry.rescue(RescueReason.WORKER_SILENT)
                await stores.registry.register(ME, WorkerState.UP)
            elif state != "running":
                outcome = OutcomeKind.SUCCEEDED if state == "completed" else OutcomeKind.FAILED
                session = "4a1f" if state == "failed" else None
                await stores.results.finish([ended(held, outcome, final=state == "failed", agent_session_id=session)])
        db.execute(
            "insert into agent_tasks (task_id, task_description, status, run_after) values"
            " ('cancelled', 'x', 'cancelled', now()), ('pending', 'x', 'pending', now()),"
            " ('scheduled', 'x', 'scheduled', '2099-01-01'), ('held', 'x', 'waiting', now()), ('denied', 'x', 'waiting', now())"
        )
        db.execute("update agent_tasks set answer = 'no' where task_id = 'denied'")
        for state in ("waiting", "answered"):
            db.execute(
                "insert into agent_tasks (task_id, task_description, task_priority) values (%s, 'x', 9)", [state]
            )
            record_question(db, await claim_one(stores))
        db.execute("update agent_tasks set answer = '16' where task_id = 'answered'")
    for lane in lanes:
        await lane.close()
    return dsn


def run(program: str, *arguments: object, dsn: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A program of the server's own version."""
    where = conninfo.conninfo_to_dict(dsn)
    known = {"PGHOST": where["host"], "PGPORT": where["port"], "PGUSER": where["user"], "PGDATABASE": where["dbname"]}
    return subprocess.run(
        [_bin() / program, *map(str, arguments)],
        env={**os.environ, **{k: str(v) for k, v in known.items()}, **environment},
        capture_output=True,
        text=True,
    )


def _bin() -> Path:
    chosen = database.embedded_arguments()
    return Path(str(chosen["bin_dir"])) if "bin_dir" in chosen else embedded.binaries(chosen["version"])  # type: ignore[arg-type]


def dump(dsn: str, where: Path, *options: str) -> Path:
    file = where / "dump"
    done = run("pg_dump", "--data-only", "--exclude-table=turbo_*", *options, "-f", file, dsn=dsn)
    assert done.returncode == 0, done.stderr
    return file


def rows(dsn: str, *, but: str = "") -> list[tuple]:
    with psycopg.connect(dsn) as db:
        return db.execute("select * from agent_tasks where task_id <> %s order by task_id", [but]).fetchall()


@pytest.mark.parametrize("how", ["pg_restore", "plain", "inserts"])
async def test_data_only_restore_brings_back_every_row(used, tmp_path, how):
    before = rows(used)
    assert {row[0] for row in before} == {*STATES, *ASKED}
    form = {"pg_restore": ["-Fc"], "plain": [], "inserts": ["--column-inserts"]}[how]
    file = dump(used, tmp_path, *form)
    with database.migrated_database() as other:
        if how == "pg_restore":
            done = run("pg_restore", "--data-only", "--exit-on-error", "-d", other, file, dsn=other)
        else:
            options = {"PGOPTIONS": "-c turbo.restore=on"} if how == "inserts" else {}
            done = run("psql", "-X", "-v", "ON_ERROR_STOP=1", "-f", file, dsn=other, **options)
        assert done.returncode == 0, done.stderr
        assert rows(other) == before
        lane = Lane(other, "claims")
        stores = Stores("w-2-abc", lane, lane)
        await stores.registry.register(ME, WorkerState.UP)
        with psycopg.connect(other, autocommit=True) as db:
            db.execute("update agent_workers set state = 'dead' where worker_id = 'w-1-abc'")
            assert [r.task_id for r in await stores.registry.rescue(RescueReason.WORKER_SILENT)] == ["running"]
        assert [t.task_id for t in (await stores.claims.claim("default", 9, may_idle=True)).tasks] == ["pending"]
        await lane.close()


TABLES_OF_WORK = ("agent_tasks", "agent_dependencies", "agent_blocked", "agent_unsettled", "agent_conversations")


def of_work(dsn: str) -> dict[str, list[tuple]]:
    with psycopg.connect(dsn) as db:
        return {
            table: db.execute(f"select * from {table} order by 1, 2".encode()).fetchall() for table in TABLES_OF_WORK
        }


@pytest.mark.parametrize("how", ["pg_restore", "inserts"])
def test_data_only_restore_brings_back_what_waits(dsn, tmp_path, how):
    """Also rows that turbo never wrote, and those whose needs come after them, or are gone."""
    with psycopg.connect(dsn, autocommit=True) as db:
        for task_id in ("plan", "gone", "first"):
            db.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [task_id])
        for task_id in ("new", "tied", "by hand", "closed", "lost", "freed"):
            db.execute(
                "insert into agent_tasks (task_id, task_description, needs) values (%s, 'x', '{plan,gone}')", [task_id]
            )
        db.execute(
            "insert into agent_tasks (task_id, task_description, status, needs) values ('held', 'x', 'waiting', '{plan}')"
        )
        db.execute("insert into agent_tasks (task_id, task_description, continues) values ('reply', 'x', 'first')")
        db.execute("insert into agent_tasks (task_id, task_description, submitted_by) values ('old', 'x', null)")
        db.execute(
            "insert into agent_tasks (task_id, task_description, idempotency_key, turbo_rev) values ('slot', 'x', 'schedule a@1', -1)"
        )
        past_the_judges(db, "update agent_tasks set submitted_by = null where task_id = 'old'")
        tie(db, "tied", "plan", "gone")
        place(db, "first", "reply")
        db.execute("update agent_tasks set status = 'pending' where task_id = 'by hand'")
        db.execute("update agent_tasks set status = 'completed' where task_id = 'closed'")
        db.execute("update agent_tasks set status = 'pending', needs = null where task_id = 'freed'")
        db.execute("delete from agent_tasks where task_id = 'gone'")
        db.execute("update agent_tasks set task_description = 'last' where task_id = 'plan'")
        db.execute("vacuum full agent_tasks")
    before = of_work(dsn)
    file = dump(dsn, tmp_path, *(["-Fc"] if how == "pg_restore" else ["--column-inserts"]))
    with database.migrated_database() as other:
        if how == "pg_restore":
            done = run("pg_restore", "--data-only", "--exit-on-error", "-d", other, file, dsn=other)
        else:
            options = {"PGOPTIONS": "-c turbo.restore=on"}
            done = run("psql", "-X", "-v", "ON_ERROR_STOP=1", "-f", file, dsn=other, **options)
        assert done.returncode == 0, done.stderr
        assert of_work(other) == before
        with psycopg.connect(other, autocommit=True) as db:
            db.execute("insert into agent_tasks (task_id, task_description, needs) values ('next', 'x', '{plan}')")
            assert db.execute("select status from agent_tasks where task_id = 'next'").fetchone() == ("blocked",)


COPIED = (
    "task_id, task_description, status, fencing_token, turbo_rev, assigned_worker_id, agent_session_id",
    "t\tx\trunning\t7\t3\tw-1-abc\t4a1f\n",
)


def copy(db: psycopg.Connection, columns: str, line: str) -> None:
    with db.cursor().copy(f"copy public.agent_tasks ({columns}) from stdin".encode()) as into:
        into.write(line)


def test_restore_gives_a_submitter_nothing(dsn):
    """Even one with INSERT on the whole table, as before turbo's roles: neither by COPY nor by the setting."""
    grant_roles(dsn)
    with login(dsn, "turbo_submitter") as member, psycopg.connect(dsn, autocommit=True) as owner:
        role = conninfo.conninfo_to_dict(member)["user"]
        with psycopg.connect(member, autocommit=True) as db, pytest.raises(psycopg.errors.InsufficientPrivilege):
            copy(db, *COPIED)
        owner.execute(f'grant insert on agent_tasks to "{role}"'.encode())
        with psycopg.connect(member, autocommit=True) as db:
            db.execute("set turbo.restore = on")
            with pytest.raises(psycopg.errors.CheckViolation, match="cannot be inserted as running"):
                copy(db, *COPIED)
            with pytest.raises(psycopg.errors.CheckViolation, match="may not set fencing_token"):
                copy(db, COPIED[0], COPIED[1].replace("running", "completed"))
        owner.execute(f'grant "{role}" to current_user'.encode())
        owner.execute(f'set role "{role}"'.encode())
        with pytest.raises(psycopg.errors.CheckViolation, match="cannot be inserted as running"):
            copy(owner, *COPIED)
        owner.execute("reset role")
        assert owner.execute("select count(*) from agent_tasks").fetchone() == (0,)
        copy(owner, *COPIED)


@pytest.mark.parametrize(
    ("columns", "line", "message"),
    [
        ("task_description, status", "x\trunning\n", "cannot be inserted as running"),
        ("task_description, fencing_token", "x\t7\n", "may not set fencing_token"),
        ("task_description, agent_session_id", "x\t4a1f\n", "may not set fencing_token or agent_session_id"),
        ("task_description, turbo_rev", "x\t9223372036854775807\n", "may not set turbo_rev"),
        ("task_description, turbo_rev, status", "x\t3\tassigned\n", "unknown status"),
        ("task_description, turbo_rev, run_after", "x\t3\tinfinity\n", "run_after is infinity"),
    ],
)
def test_copy_of_new_rows_is_judged_like_an_insert(dsn, columns, line, message):
    with psycopg.connect(dsn, autocommit=True) as db:
        with pytest.raises(psycopg.errors.CheckViolation, match=message):
            copy(db, columns, line)
        copy(db, "task_id, task_description, run_after", "t\tx\t2099-01-01\n")
        assert db.execute("select status from agent_tasks").fetchall() == [("scheduled",)]


def test_copied_object_of_an_owner_is_no_restore(dsn):
    """An ORM copies an object by saving it under another id: a running copy would belong to no worker."""
    with psycopg.connect(dsn, autocommit=True) as db:
        copy(db, *COPIED)
        with pytest.raises(psycopg.errors.CheckViolation, match="cannot be inserted as running"):
            db.execute(
                "insert into agent_tasks (task_id, task_description, status, fencing_token, turbo_rev)"
                " select 'copy', task_description, status, fencing_token, turbo_rev from agent_tasks"
            )
