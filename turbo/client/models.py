"""What the client answers with: tasks, their trail, and where they stand. Times are the database's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from turbo.domain.states import FINAL

PREFIXES_SHOWN = 10


class UnknownTask(LookupError):
    """No such task; the message names it."""


class AmbiguousTask(LookupError):
    """The beginning of several ids; the message lists them."""

    def __init__(self, prefix: str, task_ids: Sequence[str]) -> None:
        self.task_ids = tuple(task_ids)
        shown = ", ".join(self.task_ids[:PREFIXES_SHOWN])
        more = ", …" if len(self.task_ids) > PREFIXES_SHOWN else ""
        super().__init__(f"{prefix!r} begins several ids: {shown}{more}")


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task as the table has it. Times are the database's; `output_data` and `input_data` are parsed JSON."""

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

    @property
    def finished(self) -> bool:
        return self.status in FINAL

    @property
    def output(self) -> Any:
        """What the program answered: `output_data.output`, or `output_data` itself where a person wrote something else."""
        data = self.output_data
        return data["output"] if isinstance(data, dict) and "output" in data else data


@dataclass(frozen=True, slots=True)
class TaskLine:
    """A task in a list: `task_description` is cut at 200 characters."""

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


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks; None is no condition. `worker`: a part of its id; `text`: a part of the description or the error;
    `since`: became runnable, started or ended then or later."""

    statuses: tuple[str, ...] | None = None
    queue: str | None = None
    task_type: str | None = None
    worker: str | None = None
    failure_kind: str | None = None
    since: datetime | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task of `submit_many`. created False: its idempotency key had this one already."""

    task_id: str
    created: bool


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """Where a task is now. `seconds`: running for so long, else waiting for so long (negative: due in)."""

    task_id: str
    status: str
    queue: str
    assigned_worker_id: str | None
    failure_kind: str | None
    retry_count: int | None
    stopping: bool
    last_line: str | None
    seconds: float | None

    @property
    def finished(self) -> bool:
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class Action:
    """One row of the trail. `actor` is a worker id, or the database user of a hand edit."""

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
    """A task that a command changed, and the status it has now (a running one stays running until its agent is gone)."""

    task_id: str
    status: str


@dataclass(frozen=True, slots=True)
class RunView:
    """A task's latest run from outside. `line` and the tokens: what it said last, None unless it runs and has spoken;
    `log`: where its log is, on the host of its worker, once it has ended."""

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

    @property
    def finished(self) -> bool:
        return self.status in FINAL
