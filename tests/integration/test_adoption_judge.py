"""What `turbo migrate` refuses before it changes anything, what it warns of, and what `--plan` tells: a table for each."""

import json

import psycopg
import pytest

from tests.support.logins import login
from tests.support.migrations import OLD_TABLE, everything, query, turbo_migrate
from tests.support.odd_tables import ENUM, ODD_TABLES, PREDECESSOR, OddTable
from turbo.migrate import MigrationError, migrate, plan
from turbo.migrate.adoption.contract import ACTIONS, ACTIONS_STORAGE, ADDED, RELATIONS, TASKS, TASKS_STORAGE, TYPES

ACTIONS_TABLE = (
    "create table agent_actions (id serial primary key, task_id text, action_type text, success boolean,"
    " executed_at timestamptz default now(), execution_time_ms int)"
)


def old(replace: str = "", by: str = "", more: str = "") -> str:
    assert replace in OLD_TABLE
    return OLD_TABLE.replace(replace, by, 1) + ";" + more


REFUSED = {
    "a type turbo cannot use": (
        old("task_priority int", "task_priority text"),
        "agent_tasks.task_priority is text; turbo can use smallint, integer, bigint",
        "ALTER COLUMN task_priority TYPE integer",
    ),
    "output that is no jsonb": (
        old("output_data jsonb", "output_data json"),
        "agent_tasks.output_data is json",
        "TYPE jsonb",
    ),
    "a status too short": (old("status text", "status varchar(8)"), "of at least 9 characters", "TYPE varchar(9)"),
    "a worker id too short": (
        old("assigned_worker_id text", "assigned_worker_id varchar(20)"),
        "agent_tasks.assigned_worker_id is character varying(20)",
        "TYPE varchar(50)",
    ),
    "an error with a limit": (old("error_message text", "error_message varchar(255)"), "without a limit", "TYPE text"),
    "a result that must be there": (
        old("output_data jsonb", "output_data jsonb not null default '{}'"),
        "agent_tasks.output_data is NOT NULL",
        "ALTER COLUMN output_data DROP NOT NULL",
    ),
    "no prompt": (old("task_description text, ", ""), "agent_tasks has no column task_description", ""),
    "an id that is not unique": (
        old("task_id text primary key", "task_id text not null"),
        "task_id is not unique",
        "CREATE UNIQUE INDEX",
    ),
    "a column with a name of turbo's": (
        old("status text", "status text, queue integer"),
        "agent_tasks.queue exists already and is integer, but turbo's is text: the names clash",
        "RENAME COLUMN queue TO old_queue",
    ),
    "another's fencing token": (
        old("status text", "status text, fencing_token bigint"),
        "agent_tasks.fencing_token exists already and has another meaning in turbo",
        "RENAME COLUMN fencing_token",
    ),
    "another's answer": (
        old("status text", "status text, answer text"),
        "agent_tasks.answer exists already and has another meaning in turbo",
        "RENAME COLUMN answer TO old_answer",
    ),
    "a key that is not unique": (
        old("status text", "status text, idempotency_key varchar(80)")
        + "insert into agent_tasks (task_id, idempotency_key) values ('1', 'k'), ('2', 'k'), ('3', null), ('4', null)",
        "agent_tasks.idempotency_key is also a turbo column, which must be unique, but it has duplicate values",
        "RENAME COLUMN idempotency_key",
    ),
    "a column of the trail that turbo does not know": (
        old(more=ACTIONS_TABLE.replace("success boolean", "success boolean, actor_name text not null")),
        "agent_actions.actor_name (text) is NOT NULL without a default: turbo does not know it",
        'ALTER COLUMN "actor_name" SET DEFAULT <value>',
    ),
    "a trail for other ids": (
        old("task_id text", "task_id uuid", more=ACTIONS_TABLE),
        "agent_actions.task_id is text, and agent_tasks.task_id is uuid",
        "ALTER TABLE public.agent_actions RENAME TO old_agent_actions",
    ),
    "a trail for shorter ids": (
        old(more=ACTIONS_TABLE.replace("task_id text", "task_id varchar(10)")),
        "too narrow for agent_tasks.task_id",
        "RENAME TO old_agent_actions",
    ),
    "a trail that takes only its own actions": (
        old(
            more=ACTIONS_TABLE.replace(
                "action_type text", "action_type text constraint known check (action_type in ('start', 'finished'))"
            )
        ),
        "the CHECK agent_actions.known refuses turbo's audit trail rows (promoted, claimed",
        'DROP CONSTRAINT "known"',
    ),
    "a check on something else": (
        old(
            "assigned_worker_id text",
            "assigned_worker_id text constraint ours check (assigned_worker_id ~ '^worker-[0-9]+$')",
        ),
        "the CHECK agent_tasks.ours refuses turbo's rows in the states running, completed, failed, cancelled",
        'DROP CONSTRAINT "ours"',
    ),
    "a domain on status": (
        "create domain state as text check (value in ('pending', 'running', 'completed', 'failed'));"
        + old("status text", "status state"),
        "agent_tasks.status is of the domain public.state, which refuses scheduled, blocked, waiting, cancelled",
        "ALTER DOMAIN public.state",
    ),
    "one task a worker": (
        old(more="create unique index busy on agent_tasks (assigned_worker_id) where status = 'running'"),
        "the unique index public.busy over assigned_worker_id",
        "DROP INDEX CONCURRENTLY public.busy",
    ),
    "a rule": (
        old(more="create rule keep as on delete to agent_tasks do instead nothing"),
        "the rule keep ON DELETE of agent_tasks",
        'DROP RULE "keep" ON public.agent_tasks',
    ),
    "partitions": (
        "create table agent_tasks (task_id text, task_description text, status text, day date, primary key (task_id, day))"
        " partition by range (day)",
        "agent_tasks is partitioned",
        "RENAME TO old_agent_tasks",
    ),
    "a view": (
        "create table t (task_id text); create view agent_tasks as select * from t",
        "agent_tasks is a view",
        "",
    ),
    "somebody else's agent_workers": (
        old(more="create table agent_workers (id int)"),
        "public.agent_workers exists but is not turbo's",
        "ALTER TABLE public.agent_workers RENAME TO old_agent_workers",
    ),
    "somebody else's index": (
        old(more="create index agent_tasks_claim on agent_tasks (status)"),
        "public.agent_tasks_claim exists but is not turbo's",
        "ALTER INDEX public.agent_tasks_claim RENAME",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_migrate_refuses_before_it_changes_anything(empty_dsn: str, what: str) -> None:
    create, says, run = REFUSED[what]
    query(empty_dsn, create)
    before = everything(empty_dsn)
    with pytest.raises(MigrationError) as refused:
        migrate(empty_dsn)
    assert says in str(refused.value)
    assert run in str(refused.value)
    assert "othing has been changed" in str(refused.value)
    assert everything(empty_dsn) == before
    planned = turbo_migrate("--dsn", empty_dsn, "--plan")
    assert planned.exit_code == 1
    assert says in planned.stdout
    assert run in planned.stdout


def test_refusal_lists_every_reason(empty_dsn: str) -> None:
    query(empty_dsn, old("task_priority int", "task_priority text").replace("output_data jsonb", "output_data json"))
    with pytest.raises(MigrationError) as refused:
        migrate(empty_dsn)
    assert "task_priority is text" in str(refused.value)
    assert "output_data is json" in str(refused.value)


@pytest.mark.parametrize(
    "what", [what for what, (_, _, run) in REFUSED.items() if run and "<" not in run and what != "a rule"]
)
def test_suggested_statements_are_enough_to_migrate(empty_dsn: str, what: str) -> None:
    create, _, _ = REFUSED[what]
    query(empty_dsn, create)
    for _ in range(3):
        todo = [f.do for f in plan(empty_dsn).findings if f.level == "refuse"]
        for statements in todo:
            if "<" in statements:
                statements = "alter domain state drop constraint state_check"
            query(empty_dsn, statements)
    migrate(empty_dsn)
    query(empty_dsn, "insert into agent_tasks (task_description) values ('the least insert')")
    assert query(
        empty_dsn, "select status::text, queue from agent_tasks where task_description = 'the least insert'"
    ) == [("pending", "default")]


WARNED = {
    "a column turbo does not know": (
        old("status text", "status text, tenant text not null"),
        "agent_tasks.tenant (text) is NOT NULL without a default: an INSERT without it fails",
    ),
    "a status of its own by default": (
        old("status text", "status text default 'queued'"),
        "agent_tasks.status has the default 'queued'::text",
    ),
    "numbers that writers choose": (
        old("task_id text", "task_id int"),
        "agent_tasks.task_id has no default: it becomes an identity",
    ),
    "row level security": (
        old(more="alter table agent_tasks enable row level security"),
        "row level security is on for agent_tasks",
    ),
    "ids too short to be made up": (
        old("task_id text", "task_id varchar(10)"),
        "agent_tasks.task_id is character varying(10), too short for a generated id",
    ),
}


@pytest.mark.parametrize("what", WARNED)
def test_warning_does_not_stop_a_migration(empty_dsn: str, what: str) -> None:
    create, says = WARNED[what]
    query(empty_dsn, create)
    assert f"-- warn: {says}" in turbo_migrate("--dsn", empty_dsn, "--plan").stdout
    result = turbo_migrate("--dsn", empty_dsn)
    assert result.exit_code == 0
    assert f"note: {says}" in result.stderr


def test_rows_delayed_by_another_program_are_reported_and_kept(empty_dsn: str) -> None:
    query(
        empty_dsn,
        old("status text", "status text, scheduled_for timestamp")
        + "insert into agent_tasks (task_id, task_description, status, scheduled_for, created_at) values"
        " ('later', 'x', 'pending', now() + interval '1 day', now()), ('due', 'x', 'pending', now(), now()),"
        " ('theirs', 'x', 'scheduled', now() + interval '1 day', now())",
    )
    shown = plan(empty_dsn).findings
    told = next(f for f in shown if "scheduled_for" in f.what)
    assert "2 waiting rows have a scheduled_for in the future" in told.what
    assert any("1 rows are 'scheduled' already" in f.what for f in shown)
    migrate(empty_dsn)
    assert query(
        empty_dsn, "select status, run_after > now() + interval '99 years' from agent_tasks where task_id = 'theirs'"
    ) == [("scheduled", True)]
    query(empty_dsn, told.do)  # what the plan says to run makes it turbo's
    assert query(empty_dsn, "select task_id, status from agent_tasks order by 1") == [
        ("due", "pending"), ("later", "scheduled"), ("theirs", "scheduled"),
    ]  # fmt: skip
    # whatever promoted them so far goes on: from then on the row is runnable
    query(empty_dsn, "update agent_tasks set status = 'pending' where task_id = 'theirs'")
    assert query(empty_dsn, "select run_after <= now() from agent_tasks where task_id = 'theirs'") == [(True,)]


# ── the plan ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_plan_describes_the_existing_table(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        PREDECESSOR.make(connection, rows=200)
    before = everything(empty_dsn)
    text = turbo_migrate("--dsn", empty_dsn, "--plan").stdout
    for words in (
        "-- agent_tasks: 200 rows",
        "task_id                 character varying(100) not null",
        "created_at              timestamp without time zone default CURRENT_TIMESTAMP",
        "check known_status: ((status)::text = ANY",
        "statuses unknown to turbo: ",
        "assigned (40)",
        "view public.worker_load over assigned_worker_id",
        "foreign key agent_tasks_session_id_fkey: agent_tasks (session_id) refers to public.agent_sessions",
        "foreign key agent_actions_task_id_fkey: public.agent_actions refers to agent_tasks",
        "the CHECK agent_tasks.known_status refuses turbo's scheduled, blocked, running, waiting, cancelled",
        "ACCESS EXCLUSIVE on agent_tasks: reads and writes wait; held for about 10 ms",
        "SHARE UPDATE EXCLUSIVE on agent_tasks: reads and writes continue",
        "SHARE ROW EXCLUSIVE on agent_tasks: writes wait, reads continue",
        "one batch of at most 1000 waiting rows",
    ):
        assert words in text, words
    assert everything(empty_dsn) == before
    shown = json.loads(turbo_migrate("--dsn", empty_dsn, "--plan", "--json").stdout)
    assert {"status": "pending", "rows": 40} in shown["statuses"]
    assert shown["refused"] is False
    assert [c["name"] for c in shown["tables"][0]["columns"]][:3] == ["task_id", "session_id", "task_type"]


@pytest.mark.parametrize("table", ODD_TABLES, ids=lambda table: table.name.replace(" ", "-"))
def test_statements_sent_are_the_statements_planned(empty_dsn: str, table: OddTable) -> None:
    """ClaimRef against the server's own log of statements: an event trigger sees each command that defines something."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        table.make(connection, rows=200)
        connection.execute("create table seen (n bigint generated always as identity, sql text)")
        connection.execute(
            "create function see() returns event_trigger language plpgsql as"
            " $$ begin insert into public.seen (sql) values (current_query()); end $$"
        )
        connection.execute("create event trigger see on ddl_command_end execute function see()")
        planned = [one.sql for one in plan(empty_dsn).statements]
        migrate(empty_dsn)
        connection.execute("drop event trigger see")
        sent = [sql for (sql,) in connection.execute("select sql from seen group by sql order by min(n)")]
    sent = [sql for sql in sent if "turbo history_create" not in sql and "turbo migrate/" not in sql]
    assert sent
    assert [sql for sql in planned if sql in sent] == sent


def test_no_planned_statement_locks_two_existing_tables(empty_dsn: str) -> None:
    """Asked of the server: each planned transaction is run, and its locks are counted before it ends."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        PREDECESSOR.make(connection, rows=100)
        strong = (
            "select count(distinct relation) from pg_locks where pid = pg_backend_pid() and granted and locktype = 'relation'"
            " and relation in ('public.agent_tasks'::regclass, 'public.agent_actions'::regclass, 'public.agent_sessions'::regclass)"
            " and mode not in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')"
        )
        connection.execute("set search_path = pg_catalog, pg_temp")
        most = 0
        for one in plan(empty_dsn).statements:
            if one.label == "backfill":
                continue
            if not one.in_transaction:
                connection.execute(one.sql.encode())
                continue
            with connection.transaction():
                connection.execute(one.sql.encode())
                row = connection.execute(strong).fetchone()
                assert row is not None
                assert row[0] <= 1, one.sql
                most = max(most, row[0])
        assert most == 1


def test_plan_reports_a_locked_table(empty_dsn: str) -> None:
    query(empty_dsn, OLD_TABLE)
    with psycopg.connect(empty_dsn) as other:
        other.execute("lock table agent_tasks in access exclusive mode")
        shown = plan(empty_dsn)
    assert shown.pending
    assert "is locked exclusively" in shown.findings[0].what


def test_plan_names_the_blocking_session(empty_dsn: str) -> None:
    query(empty_dsn, OLD_TABLE)
    with psycopg.connect(empty_dsn, application_name="nightly report") as other:
        other.execute("select count(*) from agent_tasks")
        other.execute("select pg_sleep(1.1)")
        assert "in the way now" in turbo_migrate("--dsn", empty_dsn, "--plan").stdout
        assert "nightly report" in plan(empty_dsn).in_the_way[0]


# ── rights ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_backfill_without_the_right_to_disable_a_trigger(empty_dsn: str) -> None:
    """An owner that is no superuser: a trigger on UPDATE would fire for the backfill, so there is none; it is said before."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        ENUM.make(connection, rows=200)
    with login(empty_dsn) as owner, psycopg.connect(empty_dsn, autocommit=True) as admin:
        name = str(psycopg.conninfo.conninfo_to_dict(owner)["user"])
        admin.execute(f"grant create on schema public to {name}; grant usage on schema app to {name}")
        for what in ("table agent_tasks", "table agent_actions", "type app.task_state"):
            admin.execute(f"alter {what} owner to {name}")
        touched = query(empty_dsn, "select task_id, updated_at from agent_tasks order by 1")
        assert any("the trigger touch would fire" in f.what for f in plan(owner).findings)
        migrate(owner)
        assert query(empty_dsn, "select task_id, updated_at from agent_tasks order by 1") == touched
        assert query(empty_dsn, "select count(distinct run_after) from agent_tasks") == [(1,)]


def test_foreign_trigger_does_not_fire_for_the_backfill(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        ENUM.make(connection, rows=200)
    touched = query(empty_dsn, "select task_id, updated_at from agent_tasks order by 1")
    migrate(empty_dsn)
    assert query(empty_dsn, "select count(distinct run_after) from agent_tasks where status = 'pending'") == [(40,)]
    assert query(empty_dsn, "select task_id, updated_at from agent_tasks order by 1") == touched
    assert query(empty_dsn, "select count(*) from task_log") == [(0,)]


# ── the contract ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_contract_matches_a_fresh_database(dsn: str) -> None:
    """turbo/migrate/adoption/contract.py and migrations/0001_tables.sql say the same."""
    for table, known, storage in (("agent_tasks", TASKS, TASKS_STORAGE), ("agent_actions", ACTIONS, ACTIONS_STORAGE)):
        columns = query(
            dsn,
            "select attname::text, format_type(atttypid, atttypmod), typname::text from pg_attribute join pg_type t on t.oid = atttypid"
            f" where attrelid = '{table}'::regclass and attnum > 0 and attname <> 'action_id' order by attnum",
        )
        later = {*ADDED} if table == "agent_tasks" else set()
        names = [name for name, _, _ in columns]
        assert (names[: len(known)], {*names[len(known) :]}) == ([want.name for want in known], later)
        for (name, type_, kind), want in zip(columns, known, strict=not later):
            assert kind in want.kinds, name
            added = want.add.split(" not null")[0].split(" default")[0] if want.add else type_
            assert added in (type_, kind), name
        options = query(dsn, f"select unnest(reloptions) from pg_class where oid = '{table}'::regclass")
        assert {str(option) for (option,) in options} == {f"{k}={v}" for k, v in storage.items()}
    made = query(
        dsn, "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relname !~ '_pkey$'"
    )
    made_with_them = {
        *("agent_actions_action_id_seq", "agent_unsettled_note_id_seq", "agent_conversations_conversation_seq"),
        *("agent_conversations_conversation_place_key", "agent_messages_message_id_seq", "agent_events_event_id_seq"),
    }
    named = {*RELATIONS, "agent_tasks", "agent_actions", "turbo_migrations", *made_with_them}
    assert {str(name) for (name,) in made} == named
    types = query(
        dsn, "select typname::text from pg_type where typtype = 'd' and typnamespace = 'public'::regnamespace"
    )
    assert {str(name) for (name,) in types} == set(TYPES)


OTHERS = (
    "agent_workers, agent_leader, agent_queues, agent_accounts, agent_progress, agent_dependencies, agent_blocked,"
    " agent_unsettled, agent_conversations, agent_messages, agent_requirements, agent_portable, agent_transcripts,"
    " agent_files, agent_waiters, turbo_quiet"
)
SEQUENCES = "turbo_fence_seq, turbo_wait_seq, turbo_quiet_seq, turbo_unsent_seq"
RESTORED = {
    "without turbo_meta": "drop table turbo_meta, turbo_migrations",
    "tasks and trail": f"drop table turbo_meta, turbo_migrations, {OTHERS}; drop sequence {SEQUENCES};"
    " drop domain turbo_task_id cascade; drop domain turbo_status",
    "tasks alone": f"drop table turbo_meta, turbo_migrations, agent_actions, {OTHERS}; drop sequence {SEQUENCES};"
    " drop domain turbo_task_id cascade; drop domain turbo_status",
}


@pytest.mark.parametrize("what", RESTORED)
def test_own_table_restored_in_part_gets_right_advice(dsn: str, what: str) -> None:
    """Not to rename turbo's own columns and indexes: nothing of turbo's would find them again."""
    query(dsn, "insert into agent_tasks (task_id, task_description) values ('t', 'x')")
    query(dsn, RESTORED[what])
    (advice,) = plan(dsn).findings[:1]
    with pytest.raises(MigrationError, match="agent_tasks is turbo's own table, but turbo_meta is missing") as refused:
        migrate(dsn)
    assert "RENAME" not in str(refused.value)
    query(dsn, str(advice.do))
    migrate(dsn)
    assert query(dsn, "select task_id, status from agent_tasks") == [("t", "pending")]
    with pytest.raises(psycopg.errors.CheckViolation, match="unknown status"):
        query(dsn, "insert into agent_tasks (task_description, status) values ('x', 'assigned')")
