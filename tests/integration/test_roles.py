"""Each role can do exactly its list in docs/security.md: everything that the catalog has is tried by a member of it.

Whoever brings a table or a column decides here, in turbo/sql/roles/grant.sql and in docs/security.md who may do what with
it; a function or a sequence is nobody's unless the page says so.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors, sql

from tests.support.logins import login
from turbo.migrate import ROLES, grant_roles
from turbo.sql import statement, statement_names

PAGE = Path(__file__).parents[2] / "docs" / "security.md"

OPEN_FUNCTIONS = (
    *("turbo_stopped_status", "turbo_take_key", "turbo_take_conversation", "turbo_database_id"),
    *("turbo_same_task", "turbo_as_task_id", "turbo_can_be_tied", "turbo_met"),
    *("turbo_is_portable", "turbo_may_run", "turbo_unplaceable"),
)
"""They compute from their arguments alone, read with the caller's own privileges, or tell what is no secret: any role may call
them, and statements of an upgraded worker can at once."""

WORKER_FUNCTIONS = (
    "turbo_left_over",
    "turbo_tasks_left_over",
    "turbo_messages_left_over",
    "turbo_unsettled",
    "turbo_older_queues",
    "turbo_last_status",
    "turbo_had_run",
    "turbo_needs_failed",
    "turbo_place",
    "turbo_place_follow_ups",
    "turbo_left_the_line",
    "turbo_close_ranks",
    "turbo_wake",
    "turbo_fire",
    "turbo_judge_slots",
    *("turbo_budgets", "turbo_fold", "turbo_is_spent"),
    *("turbo_trail_head", "turbo_undelivered"),
    *("turbo_wake_waiters", "turbo_keys_with_room", "turbo_places"),
    "turbo_stay_in",
    "turbo_tell_who_waits",
    "turbo_passed_by",
    "turbo_may_go_on",
    "turbo_last_in_line",
    "turbo_directory_of",
    *(
        "turbo_host_of",
        "turbo_host_before",
        "turbo_mark_gone",
        "turbo_count_anew",
        "turbo_bury",
        "turbo_reopen",
        "turbo_take_special_notes",
    ),
    "turbo_keep_quiet",
)
"""What a worker calls, and nobody else: two insert tasks, in the name of whoever wrote a message or a schedule."""

GRANTED_FUNCTIONS = ("turbo_wait",)
"""What each of the five roles may call, and a login without any may not: it may wait for tasks."""

ADMIN_FUNCTIONS = ("turbo_run_schedule",)
"""What turbo_admin calls, and nobody else."""

DECIDED = {
    "agent_tasks": "task_id task_type task_description task_priority input_data status output_data error_message"
    " execution_time_ms assigned_worker_id timeout_seconds max_retries retry_count created_at started_at completed_at"
    " queue run_after fencing_token idempotency_key concurrency_key agent_session_id failure_kind cancel_requested_at"
    " cancel_to infra_count turbo_rev question answer prefer_host needs on_needs_failed parent_task_id continues needed"
    " conversation submitted_by requires key_slot traceparent",
    "agent_actions": "action_id task_id action_type success executed_at execution_time_ms actor from_status to_status"
    " fencing_token detail",
    "agent_workers": "worker_id name host pid version slots queues labels accounts metrics_address state idle busy"
    " started_at heartbeat_at heartbeat_seconds lease_seconds poll_seconds silent_beats counted_at problems schema",
    "agent_leader": "one holder since expires_at",
    "agent_queues": "queue paused paused_at paused_by reason",
    "agent_accounts": "account host state reason until why trips probe_by probe_since"
    " probe_until good_since changed_at unavailable",
    "agent_account_windows": "account time_window model utilization resets_at status observed_at",
    "turbo_key_slots": "slot",
    "agent_usage": "task_id fencing_token executor account model attempt at queue task_type submitted_by input_tokens"
    " output_tokens cache_read_tokens cache_write_tokens cost_usd counted",
    "agent_progress": "task_id fencing_token worker_id text input_tokens output_tokens updated_at",
    "agent_dependencies": "task_id needs mode settled gone",
    "agent_blocked": "task_id needs_left failed_need since",
    "agent_unsettled": "note_id task_id need met retried",
    "agent_conversations": "task_id conversation place after first directory",
    "agent_messages": "message_id task_id body created_at created_by delivered_at fencing_token follow_up task_born",
    "agent_schedules": "name cron timezone enabled overlap catch_up jitter_seconds max_failures task_type task_description"
    " task_priority input_data queue timeout_seconds max_retries concurrency_key created_by created_at updated_at since"
    " next_at last_at fired_at run_at skipped_at skipped failures error open_slots rev",
    "agent_budgets": "name account queue task_type submitted_by period timezone usd tokens runs warn_at created_by created_at"
    " updated_at since spent_usd spent_tokens spent_runs warned paused_until",
    "agent_limits": "concurrency_key running",
    "agent_subscriptions": "name events queue task_type target enabled created_by created_at updated_at position looked_at"
    " waiting_since holder held_until delivered delivered_at failures error next_at",
    "agent_events": "event_id at event about detail",
    "agent_transcripts": "task_id fencing_token batch at session_id kind path lines sha256",
    "agent_files": "task_id fencing_token path at bytes sha256",
    "agent_waiters": "task_id channel lapses",
    "turbo_quiet": "queue until keeper",
    "agent_requirements": "task_id queue requires",
    "agent_portable": "task_id session at queue due",
    "turbo_meta": "key value",
    "turbo_migrations": "version name checksum applied_at turbo_version compatible_from",
}
"""Every column whose readers and writers somebody has thought about."""

WORKER_FOLDERS = (
    "accounts",
    "budgets",
    "client",
    "files",
    "messages",
    "retention",
    "schedules",
    "settle",
    "subscriptions",
    "tasks",
    "transcripts",
    "workers",
)
CLIENT_ONLY = frozenset(
    [
        "client/submit",
        "client/task",
        "client/tasks",
        "client/actions",
        "client/cancel",
        "client/retry",
        "client/pause_queue",
        "client/resume_queue",
        "accounts/resume",
        "client/task_ids",
        "client/tell",
        "client/costs",
        *(f"client/{what}_schedule" for what in ("add", "pause", "remove", "resume", "run")),
        "client/schedules",
        *("client/set_budget", "client/remove_budget", "client/budgets"),
        *(f"client/{what}_subscription" for what in ("add", "remove", "switch")),
        *("client/set_limit", "client/remove_limit", "client/limits", "client/limit_keys", "client/key"),
        "client/schedule_tasks",
        "client/questions",
        *("client/wait", "client/open_transactions", "client/task_version", "client/usage"),
        "client/answer",
    ]
)
"""Statements of turbo/sql/ that people and the client run. Every other one is a worker's."""

