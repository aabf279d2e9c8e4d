"""The states of a task, and which may follow which. The one place that names them.

    scheduled ──due──▶ pending ──claim──▶ running ──▶ completed | failed | cancelled
        ▲                 ▲                 │
        └── retry, rescue ┼─────────────────┤
                          └──── release ────┘

docs/state-machine.md draws the same machine; a test holds the page and this module together.
"""

from enum import StrEnum


class TaskState(StrEnum):
    """`agent_tasks.status`. An adopted table may hold others (an old poller's): turbo leaves those rows alone."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class WorkerState(StrEnum):
    """`agent_workers.state`, and the label of `turbo_workers{state}`."""

    UP = "up"
    DRAINING = "draining"
    PAUSED = "paused"
    DEAD = "dead"


FINAL = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED})

TRANSITIONS: dict[tuple[TaskState, TaskState], str] = {
    (TaskState.SCHEDULED, TaskState.PENDING): "due: promoted by any worker's sweep",
    (TaskState.PENDING, TaskState.RUNNING): "claimed, or reasserted by the worker that runs it",
    (TaskState.SCHEDULED, TaskState.RUNNING): "reasserted: rescued, or its claim lost, while its worker runs it",
    (TaskState.RUNNING, TaskState.COMPLETED): "the program succeeded",
    (TaskState.RUNNING, TaskState.FAILED): "out of tries, or poison",
    (TaskState.RUNNING, TaskState.CANCELLED): "cancelled, after its program is gone",
    (TaskState.RUNNING, TaskState.SCHEDULED): "retry with backoff, rescue, infrastructure, a busy directory",
    (TaskState.RUNNING, TaskState.PENDING): "released untouched, or requeued by hand",
    (TaskState.SCHEDULED, TaskState.CANCELLED): "cancelled by hand",
    (TaskState.PENDING, TaskState.CANCELLED): "cancelled by hand",
    (TaskState.SCHEDULED, TaskState.COMPLETED): "closed by hand, or late success of a rescued run",
    (TaskState.SCHEDULED, TaskState.FAILED): "closed by hand",
    (TaskState.PENDING, TaskState.COMPLETED): "closed by hand, or late success of a rescued run",
    (TaskState.PENDING, TaskState.FAILED): "closed by hand",
    (TaskState.PENDING, TaskState.SCHEDULED): "postponed by hand",
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
"""What may follow what, and why."""
