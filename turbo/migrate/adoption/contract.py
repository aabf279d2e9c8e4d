"""The columns that turbo needs in the two tables that may exist already, and the types it accepts.

migrations/0001_tables.sql has the same for a new database; a test compares the two. An existing table keeps its columns.
Missing columns are added without a rewrite (no volatile default). A column without a default may get one. A column that turbo
cannot use is reported before anything is changed.
"""

from dataclasses import dataclass

TEXT = frozenset({"text", "varchar"})
WHOLE = frozenset({"int2", "int4", "int8"})
TIMESTAMP = frozenset({"timestamptz", "timestamp"})

ID_TYPES = frozenset({"text", "varchar", "uuid"}) | WHOLE
WORKER_ID_LENGTH = 50
"""Characters of the longest worker id (turbo/worker/worker.py)."""

TASK_ID_LENGTH = 22
NEW_ID = "('t_' || left(replace(gen_random_uuid()::text, '-', ''), 20))"


@dataclass(frozen=True, slots=True)
class ExpectedColumn:
    """A column that turbo reads or writes.

    `add`: its ADD COLUMN definition, None if it cannot be added. `kinds`: the accepted base types. `least`: the shortest varchar
    that holds turbo's values; `unlimited`: a limit is not accepted. `default`: the default for an existing column without
    one; with `only_required`, only if it is NOT NULL. `nullable`: turbo writes null into it.
    """

    name: str
    add: str | None
    kinds: frozenset[str]
    least: int | None = None
    unlimited: bool = False
    default: str | None = None
    only_required: bool = False
    nullable: bool = False


TASKS = (
    ExpectedColumn("task_id", None, ID_TYPES),
    ExpectedColumn("task_type", "text not null default 'default'", TEXT, least=7, default="'default'"),
    ExpectedColumn("task_description", None, TEXT),
    ExpectedColumn("task_priority", "integer default 5", WHOLE, default="5", only_required=True),
    ExpectedColumn("input_data", "jsonb", frozenset({"jsonb", "json"}), nullable=True),
    ExpectedColumn("status", None, TEXT | {"enum"}, least=9, default="'pending'"),
    ExpectedColumn("output_data", "jsonb", frozenset({"jsonb"}), nullable=True),
    ExpectedColumn("error_message", "text", TEXT, unlimited=True, nullable=True),
    ExpectedColumn("execution_time_ms", "bigint", frozenset({"int4", "int8"}), nullable=True),
    ExpectedColumn("assigned_worker_id", "text", TEXT, least=WORKER_ID_LENGTH, nullable=True),
    ExpectedColumn("timeout_seconds", "integer default 300", WHOLE, default="300", only_required=True),
    ExpectedColumn("max_retries", "integer default 3", WHOLE, default="3", only_required=True),
    ExpectedColumn("retry_count", "integer not null default 0", WHOLE, default="0"),
    ExpectedColumn("created_at", "timestamptz", TIMESTAMP, default="now()"),
    ExpectedColumn("started_at", "timestamptz", TIMESTAMP, nullable=True),
    ExpectedColumn("completed_at", "timestamptz", TIMESTAMP, nullable=True),
    ExpectedColumn("queue", "text not null default 'default'", TEXT, least=40, default="'default'"),
    ExpectedColumn("run_after", "timestamptz not null default now()", frozenset({"timestamptz"}), default="now()"),
    ExpectedColumn("fencing_token", "bigint", frozenset({"int8"}), nullable=True),
    ExpectedColumn("idempotency_key", "text", TEXT, nullable=True),
    ExpectedColumn("concurrency_key", "text", TEXT, nullable=True),
    ExpectedColumn("agent_session_id", "text", TEXT, unlimited=True, nullable=True),
    ExpectedColumn("failure_kind", "text", TEXT, least=20, nullable=True),
    ExpectedColumn("cancel_requested_at", "timestamptz", frozenset({"timestamptz"}), nullable=True),
    ExpectedColumn("cancel_to", "text", TEXT, least=9, nullable=True),
    ExpectedColumn("infra_count", "integer not null default 0", frozenset({"int4", "int8"})),
    ExpectedColumn("turbo_rev", "bigint not null default 0", frozenset({"int8"})),
)

TURBOS_OWN = frozenset({"fencing_token", "cancel_requested_at", "cancel_to", "infra_count", "turbo_rev"})
"""Columns of agent_tasks that only turbo uses. If one exists before turbo, the names clash."""

RESERVED = (
    *("question", "answer", "prefer_host"),
    *("needs", "on_needs_failed", "continues", "needed", "conversation", "submitted_by"),
    *("requires", "key_slot", "traceparent"),
)
"""Columns of agent_tasks that later migrations add, from 0012_asking.sql on. One that is there before has another meaning."""

ADDED = (*RESERVED, "parent_task_id")
"""All columns of agent_tasks that later migrations add. parent_task_id may be there before, with the same meaning."""

TURBOS_MARK = "(turbo)"
"""What the comment of a reserved column ends with once it is turbo's."""

# turbo does not use its key, which only needs a default.
ACTIONS = (
    ExpectedColumn("task_id", None, ID_TYPES),
    ExpectedColumn("action_type", "text", TEXT, least=12),
    ExpectedColumn("success", "boolean", frozenset({"bool"})),
    ExpectedColumn("executed_at", "timestamptz", TIMESTAMP, default="clock_timestamp()"),
    ExpectedColumn("execution_time_ms", "bigint", frozenset({"int4", "int8"}), nullable=True),
    ExpectedColumn("actor", "text", TEXT, least=63, nullable=True),
    ExpectedColumn("from_status", "text", TEXT, least=9, nullable=True),
    ExpectedColumn("to_status", "text", TEXT, least=9, nullable=True),
    ExpectedColumn("fencing_token", "bigint", frozenset({"int8"}), nullable=True),
    ExpectedColumn("detail", "jsonb", frozenset({"jsonb"}), nullable=True),
)

