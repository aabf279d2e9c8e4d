"""A claimed task, as executors and python handlers see it: a frozen value, never a row."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """One claim of one row of `agent_tasks`.

    `task_id` is text whatever the column's type is. `input_data` is the parsed JSON value (usually a dict, or None).
    `timeout_seconds` is the wall limit of one run. `attempt` counts from 1. `fencing_token` names this claim: a
    second run of the same task has another. `waited_seconds`: runnable → claimed, on the database's clock.
    `input_error`: why the row cannot be run (input_data nested too deep, a number too long, too much of it, a time limit below
    one second); such a task fails at once. `heavy`: `input_data` is so large that work on it takes a turn of the event loop.
    """

    task_id: str
    task_type: str
    task_description: str
    input_data: object = None
    queue: str = "default"
    priority: int | None = None
    timeout_seconds: float = 300.0
    retry_count: int = 0
    max_retries: int = 3
    infra_count: int = 0
    fencing_token: int = 0
    concurrency_key: str | None = None
    agent_session_id: str | None = None
    waited_seconds: float = 0.0
    input_error: str | None = None
    heavy: bool = False

    @property
    def attempt(self) -> int:
        return self.retry_count + 1


NO_TASK = Task(task_id="", task_type="", task_description="")
"""For the environment of a program that runs no task: a probe, a question for its version."""
