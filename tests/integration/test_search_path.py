"""A submitter who may create in public, the default before PostgreSQL 15, cannot make a session of turbo run a function."""

import asyncio
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.database import fresh_database
from tests.support.logins import login
from tests.support.migrations import query
from tests.support.pgbouncer import pgbouncer
from tests.support.shell import Shell
from tests.support.traps import SPRUNG, disarm, overload, set_traps, sprung
from tests.support.workers import Bench, bench
from turbo import AsyncClient, Client
from turbo.migrate import grant_roles, migrate
from turbo.sql import source, statement, statement_names

PACKAGE = Path(__file__).parents[2] / "turbo"


@contextlib.contextmanager
def traps_in(dsn: str) -> Iterator[str]:
    """A submitter has set his traps. Yields his DSN."""
    grant_roles(dsn)
    query(dsn, "grant create on schema public to public")
    with login(dsn, "turbo_submitter") as submitter:
        set_traps(dsn, submitter, [statement(name) for name in statement_names()])
        try:
            yield submitter
        finally:
            disarm(dsn)


@pytest.fixture
def trapped(dsn: str) -> Iterator[str]:
    with traps_in(dsn):
        yield dsn


VARCHAR_TABLE = """
create table agent_tasks (
  task_id varchar(100) primary key, task_type varchar(50), task_description varchar, status varchar(20) default 'pending',
  queue varchar(50) default 'default', concurrency_key varchar(100), run_after timestamptz default now())
"""


def test_trap_springs_in_a_session_with_the_usual_path(trapped: str) -> None:
    with psycopg.connect(trapped, autocommit=True) as db, pytest.raises(psycopg.errors.RaiseException, match=SPRUNG):
        db.execute("select 'a'::varchar = 'a'::text")
    assert sprung(trapped) == 1


def use(dsn: str, shell: Shell) -> None:
    """A client's calls and the commands of the CLI."""
    with Client(dsn) as client:
        client.submit("x", task_id="late", run_after="tomorrow", queue="q", input_data={"a": [1]}, idempotency_key="k")
        client.submit("x", task_id="done", task_type="noop")
        client.pause_queue("q", "r")
        client.resume_queue("q")
        client.cancel("late")
        client.retry("late")
        client.fleet()
        assert client.resolve("la") == "late"
        assert client.trail("late")
        client.schedules.add("nightly", "0 3 * * *", "x", timezone="Europe/Berlin", input_data={"a": 1}, replace=True)
        client.schedules.pause("nightly")
        client.schedules.resume("nightly")
        assert client.schedules.names("n") == ["nightly"]
        client.schedules.run("nightly")
        assert len(client.schedules.tasks("nightly")) == len(client.schedules.list())

    async def other() -> None:
        async with AsyncClient(dsn) as client:
            assert (await client.get("late")).task_id == "late"
            await client.tasks(queue="q")

    asyncio.run(other())
    for command in (
        ("status",), ("tasks", "--since", "1h"), ("show", "late"), ("top", "--once"), ("migrate", "--check"),
        ("migrate", "--plan"), ("migrate",), ("migrate", "--roles"), ("pause", "--account", "a"), ("resume", "--account", "a"),
        ("submit", "y", "--after", "2h", "--priority", "3"), ("cancel", "late"),
    ):  # fmt: skip
        done = shell(*command)
        assert SPRUNG not in done.out + done.err, (command, done)
        assert done.code == 0 or (command[0] == "migrate" and "pooler" in done.err), (command, done)
    examined = shell("doctor")
    assert SPRUNG not in examined.out + examined.err


CALL = re.compile(r"public\.(turbo_\w+)\(")


