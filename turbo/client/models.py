"""What the client returns: tasks, their status and their audit trail. Times are the database's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from turbo.domain.states import FINAL
from turbo.domain.visible import visible

PREFIXES_SHOWN = 10


class UnknownTask(LookupError):
    """No such task; the message names it."""


class AmbiguousTask(LookupError):
    """A prefix of several ids; the message lists them."""

    def __init__(self, prefix: str, task_ids: Sequence[str]) -> None:
        self.task_ids = tuple(task_ids)
        shown = ", ".join(map(visible, self.task_ids[:PREFIXES_SHOWN]))
        more = ", …" if len(self.task_ids) > PREFIXES_SHOWN else ""
        super().__init__(f"{prefix!r} is a prefix of several ids: {shown}{more}")


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task with every column. Times are the database's; `output_data`, `input_data` and `question` are parsed JSON.

    `question` is what the task asks, or last asked, a person; `prefer_host` the host that has its
    conversation (None: any may run it); `requires` the labels that its worker must have.
    `needs`: the tasks that must be over before it runs; `continues`: the task whose conversation it goes on with;
    `submitted_by`: the database user who inserted it."""

    task_id: str
    task_type: str | None
    task_description: str
    task_priority: int | None
    input_data: Any
    status: str
    queue: str
    output_data: Any
    error_message: str | None
    failure_kind: str | None
    execution_time_ms: int | None
    assigned_worker_id: str | None
    timeout_seconds: int | None
    max_retries: int | None
    retry_count: int | None
    infra_count: int
    created_at: datetime | None
    run_after: datetime
    started_at: datetime | None
    completed_at: datetime | None
    concurrency_key: str | None
    idempotency_key: str | None
    agent_session_id: str | None
    cancel_requested_at: datetime | None
    cancel_to: str | None
    question: Any = None
    answer: str | None = None
    prefer_host: str | None = None
    needs: list[str] | None = None
    on_needs_failed: str | None = None
    parent_task_id: str | None = None
    continues: str | None = None
    submitted_by: str | None = None
    requires: dict[str, str] | None = None

    @property
    def finished(self) -> bool:
        return self.status in FINAL

    @property
    def output(self) -> Any:
        """The program's result: `output_data.output`, or `output_data` itself if a user wrote something else there."""
        data = self.output_data
        return data["output"] if isinstance(data, dict) and "output" in data else data


@dataclass(frozen=True, slots=True)
class TaskLine:
    """A task in a list: `task_description` and `question` are truncated to 200 characters, `task_type` to 1,000. `question` and
    `asked_at`: what the task asks a person, and since when; None unless it waits for the answer."""

    task_id: str
    status: str
    queue: str
    task_type: str | None
    task_priority: int | None
    retry_count: int | None
    max_retries: int | None
    assigned_worker_id: str | None
    created_at: datetime | None
    run_after: datetime
    started_at: datetime | None
    completed_at: datetime | None
    failure_kind: str | None
    task_description: str
    cancel_requested_at: datetime | None = None
    cancel_to: str | None = None
    prefer_host: str | None = None
    question: str | None = None
    asked_at: datetime | None = None
    requires: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Conditions on tasks; None means no condition. `worker`: part of the worker's id; `text`: part of the description or the
    error; `since`: became runnable, started or ended at that time or later."""

    statuses: tuple[str, ...] | None = None
    queue: str | None = None
    task_type: str | None = None
    worker: str | None = None
    failure_kind: str | None = None
    since: datetime | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer to a submit. `created` False: its idempotency key already had this task."""

    task_id: str
    created: bool


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """The current status of a task. `seconds`: how long it has run, or has waited (negative: due in).

    `question`, `kind` and `asked_at`: what it asks a person, truncated to 200 characters; None unless it waits for the answer.
    `needs`: the first ten tasks that it waits for, and `blocked`: the same in words; None unless it is blocked. `continues`: the
    task whose conversation it goes on with."""

    task_id: str
    status: str
    queue: str
    assigned_worker_id: str | None
    failure_kind: str | None
    retry_count: int | None
    stopping: bool
    last_line: str | None
    seconds: float | None
    question: str | None = None
    kind: str | None = None
    asked_at: datetime | None = None
    prefer_host: str | None = None
    continues: str | None = None
    needs: tuple[str, ...] | None = None
    blocked: str | None = None

    @property
    def finished(self) -> bool:
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class Action:
    """One row of the audit trail. `actor` is a worker id, or the database user of a hand edit."""

    action_type: str
    success: bool | None
    executed_at: datetime
    execution_time_ms: int | None
    actor: str | None
    from_status: str | None
    to_status: str | None
    detail: Any


@dataclass(frozen=True, slots=True)
class Changed:
    """A task that a command changed, and its new status (a running task stays running until its agent has stopped)."""

    task_id: str
    status: str


@dataclass(frozen=True, slots=True)
class RunView:
    """A task's latest run. `line` is its last output while it runs, None without any; `log` is the path of its log on the
    worker's host, once it has ended. `question`, `kind` and `asked_at`: as in TaskStatus."""

    task_id: str
    status: str
    fencing_token: int | None
    worker_id: str | None
    host: str | None
    log: str | None
    error_message: str | None
    line: str | None
    input_tokens: int
    output_tokens: int
    question: str | None = None
    kind: str | None = None
    asked_at: datetime | None = None

    @property
    def finished(self) -> bool:
        return self.status in FINAL
