"""A claimed row as a task: what the claim returns of it, and what tasks/more.sql says besides."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from turbo.db.store import Row
from turbo.domain.limits import (
    HEAVY_CHARACTERS,
    KEY_CHARACTERS,
    TYPE_CHARACTERS,
    InputLimits,
    too_many_values,
)
from turbo.domain.question import Answered, answered
from turbo.domain.task import Task
from turbo.domain.work import MOST_EARLIER, NEED_OUTPUT_BYTES, NEEDS_OUTPUT_BYTES, Continued, Earlier, Message, Need

DEFAULT_TIMEOUT_SECONDS = 300
MAX_TIMEOUT_SECONDS = 30 * 86_400

SHOWN_CHARACTERS = 1000
"""What is kept of a description that is too long."""

PATH_CHARACTERS = 16_384
"""Of what a first task's input says of its directory. What is longer is left out."""

EARLIER_RUNS = 100
"""Runs of a task that asks whose use is carried along."""

MORE_PARAMETERS: Mapping[str, object] = {
    "output": NEED_OUTPUT_BYTES,
    "outputs": NEEDS_OUTPUT_BYTES,
    "earlier": MOST_EARLIER,
}
"""Of tasks/more.sql, besides the ids."""


@dataclass(frozen=True, slots=True)
class More:
    """What tasks/more.sql says of one task: see the fields of `Task`. `untied`: nothing was written of its needs, so it must not
    run yet. `session`: that of its conversation, where its row has none yet."""

    answers: tuple[Answered, ...] = ()
    earlier_runs: tuple[Mapping[str, object], ...] = ()
    needs: Mapping[str, Need] = field(default_factory=dict)
    continued: Continued | None = None
    messages: tuple[Message, ...] = ()
    untied: bool = False
    session: str | None = None
    directory: str | None = None


NO_MORE = More()


def more(row: Row) -> tuple[str, More]:
    """One row of tasks/more.sql: which task, and what it brings."""
    task_id, question, answer, earlier, runs, needs, found, untied, continued, messages, directory = row
    return task_id, More(
        answers=answered(question, answer, earlier),
        earlier_runs=tuple((runs or ())[-EARLIER_RUNS:]),
        needs=_needs(needs or (), found or ()),
        continued=None if continued is None else _continued(continued),
        messages=tuple(Message(one["id"], one["body"], one["sender"]) for one in messages or ()),
        untied=untied,
        session=None if continued is None else continued["session"],
        directory=directory,
    )


def _needs(task_ids: Iterable[str | None], found: Iterable[Mapping[str, Any]]) -> dict[str, Need]:
    """In the order of `task_ids`, each once."""
    known = {one["task_id"]: one for one in found}
    return {
        task_id: _need(known[task_id]) if task_id in known else Need("deleted")
        for task_id in task_ids
        if task_id is not None
    }


def _need(row: Mapping[str, Any]) -> Need:
    output, readable = _output(row)
    workspace, _ = _parsed(row["workspace"])
    return Need(
        status=row["status"],
        output=output,
        cut=row["cut"] or not readable,
        workspace=workspace if isinstance(workspace, dict) else None,
    )


def _continued(row: Mapping[str, Any]) -> Continued:
    earlier = tuple(_earlier(one) for one in row["earlier"] or ())
    before = earlier[-1] if earlier and earlier[-1].task_id == row["task_id"] else None
    directory = {key: text for key, text in (row["directory"] or {}).items() if text and len(text) <= PATH_CHARACTERS}
    return Continued(
        task_id=row["task_id"],
        output=None if before is None else before.output,
        first_task_id=row["first"] or "",
        first_run=not row["begun"],
        earlier=earlier,
        directory=directory,
    )


def _earlier(row: Mapping[str, Any]) -> Earlier:
    output, readable = _output(row)
    cut = bool(row["cut"]) or not readable
    return Earlier(row["task_id"], row["text"] or "", output, cut=cut, status=row["status"] or "", ran=bool(row["ran"]))


def _output(row: Mapping[str, Any]) -> tuple[object, bool]:
    """An output of at most NEED_OUTPUT_BYTES, and whether it can be read."""
    output, readable = _parsed(row["output"])
    if row["cut"] and isinstance(output, str):
        output = output.encode(errors="replace")[:NEED_OUTPUT_BYTES].decode(errors="ignore")
    return output, readable


def _parsed(text: str | None) -> tuple[object, bool]:
    """The value that a JSON text says, and whether it can be read."""
    if text is None:
        return None, True
    try:
        return json.loads(text), True
    except (ValueError, RecursionError):
        return None, False


def claim_order(task: Task) -> tuple[int, float]:
    """Highest priority first, nulls last; then the longest wait."""
    return (-task.priority if task.priority is not None else 1 << 32, -task.waited_seconds)


def task(row: Row, queue: str, limits: InputLimits, brings: More) -> Task:
    """One row of tasks/claim.sql as the task that it is."""
    (
        task_id,
        task_type,
        description,
        raw,
        priority,
        timeout,
        retries,
        max_retries,
        infra,
        token,
        key,
        session,
        waited,
        *_,
    ) = row
    data: object = None
    seconds = float(timeout) if timeout is not None else DEFAULT_TIMEOUT_SECONDS
    problem = _unfit(seconds, key) or _too_long(task_type, description or "", raw or "", limits)
    if problem is not None:
        task_type, description = task_type[:TYPE_CHARACTERS], (description or "")[:SHOWN_CHARACTERS]
    elif raw is not None:
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as error:
            problem = f"input_data cannot be read: {error}"
    return Task(
        task_id=task_id,
        task_type=task_type,
        task_description=description or "",
        input_data=data,
        queue=queue,
        priority=priority,
        timeout_seconds=min(seconds, MAX_TIMEOUT_SECONDS) if seconds >= 1 else 1.0,
        retry_count=retries,
        max_retries=3 if max_retries is None else max(0, max_retries),
        infra_count=infra,
        fencing_token=token,
        concurrency_key=key,
        agent_session_id=session or brings.session,
        waited_seconds=max(0.0, waited),
        input_error=problem,
        heavy=raw is not None and len(raw) > HEAVY_CHARACTERS,
        answers=brings.answers,
        earlier_runs=brings.earlier_runs,
        needs=brings.needs,
        continued=brings.continued,
        messages=brings.messages,
        directory=brings.directory,
    )


def _unfit(seconds: float, key: str | None) -> str | None:
    """What an insert would have refused: a person with the right to UPDATE may write it all the same."""
    if not seconds >= 1:  # nor is NaN
        return f"timeout_seconds is {seconds:g}; write at least 1, or null for {DEFAULT_TIMEOUT_SECONDS}"
    if key is not None and len(key) > KEY_CHARACTERS:
        return f"concurrency_key is longer than {KEY_CHARACTERS} characters; write a shorter one, or a hash of it"
    return None


def _too_long(task_type: str, description: str, raw: str, limits: InputLimits) -> str | None:
    """The first column that is longer than a worker takes. The claim has cut what is, so its real length is not known."""
    most, remedy = limits.characters, "; worker.max_input_mb of worker.yaml sets the limit"
    if len(raw) <= HEAVY_CHARACTERS and len(description) <= HEAVY_CHARACTERS and len(task_type) <= TYPE_CHARACTERS:
        return None
    if len(task_type) > TYPE_CHARACTERS:
        return f"task_type is longer than {TYPE_CHARACTERS:,} characters"
    for column, text in (("task_description", description), ("input_data", raw)):
        if len(text) > most:
            return f"{column} is longer than {most:,} characters{remedy}"
    return too_many_values("input_data", raw)
