"""What waits for a person, and why an answer is refused."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from turbo.domain.question import Question, QuestionKind, Single
from turbo.domain.visible import visible

YES_OR_NO_KINDS = (QuestionKind.APPROVAL, QuestionKind.HOLD)
"""What `approve` and `deny` answer."""


class AnswerRefused(ValueError):
    """The database does not take this answer. The message says why, and shows the form of an answer."""


class NotWaiting(AnswerRefused):
    """The task does not wait for this answer (any more): somebody was first, its time is over, or it asks something else."""


class MayNotAnswer(AnswerRefused):
    """The session's role may not answer."""

    def __init__(self) -> None:
        super().__init__(
            "this role may not answer: turbo_approver and turbo_admin may (GRANT turbo_approver TO ..., after turbo migrate --roles)"
        )


@dataclass(frozen=True, slots=True)
class HeldTask:
    """With what a held task will run, besides its text and data. `needs`: the first 100 of `all_needs`."""

    continues: str | None
    parent_task_id: str | None
    submitted_by: str | None
    needs: tuple[str, ...]
    all_needs: int
    on_needs_failed: str
    task_priority: int | None
    timeout_seconds: int | None
    max_retries: int | None
    concurrency_key: str | None


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """A task that waits for a person, and what it asks.

    `kind`: question (the agent's: `questions`, each with options), approval (may `tool` be called with `input`?) or hold (may
    the task run?). `host`: the only host that may run the task, because it has its conversation; None: any. `host_live`: whether a
    live worker of that host serves its queue; None: no such host, or this role may not see workers. `age`: seconds since it asked.
    `task_description` is truncated to 200 characters. Of a hold, `text` is the whole description, and `input_data` and `run_after`
    (None: at once) are what it will run with, and so is `released`; asked for without `whole`, `text` is the beginning of it, and
    there is neither `input_data` nor `released`.
    """

    task_id: str
    queue: str
    task_type: str | None
    task_description: str
    kind: str
    text: str
    questions: tuple[Single, ...]
    tool: str
    input: Mapping[str, Any]
    rule: str
    then: str | None
    number: int
    asked_at: datetime | None
    answer_by: datetime | None
    age: float | None
    host: str | None
    host_live: bool | None
    key: str | None
    """Tells it from the other questions of its task, and a hold from the same task after an edit."""
    input_data: Any = None
    run_after: datetime | None = None
    released: HeldTask | None = None

    @property
    def first_line(self) -> str:
        """What it asks, on one line: for lists."""
        return next((line for line in map(str.strip, self.text.splitlines()) if line), "")


def open_question(row: Mapping[str, Any], live: set[tuple[str, str]] | None) -> OpenQuestion:
    """A row of client/questions.sql. `live`: hosts with a queue that a live worker there serves; None: not known."""
    document = row["question"]
    try:
        asked = Question.from_document(document)
    except ValueError:  # written by the table's owner: its text is all that is shown
        text = document.get("text") if isinstance(document, dict) else None
        asked = Question(QuestionKind.QUESTION, str(text if text is not None else document))
    return OpenQuestion(
        task_id=row["task_id"],
        queue=row["queue"],
        task_type=row["task_type"],
        task_description=row["task_description"],
        kind=asked.kind.value,
        text=asked.text if row["held"] is None else row["held"],
        questions=asked.questions,
        tool=asked.tool,
        input=asked.input,
        rule=asked.rule,
        then=asked.then.value if asked.then is not None else None,
        number=asked.number,
        asked_at=row["asked_at"],
        answer_by=row["answer_by"],
        age=row["age"],
        host=row["host"],
        host_live=None if row["host"] is None or live is None else (row["host"], row["queue"]) in live,
        key=row["key"],
        input_data=row["input_data"],
        run_after=row["run_after"],
        released=_released(row["released"]),
    )


def _released(document: Mapping[str, Any] | None) -> HeldTask | None:
    if document is None:
        return None
    return HeldTask(**{**document, "needs": tuple(document["needs"] or ()), "all_needs": document["all_needs"] or 0})


def not_waiting(task_id: str, status: str | None, kind: str | None, wanted: tuple[str, ...] | None) -> NotWaiting:
    """Why nothing was answered."""
    name = visible(task_id)
    if status != "waiting" or kind is None:
        return NotWaiting(f"task {name} does not wait for an answer: it is {status}")
    if wanted is not None and kind not in wanted:
        return NotWaiting(
            f"task {name} asks a {kind}, and waits for no {' or '.join(wanted)}: answer it with turbo answer {shlex.quote(name)} ..."
        )
    return NotWaiting(f"task {name} asks something else by now: look again with turbo questions")
