"""The closed vocabularies of the engine: states, verdicts, stop causes, control messages.

Every other module takes these words from here; statements in turbo/sql write them out, as they do all SQL.

The states of a task, and which may follow which:

    scheduled ──due──▶ pending ──claim──▶ running ──▶ completed | failed | cancelled
        ▲                 ▲ ▲               │ │
        └── retry, rescue ┼─┼───────────────┤ │
                          ├─┼── release ────┘ │
                          │ └─answer── waiting ◀── question
                          └─ needs are over ── blocked

docs/state-machine.md draws the same machine; a test holds the page and this module together.
"""

from enum import StrEnum


class TaskState(StrEnum):
    """`agent_tasks.status`. An adopted table may hold others (an old poller's): turbo leaves those rows alone."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    BLOCKED = "blocked"  # waits for other tasks
    RUNNING = "running"
    WAITING = "waiting"  # for a person's answer
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class WorkerState(StrEnum):
    """`agent_workers.state`, and the label of `turbo_workers{state}`."""

    UP = "up"
    DRAINING = "draining"
    PAUSED = "paused"
    DEAD = "dead"


class AccountState(StrEnum):
    """`agent_accounts.state`."""

    OPEN = "open"
    SUSPECT = "suspect"
    PAUSED = "paused"
    HALF_OPEN = "half_open"


class PauseReason(StrEnum):
    """`agent_accounts.reason` (`unavailable`: the column of that name), and the label of `turbo_account_paused{reason}`."""

    AUTH = "auth"
    USAGE_LIMIT = "usage_limit"
    UNAVAILABLE = "unavailable"  # its service, or the repository or remote that it stands for, is away
    MANUAL = "manual"
    CREDITS = "credits"  # the service wants a payment; only a person opens it (`manual`, with the column `unavailable`)

    @property
    def by_a_person(self) -> bool:
        """Whether only a person opens the account."""
        return self in (PauseReason.MANUAL, PauseReason.CREDITS)


class Verdict(StrEnum):
    """What the database answers to one result (sql/tasks/finish.sql)."""

    RECORDED = "recorded"
    ALREADY = "already"  # a replay
    LATE = "late"  # another worker has the task; the result is kept in the audit trail
    GONE = "gone"  # the row was deleted


class StopCause(StrEnum):
    """Why a run is asked to end."""

    CANCEL = "cancel"  # a person requested it
    DRAIN = "drain"  # the worker stops
    LOST = "lost"  # another worker has the task


class RowStatement(StrEnum):
    """What writes rows of agent_tasks or agent_actions, many at once: the label of `turbo_refused_rows_total{statement}`."""

    CLAIM = "claim"
    PROMOTION = "promotion"
    FINISH = "finish"
    RELEASE = "release"
    RESCUE = "rescue"
    RECONCILE = "reconcile"
    REASSERT = "reassert"
    PROGRESS = "progress"
    RETENTION = "retention"
    SETTLE = "settle"


class RescueReason(StrEnum):
    """Why a task was taken back: the label of `turbo_rescued_tasks_total{reason}`."""

    WORKER_SILENT = "worker_silent"
    WORKER_RESTARTED = "worker_restarted"
    ORPHAN = "orphan"  # the claim's answer was lost on the wire


class ControlMessage(StrEnum):
    """The first word of a notification on `turbo_ctl`."""

    STOP = "stop"  # `stop <worker id>`: a person wants a run of that worker ended
    QUEUES = "queues"  # a queue was paused or resumed
    ACCOUNTS = "accounts"  # an account was paused or opened
    SETTLE = "settle"  # there is something for the settler: a note, or the end of a task that others wait for
    BUDGETS = "budgets"  # a budget was written; or a fold has closed one, or opened one
    LIMITS = "limits"  # a limit of a key was written, or removed
    SUBSCRIPTIONS = "subscriptions"  # a subscription was written
    SCHEDULE = "schedule"  # a schedule changed; `schedule <slot> <next>`: what was due up to that slot is fired
    MESSAGE = (
        "message"  # `message <worker id> <task id>`: somebody told a task something; no worker id: it does not run
    )


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"  # worth knowing
    WARN = "warn"  # it works, and will cause trouble
    FAIL = "fail"  # it does not work
    REFUSE = "refuse"  # the command stops before it changes anything
    SKIP = "skip"  # not checked


_TASK_STATES = {state.value: state for state in TaskState}


def task_state(status: str | None) -> TaskState | None:
    """The state with that name. None for a status that only an adopted table has."""
    return None if status is None else _TASK_STATES.get(status)


FINAL = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED})

TRANSITIONS: dict[tuple[TaskState, TaskState], str] = {
    (TaskState.SCHEDULED, TaskState.PENDING): "due: promoted by the poll of a worker that serves its queue",
    (TaskState.PENDING, TaskState.RUNNING): "claimed, or reasserted by the worker that runs it",
    (TaskState.SCHEDULED, TaskState.RUNNING): "reasserted: rescued, or its claim lost, while its worker runs it",
    (TaskState.RUNNING, TaskState.COMPLETED): "the program succeeded",
    (TaskState.RUNNING, TaskState.FAILED): "out of attempts, poison, or one question too many",
    (TaskState.RUNNING, TaskState.CANCELLED): "cancelled, after its program is gone",
    (TaskState.RUNNING, TaskState.SCHEDULED): "retry with backoff, rescue, infrastructure, a busy directory",
    (
        TaskState.RUNNING,
        TaskState.PENDING,
    ): "given back uncounted (released, or its login, limit or service was the cause), or requeued by hand",
    (TaskState.SCHEDULED, TaskState.CANCELLED): "cancelled by hand",
    (TaskState.PENDING, TaskState.CANCELLED): "cancelled by hand",
    (TaskState.SCHEDULED, TaskState.COMPLETED): "closed by hand, or late success of a rescued run",
    (TaskState.SCHEDULED, TaskState.FAILED): "closed by hand, or poison: the database refuses its row",
    (TaskState.PENDING, TaskState.COMPLETED): "closed by hand, or late success of a rescued run",
    (TaskState.PENDING, TaskState.FAILED): "closed by hand, or poison: the database refuses its row",
    (TaskState.PENDING, TaskState.BLOCKED): "an older worker serves its queue, and it depends on other tasks",
    (TaskState.PENDING, TaskState.SCHEDULED): "postponed by hand",
    (TaskState.RUNNING, TaskState.WAITING): "it asks a person",
    (TaskState.SCHEDULED, TaskState.WAITING): "held by hand, or the late question of a rescued run",
    (TaskState.PENDING, TaskState.WAITING): "held by hand, or the late question of a run that was given back",
    (
        TaskState.WAITING,
        TaskState.PENDING,
    ): "answered or released, nobody answered in time, or by hand without an answer",
    (TaskState.WAITING, TaskState.SCHEDULED): "released, or set by hand, for later",
    (
        TaskState.WAITING,
        TaskState.FAILED,
    ): "nobody answered in time, closed by hand, or poison: the database refuses its row",
    (TaskState.WAITING, TaskState.CANCELLED): "not released, or cancelled by hand",
    (TaskState.WAITING, TaskState.COMPLETED): "closed by hand, or late success: its answer was lost",
    (TaskState.WAITING, TaskState.RUNNING): "reasserted: its answer and its claim were lost, while its worker runs it",
    (TaskState.BLOCKED, TaskState.PENDING): "what it needs is over, or run by hand without waiting for that",
    (TaskState.BLOCKED, TaskState.SCHEDULED): "what it needs is over, and it is due later; or by hand, for later",
    (TaskState.BLOCKED, TaskState.WAITING): "held by hand, or the late question of a run whose claim was lost",
    (TaskState.BLOCKED, TaskState.CANCELLED): (
        "a task it needs did not complete; the conversation is another login's; or cancelled by hand"
    ),
    (TaskState.BLOCKED, TaskState.COMPLETED): "closed by hand, or late success: its claim was lost",
    (TaskState.BLOCKED, TaskState.FAILED): "closed by hand",
    (TaskState.BLOCKED, TaskState.RUNNING): "reasserted: its claim was lost, while its worker runs it",
    (TaskState.RUNNING, TaskState.BLOCKED): "given back before it ran: it came past the triggers, and has needs",
    (TaskState.WAITING, TaskState.BLOCKED): "a hold is released, and it needs other tasks",
    (TaskState.COMPLETED, TaskState.BLOCKED): "retried by hand, and it needs other tasks",
    (TaskState.FAILED, TaskState.BLOCKED): "retried by hand, and it needs other tasks",
    (
        TaskState.CANCELLED,
        TaskState.BLOCKED,
    ): "what it needs is retried after all; or retried by hand, and it needs other tasks",
    (TaskState.COMPLETED, TaskState.PENDING): "retried by hand",
    (TaskState.FAILED, TaskState.PENDING): "retried by hand",
    (TaskState.CANCELLED, TaskState.PENDING): "retried by hand",
    (TaskState.COMPLETED, TaskState.SCHEDULED): "retried by hand, for later",
    (TaskState.FAILED, TaskState.SCHEDULED): "retried by hand, for later",
    (TaskState.CANCELLED, TaskState.SCHEDULED): "retried by hand, for later",
    (TaskState.COMPLETED, TaskState.FAILED): "corrected by hand",
    (TaskState.COMPLETED, TaskState.CANCELLED): "corrected by hand",
    (TaskState.FAILED, TaskState.COMPLETED): "corrected by hand, or late success of a poisoned run",
    (TaskState.FAILED, TaskState.CANCELLED): "corrected by hand",
    (TaskState.CANCELLED, TaskState.COMPLETED): "corrected by hand",
    (TaskState.CANCELLED, TaskState.FAILED): "corrected by hand",
}
"""The allowed transitions, each with its reason."""