OF_FUNCTIONS = {
    ("agent_conversations", "INSERT", "task_id"),
    ("agent_conversations", "UPDATE", "task_id"),
    ("agent_tasks", "UPDATE", "conversation"),
    ("agent_tasks", "SELECT", "key_slot"),  # of turbo_places
    *(
        ("agent_portable", privilege, column)
        for privilege in ("INSERT", "UPDATE")
        for column in ("task_id", "session", "at")
    ),
    ("agent_portable", "DELETE", ""),
}
"""Rights of a worker that turbo_place and turbo_places need, which run with those of their caller: no plan of a statement asks for
them. And that of agent_portable, which whoever keeps a conversation writes."""

Right = tuple[str, str, str]
"""(table or sequence, privilege, column); the column is empty for DELETE, TRUNCATE and sequences."""


@pytest.fixture
def granted(dsn: str) -> str:
    grant_roles(dsn)
    return dsn


@pytest.fixture
def db(granted: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(granted, autocommit=True) as connection:
        yield connection


def promised(role: str) -> set[Right]:
    """The page's rows for one role, column by column."""
    found: set[Right] = set()
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 4 or cells[0] != f"`{role}`":
            continue
        for thing in re.findall(r"`(\w+)`", cells[1]):
            for privilege in cells[2].split(", "):
                if privilege in ("DELETE", "USAGE"):
                    found.add((thing, privilege, ""))
                    continue
                columns = DECIDED[thing].split() if cells[3] == "all" else cells[3].split(", ")
                unknown = set(columns) - set(DECIDED[thing].split())
                assert not unknown, f"docs/security.md names columns that {thing} does not have: {unknown}"
                found |= {(thing, privilege, column) for column in columns}
    assert found, f"docs/security.md says nothing about {role}"
    return found


def columns_of(db: psycopg.Connection) -> dict[str, dict[str, tuple[str, str]]]:
    """{table: {column: (type, identity)}} of everything in schema public that has columns and is a table or a view."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for table, column, kind, identity in db.execute(
        "select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attidentity::text"
        "  from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')"
    ):
        found.setdefault(table, {})[column] = (kind, identity)
    return found


def can(connection: psycopg.Connection, query: sql.Composable) -> bool:
    """Run it for real, and take it back. Refused is only what the database calls insufficient privilege."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(query)  # type: ignore[call-overload]
    except errors.InsufficientPrivilege:
        return False
    except errors.NoDataFound:  # what it is called with is not there
        return True
    return True


def attempts(table: str, columns: dict[str, tuple[str, str]]) -> Iterator[tuple[Right, sql.Composed]]:
    """Each privilege, in the least statement that needs it and nothing else."""
    for column, (kind, identity) in columns.items():
        names = {"t": sql.Identifier("public", table), "c": sql.Identifier(column), "k": sql.SQL(kind)}  # type: ignore[arg-type]
        over = sql.SQL("overriding system value" if identity else "")
        value = sql.SQL("default" if identity else "null")
        yield (table, "SELECT", column), sql.SQL("select {c} from {t} limit 0").format(**names)
        yield (
            (table, "INSERT", column),
            sql.SQL("insert into {t} ({c}) {over} select null::{k} where false").format(over=over, **names),
        )
        yield (
            (table, "UPDATE", column),
            sql.SQL("update {t} set {c} = {value} where false").format(value=value, **names),
        )
    here = sql.Identifier("public", table)
    yield (table, "DELETE", ""), sql.SQL("delete from {} where false").format(here)
    yield (table, "TRUNCATE", ""), sql.SQL("truncate {}").format(here)


def test_every_table_and_column_has_a_decision(db: psycopg.Connection) -> None:
    there = {table: set(columns) for table, columns in columns_of(db).items()}
    assert there == {table: set(columns.split()) for table, columns in DECIDED.items()}, (
        "a table or column without a decision who may do what with it: decide in turbo/sql/roles/grant.sql, "
        "say it in docs/security.md, and name it in DECIDED"
    )


@pytest.mark.parametrize("role", ROLES)
def test_member_can_do_exactly_what_the_page_lists(db: psycopg.Connection, granted: str, role: str) -> None:
    may = set()
    tried = 0
    with login(granted, role) as dsn, psycopg.connect(dsn, autocommit=True) as member:
        for table, columns in columns_of(db).items():
            for right, query in attempts(table, columns):
                tried += 1
                if can(member, query):
                    may.add(right)
        for (sequence,) in db.execute(
            "select relname from pg_class where relkind = 'S' and relnamespace = 'public'::regnamespace"
        ).fetchall():
            name = sql.Literal(f"public.{sequence}")
            if can(member, sql.SQL("select nextval({})").format(name)):
                may.add((sequence, "USAGE", ""))
            for query in (
                sql.SQL("select setval({}, 1)").format(name),
                sql.SQL("select last_value from {}").format(sql.Identifier("public", sequence)),
            ):
                tried += 1
                assert not can(member, query), f"{role} can {query.as_string()}"
        functions = db.execute(
            "select proname, proargtypes::regtype[]::text[] from pg_proc where pronamespace = 'public'::regnamespace"
        ).fetchall()
        for function, arguments in functions:
            if function in OPEN_FUNCTIONS + GRANTED_FUNCTIONS:
                continue
            tried += 1
            call = sql.SQL("select {}({})").format(
                sql.Identifier("public", function), sql.SQL(", ").join(sql.SQL(f"null::{kind}") for kind in arguments)
            )
            may_call = function in {"turbo_worker": WORKER_FUNCTIONS, "turbo_admin": ADMIN_FUNCTIONS}.get(role, ())
            assert can(member, call) == may_call, f"{role} can{'not' if may_call else ''} call {function}"
    assert tried > 300
    assert len(functions) >= 8
    wanted = promised(role)
    assert may == wanted, f"more than the page says: {sorted(may - wanted)}; less: {sorted(wanted - may)}"


FORBIDDEN = """
create table public.mine ()
create table public.agent_tasks_2 (like public.agent_tasks)
alter table public.agent_tasks add column mine text
alter table public.agent_tasks disable trigger zz_turbo_judge_update
drop trigger zz_turbo_judge_delete on public.agent_tasks
create trigger mine before insert on public.agent_tasks for each row execute function suppress_redundant_updates_trigger()
create or replace function public.turbo_wake(queue text) returns void language sql as 'select'
alter function public.turbo_wake(text) reset all
create temp table t (a int); create trigger mine after delete on t for each row execute function public.turbo_wake_key()
create index on public.agent_tasks (error_message)
lock table public.agent_tasks in access exclusive mode
drop table public.agent_progress
set session_replication_role = replica
"""


@pytest.mark.parametrize("role", ROLES)
def test_no_role_alters_the_schema_or_becomes_another(granted: str, role: str) -> None:
    with login(granted, role) as dsn, psycopg.connect(dsn, autocommit=True) as member:
        for forbidden in FORBIDDEN.strip().splitlines():
            if forbidden.startswith("lock") and role in ("turbo_worker", "turbo_approver", "turbo_admin"):
                continue  # whoever may update rows may lock the table: PostgreSQL's rule
            assert not can(member, sql.SQL(forbidden)), f"{role} can {forbidden}"  # type: ignore[arg-type]
        for other in ROLES:
            become = sql.SQL("set local role {}").format(sql.Identifier(other))
            assert can(member, become) == (other == role), f"{role} can become {other}"
        with contextlib.suppress(errors.InsufficientPrivilege):
            member.execute(
                "grant select on public.agent_tasks to public"
            )  # some get a warning instead, and grant nothing
        row = member.execute("select relacl::text from pg_class where oid = 'public.agent_tasks'::regclass").fetchone()
        assert row
        assert not re.search(r"[{,]=", row[0]), f"{role} granted something to PUBLIC: {row[0]}"


def test_groups_cannot_log_in_or_pass_on_rights(db: psycopg.Connection) -> None:
    assert (
        db.execute(
            "select rolname from pg_roles where rolname = any(%s)"
            " and (rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls)",
            [list(ROLES)],
        ).fetchall()
        == []
    )
    grantable = (
        "select r.rolname, p.privilege_type from pg_class c cross join lateral aclexplode(c.relacl) p"
        " join pg_roles r on r.oid = p.grantee where p.is_grantable and r.rolname = any(%s)"
    )
    assert db.execute(grantable, [list(ROLES)]).fetchall() == []
    public = "select c.relname from pg_class c cross join lateral aclexplode(c.relacl) p where p.grantee = 0"
    assert db.execute(f"{public} and c.relnamespace = 'public'::regnamespace").fetchall() == []


# ── what a worker needs, and no more ────────────────────────────────────────────────────────────────────────────────


def worker_statements() -> dict[str, str]:
    names = [name for name in statement_names() if name.partition("/")[0] in WORKER_FOLDERS]
    assert set(names) >= CLIENT_ONLY, "CLIENT_ONLY names a statement that is gone"
    return {name: statement(name) for name in names if name not in CLIENT_ONLY}


def refused(connection: psycopg.Connection, query: str) -> str | None:
    """What the planner's permission check says to `query`; it is not run. Parameters are nulls."""
    try:
        with connection.transaction(force_rollback=True):
            text = re.sub(r"%\((\w+)\)s", "null", query).replace("%%", "%")
            connection.execute(f"explain {text}".encode())
    except errors.InsufficientPrivilege as error:
        return str(error.diag.message_primary)
    return None


def test_worker_may_run_every_worker_statement(granted: str) -> None:
    with login(granted, "turbo_worker") as dsn, psycopg.connect(dsn, autocommit=True) as member:
        found = {name: refused(member, text) for name, text in worker_statements().items()}
    assert not {name: why for name, why in found.items() if why}


def test_every_right_of_a_worker_is_needed(db: psycopg.Connection) -> None:
    """Each right is taken away in turn: some statement must then be refused."""
    statements = worker_statements()
    touched = "\n".join(statements.values())
    idle = []
    rights = promised("turbo_worker")
    for thing, privilege, column in sorted(rights):
        if privilege == "USAGE" or f"public.{thing}" not in touched:
            continue  # a sequence is looked at when it is drawn from; a table may be ahead of its statements
        whole = {c for t, p, c in rights if (t, p) == (thing, privilege)} == set(DECIDED[thing].split())
        if whole and column not in ("", next(iter(DECIDED[thing].split()))):
            continue  # granted, and needed, as a table
        part = sql.SQL("") if whole or not column else sql.SQL("({})").format(sql.Identifier(column))
        with db.transaction(force_rollback=True):
            db.execute(
                sql.SQL("revoke {} {} on public.{} from turbo_worker").format(
                    sql.SQL(privilege),
                    part,
                    sql.Identifier(thing),  # type: ignore[arg-type]
                )
            )
            db.execute("set local role turbo_worker")
            right = (thing, privilege, column)
            if right not in OF_FUNCTIONS and not any(refused(db, text) for text in statements.values()):
                idle.append(right)
    assert not idle, f"turbo_worker may do what none of its statements does: {idle}"
