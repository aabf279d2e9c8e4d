"""The clients' operations on questions: who waits, and the answers. See turbo.client.operations for what drives them."""

import json
from collections.abc import Mapping, Sequence

import psycopg

from turbo.client.models import Changed, TaskFilter, UnknownTask
from turbo.client.new_task import check_text
from turbo.client.operations import Query, Steps
from turbo.client.questions import (
    YES_OR_NO_KINDS,
    AnswerRefused,
    MayNotAnswer,
    NotWaiting,
    OpenQuestion,
    not_waiting,
    open_question,
)
from turbo.domain.question import MOST_BYTES, QuestionKind

Answer = str | Mapping[str, str | Sequence[str]]
"""Text; or, where several questions were asked, the answer to each by its exact text. Of several options: a list."""

Waiting = str | OpenQuestion
"""A task id. Or a question as `questions` gave it: then the answer counts only if the task still asks just that."""


def questions(
    criteria: TaskFilter,
    kinds: Sequence[str] | None,
    task_ids: Sequence[str] | None,
    limit: int | None,
    *,
    whole: bool = True,
) -> Steps[list[OpenQuestion]]:
    """`whole`: with all that a hold releases."""
    parameters = {
        "whole": whole,
        "task_ids": None if task_ids is None else list(task_ids),
        "kinds": None if kinds is None else list(kinds),
        "queue": criteria.queue,
        "task_type": criteria.task_type,
        "worker": criteria.worker,
        "since": criteria.since,
        "text": criteria.text,
        "limit": limit,
    }
    rows = (yield Query("client/questions", parameters)).rows
    live = yield from _live_hosts({row["host"] for row in rows if row["host"] is not None})
    return [open_question(row, live) for row in rows]


def _live_hosts(hosts: set[str]) -> Steps[set[tuple[str, str]] | None]:
    """Which of them have a live worker, with the queues that it serves. None: this role may not see workers."""
    if not hosts:
        return set()
    if not (yield Query("client/may_see_workers")).rows[0]["may"]:
        return None
    rows = (yield Query("client/live_hosts", {"hosts": sorted(hosts)})).rows
    return {(row["host"], row["queue"]) for row in rows}


def answer(task: Waiting, text: Answer) -> Steps[Changed]:
    """Raises UnknownTask, NotWaiting, AnswerRefused, MayNotAnswer, BadField."""
    changed = yield from _answered([task], written(text), None)
    if changed:
        return changed[0]
    raise (yield from _why_not(_id(task), None))


def approve(tasks: Waiting | Sequence[Waiting], *, always: bool) -> Steps[list[Changed]]:
    kinds = (QuestionKind.APPROVAL,) if always else YES_OR_NO_KINDS
    return (yield from _yes_or_no(tasks, "always" if always else "yes", kinds))


def deny(tasks: Waiting | Sequence[Waiting], because: str | None) -> Steps[list[Changed]]:
    reason = (because or "").strip()
    return (yield from _yes_or_no(tasks, f"no, {reason}" if reason else "no", YES_OR_NO_KINDS))


def written(answer: Answer) -> str:
    """As it stands in the row. Raises AnswerRefused, BadField."""
    if isinstance(answer, str):
        text = answer
    elif isinstance(answer, Mapping):
        values = {key: _chosen(key, value) for key, value in answer.items()}
        for value in values.values():
            check_text("answer", value)
        text = json.dumps(values, ensure_ascii=False)
    else:
        raise AnswerRefused(
            f"an answer is text, or a mapping from each question to its answer, not {type(answer).__name__}"
        )
    check_text("answer", text)
    if (size := len(text.encode())) > MOST_BYTES:
        raise AnswerRefused(
            f"the answer has {size} bytes, more than {MOST_BYTES}: write a shorter one, or put the rest where the agent can read it"
        )
    return text


def _chosen(question: str, value: object) -> str:
    """One answer, or several options. Raises AnswerRefused."""
    several = [value] if isinstance(value, str) else value
    if not isinstance(several, Sequence) or not all(isinstance(one, str) for one in several):
        raise AnswerRefused(f"the answer to {question!r} is text, or a list of texts, not {type(value).__name__}")
    return ", ".join(several)


def _yes_or_no(tasks: Waiting | Sequence[Waiting], text: str, kinds: tuple[QuestionKind, ...]) -> Steps[list[Changed]]:
    one = isinstance(tasks, str | OpenQuestion)
    listed = [tasks] if isinstance(tasks, str | OpenQuestion) else list(tasks)
    changed = yield from _answered(listed, written(text), [kind.value for kind in kinds])
    if one and not changed:
        raise (yield from _why_not(_id(listed[0]), tuple(kind.value for kind in kinds)))
    return changed


def _answered(tasks: Sequence[Waiting], text: str, kinds: list[str] | None) -> Steps[list[Changed]]:
    if not tasks:
        return []
    parameters = {
        "task_ids": [_id(task) for task in tasks],
        "keys": [task.key if isinstance(task, OpenQuestion) else None for task in tasks],
        "kinds": kinds,
        "answer": text,
    }
    try:
        rows = (yield Query("client/answer", parameters)).rows
    except psycopg.errors.InsufficientPrivilege:
        raise MayNotAnswer from None
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        raise NotWaiting(_said(error)) from None
    except psycopg.errors.CheckViolation as error:
        raise AnswerRefused(_said(error)) from None
    except psycopg.DataError:  # an id that is not valid for the column's type
        if len(tasks) > 1:
            raise
        raise UnknownTask(f"no task {_id(tasks[0])!r}") from None
    return [Changed(**row) for row in rows]


def _why_not(task_id: str, wanted: tuple[str, ...] | None) -> Steps[Exception]:
    rows = (yield Query("client/asks", {"task_id": task_id})).rows
    if not rows:
        return UnknownTask(f"no task {task_id!r}")
    return not_waiting(task_id, rows[0]["status"], rows[0]["kind"], wanted)


def _id(task: Waiting) -> str:
    return task if isinstance(task, str) else task.task_id


def _said(error: psycopg.Error) -> str:
    """What the database's trigger says, with its hint."""
    hint = f". {error.diag.message_hint}" if error.diag.message_hint else ""
    return f"{error.diag.message_primary or error}{hint}"
