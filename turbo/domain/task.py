"""A claimed task, as executors and python handlers see it: a frozen value, never a row."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from turbo.domain.question import Answered
from turbo.domain.work import Continued, Message, Need


@dataclass(frozen=True, slots=True)
class Task:
    """One claim of one row of `agent_tasks`.

    `task_id` is text whatever the column's type is. `input_data` is the parsed JSON value (usually a dict, or None).
    `timeout_seconds` is the wall limit of one run. `attempt` counts from 1. `fencing_token` names this claim: a
    second run of the same task has another. `waited_seconds`: runnable → claimed, on the database's clock.
    `input_error`: why the row cannot be run (input_data nested too deep, a number too long, too much of it, a time limit below
    one second); such a task fails at once. `heavy`: `input_data` is so large that work on it takes a turn of the event loop.
    `answers`: what earlier runs of the task have asked, in that order, with the answers. `earlier_runs`: what the runs of a task
    that asks have used so far, as `output_data.earlier_runs` keeps it.
    `needs`: what it needed, by task id, in the order of `agent_tasks.needs`. `continued`: the conversation that it goes on with;
    None: it begins its own. `messages`: what people told it that no run of it has delivered yet, oldest first.
    `directory`: names its directory in place of its id, which that of another conversation has. `traceparent`: the span of this run,
    for its program; None: the worker does not trace, or could not.
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
    answers: tuple[Answered, ...] = ()
    earlier_runs: tuple[Mapping[str, object], ...] = ()
    needs: Mapping[str, Need] = field(default_factory=dict)
    continued: Continued | None = None
    messages: tuple[Message, ...] = ()
    directory: str | None = None
    traceparent: str | None = None

    @property
    def directory_id(self) -> str:
        """What names its directory and worktree: its id, or that of the first task of its conversation."""
        first = self.directory if self.continued is None else self.continued.first_task_id
        return first or self.task_id

    @property
    def directory_data(self) -> Mapping[str, object]:
        """What `input_data` says of its directory, `cwd` and `ref`: its own, where it has them, else that of the first task of its
        conversation."""
        own = self.input_data if isinstance(self.input_data, dict) else {}
        chosen = {name: own[name] for name in ("cwd", "ref") if own.get(name) is not None}
        return chosen if self.continued is None else {**self.continued.directory, **chosen}

    @property
    def attempt(self) -> int:
        return self.retry_count + 1

    @property
    def last_answered(self) -> Answered | None:
        """The last question with its answer. None: nothing was asked."""
        return self.answers[-1] if self.answers else None

    @property
    def answer(self) -> str | None:
        """The answer to the last question. None: nothing was asked, or nobody answered."""
        return self.answers[-1].answer if self.answers else None


NO_TASK = Task(task_id="", task_type="", task_description="")
"""For the environment of a program that runs no task: a probe, a question for its version."""