TASKS_STORAGE = {
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
}
"""docs/tuning.md has the measurements. Settings of an existing table are kept."""

ACTIONS_STORAGE = {"autovacuum_vacuum_insert_scale_factor": "0.05"}

RELATIONS = (
    *(
        "agent_workers",
        "agent_leader",
        "agent_queues",
        "agent_accounts",
        "agent_progress",
        "agent_usage",
        "agent_account_windows",
        "turbo_meta",
        "turbo_key_slots",
        *("turbo_fence_seq", "turbo_look_seq"),
        *("turbo_wait_seq", "agent_waiters"),
        *("turbo_quiet", "turbo_quiet_seq", "turbo_unsent_seq"),
        *("agent_dependencies", "agent_blocked", "agent_unsettled", "agent_conversations", "agent_messages"),
        "agent_schedules",
        *("agent_budgets", "agent_events", "agent_limits"),
        *("agent_requirements", "agent_portable"),
        *("agent_transcripts", "agent_files"),
        "agent_subscriptions",
    ),
    *("agent_tasks_claim", "agent_tasks_at_rest", "agent_tasks_running", "agent_tasks_one_running_per_place"),
    *("agent_tasks_waiting_key", "agent_tasks_idempotency", "agent_tasks_finished", "agent_actions_task"),
    *("agent_workers_idle", "agent_usage_at"),
    *("agent_tasks_one_running_per_conversation", "agent_dependencies_needs", "agent_blocked_ready"),
    *("agent_messages_open", "agent_messages_waiting", "agent_messages_task"),
    *("agent_unsettled_special", "agent_conversations_after", "agent_conversations_orphaned"),
    "agent_schedules_due",
    *("agent_usage_open", "agent_events_at"),
    *("agent_requirements_distinct", "agent_portable_due"),
    *("agent_transcripts_session", "agent_transcripts_at"),
    "agent_waiters_lapses",
)
TYPES = ("turbo_task_id", "turbo_status")
"""Names that turbo creates in schema public. If they exist before turbo, they clash."""

WRITTEN = {
    "agent_tasks": frozenset(
        {"status", "assigned_worker_id", "started_at", "completed_at", "task_type", "task_priority", "retry_count"}
        | {"execution_time_ms", "timeout_seconds", "max_retries", "queue", "run_after", "failure_kind"}
    ),
    "agent_actions": frozenset(
        {"task_id", "action_type", "success", "executed_at", "actor", "from_status", "to_status"}
    ),
}
"""Columns with the same value in many of turbo's rows: a unique index over these alone is refused."""

_WAITING = {"task_id": "1", "task_type": "default", "task_description": "x", "task_priority": "5", "retry_count": "0"}
_COMMON = _WAITING | {"timeout_seconds": "300", "max_retries": "3", "created_at": "now", "queue": "default"}
_STARTED = _COMMON | {"assigned_worker_id": "w-4711-0a1b2c", "started_at": "now", "run_after": "now"}
_ENDED = _STARTED | {"completed_at": "now", "execution_time_ms": "5"}

ROWS: tuple[tuple[str, dict[str, str]], ...] = (
    ("scheduled", _COMMON),
    ("scheduled", _COMMON | {"started_at": "now", "retry_count": "1", "error_message": "x", "execution_time_ms": "5"}),
    ("pending", _COMMON),
    ("blocked", _COMMON),
    ("running", _STARTED),
    ("waiting", _COMMON),
    ("waiting", _COMMON | {"started_at": "now", "execution_time_ms": "5", "output_data": "{}"}),
    ("completed", _ENDED | {"output_data": "{}"}),
    ("failed", _ENDED | {"error_message": "x", "retry_count": "3", "failure_kind": "error"}),
    ("cancelled", _ENDED),
    ("cancelled", _COMMON | {"completed_at": "now"}),
)
"""Rows of agent_tasks as turbo writes them, one or two per state. An existing CHECK must accept them."""

TRAIL_ROWS: tuple[dict[str, str], ...] = tuple(
    {"task_id": "1", "action_type": action, "success": "true", "executed_at": "now", "actor": "w-4711-0a1b2c"}
    | {"from_status": before, "to_status": after, "fencing_token": "1", "detail": "{}"}
    for action, before, after in (
        ("promoted", "scheduled", "pending"),
        ("claimed", "pending", "running"),
        ("finished", "running", "completed"),
        ("released", "running", "pending"),
        ("rescued", "running", "scheduled"),
        ("reasserted", "pending", "running"),
        ("late", "running", "failed"),
        ("edited", "pending", "cancelled"),
        ("asked", "running", "waiting"),
        ("answered", "waiting", "pending"),
        ("unanswered", "waiting", "pending"),
        ("reminded", "waiting", "waiting"),
        ("blocked", "cancelled", "blocked"),
        ("unblocked", "blocked", "pending"),
        ("needs_failed", "blocked", "cancelled"),
        ("undelivered", "completed", "completed"),
    )
)


def makes_text_id(kind: str, length: int | None) -> bool:
    """Whether a generated id fits a text or varchar column."""
    return kind in TEXT and (length is None or length >= TASK_ID_LENGTH)