def calls(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each call of a function of turbo's in `text`, with its arguments."""
    for match in CALL.finditer(text):
        arguments, depth = [""], 0
        for letter in text[match.end() :]:
            depth += {"(": 1, ")": -1}.get(letter, 0)
            if depth < 0:
                break
            if letter == "," and depth == 0:
                arguments.append("")
            else:
                arguments[-1] += letter
        yield match[1], [argument.strip() for argument in arguments if argument.strip()]


def test_each_call_of_a_turbo_function_has_exactly_its_types(dsn: str) -> None:
    """Any other call may mean an overload, of whoever may create in public."""
    declared: dict[str, Any] = {
        str(name): kinds
        for name, kinds in query(
            dsn,
            "select proname::text, proargtypes::regtype[]::text[] from pg_proc where pronamespace = 'public'::regnamespace",
        )
    }
    texts = [source(name) for name in statement_names()] + [path.read_text() for path in PACKAGE.rglob("*.py")]
    texts += [
        str(body) for (body,) in query(dsn, "select prosrc from pg_proc where pronamespace = 'public'::regnamespace")
    ]
    short = {"timestamp with time zone": "timestamptz"}
    found = [call for text in texts for call in calls(text)]
    for name, arguments in found:
        assert name in declared, f"no function {name}"
        kinds = [short.get(kind, kind) for kind in declared[name]]
        assert [argument.rpartition("::")[2].removeprefix("public.") for argument in arguments] == kinds, (
            name,
            arguments,
        )
    assert {name for name, _ in found} == {
        "turbo_take_key",
        "turbo_take_conversation",
        "turbo_stopped_status",
        "turbo_database_id",
        "turbo_wake",
        "turbo_hold",
        "turbo_shown",
        *("turbo_tell_settler", "turbo_note_work", "turbo_note_need", "turbo_waiters", "turbo_untie", "turbo_is_there"),
        *("turbo_judge_needs", "turbo_judge_continues", "turbo_default_of"),
        *("turbo_left_over", "turbo_tasks_left_over", "turbo_messages_left_over", "turbo_same_task", "turbo_unsettled"),
        *(
            "turbo_older_queues",
            "turbo_last_status",
            "turbo_forget_untied",
            "turbo_forget_places",
            "turbo_had_run",
            "turbo_needs_failed",
            "turbo_as_task_id",
            "turbo_can_be_tied",
            "turbo_place",
            "turbo_place_follow_ups",
            "turbo_left_the_line",
            "turbo_close_ranks",
            "turbo_passed_by",
            "turbo_may_go_on",
            "turbo_last_in_line",
        ),
        *(
            "turbo_schedule_key",
            "turbo_schedule_task",
            "turbo_schedule_due",
            "turbo_is_cron_field",
            "turbo_count_slots",
        ),
        *("turbo_pause_schedule", "turbo_keep_schedule", "turbo_fire", "turbo_judge_slots", "turbo_run_schedule"),
        *(
            "turbo_met",
            "turbo_forget_needs",
            "turbo_tell_of_messages",
            "turbo_mark_gone",
            "turbo_count_anew",
            "turbo_bury",
            "turbo_reopen",
        ),
        *("turbo_wake_waiters", "turbo_places", "turbo_keys_with_room", "turbo_give_up_place"),
        *("turbo_budget_period", "turbo_budgets", "turbo_fold", "turbo_is_spent"),
        *("turbo_trail_head", "turbo_trail_ids", "turbo_position", "turbo_undelivered"),
        *("turbo_worker_before", "turbo_judge_requires", "turbo_note_requires", "turbo_note_place"),
        *("turbo_wait", "turbo_tell_who_waits", "turbo_keep_quiet"),
        *("turbo_is_portable", "turbo_may_run", "turbo_stay_in", "turbo_unplaceable"),
        *("turbo_take_special_notes", "turbo_host_of", "turbo_host_before", "turbo_put_back", "turbo_directory_of"),
    }


def test_traps_are_not_sprung_on_a_table_of_varchar(tmp_path: Path) -> None:
    with fresh_database() as dsn:
        query(dsn, VARCHAR_TABLE)
        migrate(dsn)
        with traps_in(dsn) as submitter, bench(dsn, tmp_path) as fleet:
            overload(submitter)
            fleet.start(poll_seconds=1).listening()
            live(dsn, fleet)
        assert sprung(dsn) == 0


def live(dsn: str, fleet: Bench) -> None:
    """The lives of tasks: run, failed, stopped, run again by hand, rescued."""
    with Client(dsn) as client, psycopg.connect(dsn, autocommit=True) as person:
        person.execute("set search_path = pg_catalog, pg_temp")
        for task_id, data in (("ok", {}), ("bad", {"exit": 3})):
            client.submit("x", task_id=task_id, input_data=data, max_retries=0, concurrency_key=task_id)
        client.submit("x", task_id="stopped", input_data={"seconds": 60})
        assert client.wait("ok", 20).status == "completed"
        assert client.wait("bad", 20).status == "failed"
        person.execute("update public.agent_tasks set status = 'pending' where task_id = 'ok'")
        assert client.wait("ok", 20).status == "completed"
        for _ in client.progress("stopped", 20):
            client.cancel("stopped")
        assert client.get("stopped").status == "cancelled"
        for task_id in ("kill", "end"):
            client.submit("x", task_id=task_id, input_data={"seconds": 60})
            next(run for run in client.progress(task_id, 20) if run.status == "running")
        fleet.workers[-1].kill()
        client.cancel("end")
        fleet.start(poll_seconds=1).listening()
        next(run for run in client.progress("kill", 20) if run.status != "running")
        assert client.wait("end", 20).status == "cancelled"
    assert SPRUNG not in fleet.logs()


def test_traps_are_not_sprung_by_turbo(dsn: str, tmp_path: Path) -> None:
    with traps_in(dsn) as submitter, bench(dsn, tmp_path) as fleet:
        fleet.start(poll_seconds=1).listening()
        use(dsn, Shell(dsn, tmp_path))
        overload(submitter)
        live(dsn, fleet)
        assert "belongs to" in Shell(dsn, tmp_path)("doctor").out
        assert sprung(dsn) == 0


def test_pooler_in_transaction_mode_opens_no_trap(trapped: str, tmp_path: Path) -> None:
    with pgbouncer(trapped, "transaction", pool_size=4) as pool, bench(pool.dsn, tmp_path) as fleet:
        fleet.start(poll_seconds=1).said("notifications do not arrive")
        use(pool.dsn, Shell(pool.dsn, tmp_path))
        with Client(pool.dsn) as client:
            assert client.wait("done", 20).status == "completed"
        with psycopg.connect(trapped) as holder, Client(pool.dsn, lock_seconds=0.3) as client:
            holder.execute("insert into public.agent_tasks (task_id, task_description) values ('held', 'x')")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                client.submit("x", task_id="held")
        assert SPRUNG not in fleet.logs()
        with psycopg.connect(pool.dsn) as neighbour:
            assert neighbour.execute("show search_path").fetchone() == ("public, pg_catalog",), (
                "and its backend is as it was"
            )
    assert sprung(trapped) == 0
