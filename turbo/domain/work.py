"""How tasks belong together: what a task needs, whose conversation it goes on with, and what people tell it meanwhile."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from turbo.domain.states import TaskState

MOST_NEEDS = 20_000
"""Ids in `agent_tasks.needs`."""

MESSAGE_BYTES = 256 * 1024
"""Of one message."""

NEED_OUTPUT_BYTES = 64 * 1024
"""Of one need's output in a prompt; all of them together have eight times as much. The rest is named by its id."""

NEEDS_OUTPUT_BYTES = 512 * 1024


class OnNeedsFailed(StrEnum):
    """`agent_tasks.on_needs_failed`: what a need that does not complete does to the task that waits for it."""

    CANCEL = "cancel"  # the default
    RUN = "run"  # the end of the need is enough, whatever it is
    WAIT = "wait"  # for its retry, for 30 days at most


@dataclass(frozen=True, slots=True)
class Need:
    """One task that a task needed, as it was when the task was claimed.

    `status`: of the need; it is not over where a person let the task run without waiting. 'deleted': its row is gone.
    `output`: its `output_data.output`. `cut`: the output was too long, and is left out. `workspace`: its
    `output_data.workspace`, None without one."""

    status: str
    output: object = None
    cut: bool = False
    workspace: Mapping[str, object] | None = None


MOST_EARLIER = 20
"""Earlier tasks of a conversation that a run which begins it anew is told of."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """A task of a conversation before this one: what it was asked, cut as a need's output, and what came of it, as in Need.
    `status`: of the task. `ran`: it was claimed at least once."""

    task_id: str
    text: str
    output: object = None
    cut: bool = False
    status: str = ""
    ran: bool = True


@dataclass(frozen=True, slots=True)
class Continued:
    """The conversation that a follow-up goes on with.

    `task_id`: the task before it. `output`: that one's `output_data.output`, cut as a need's. `first_task_id`: the first task of
    the conversation, in whose directory all of them work. `first_run`: no run of this follow-up was claimed before, so its
    session (`Task.agent_session_id`) is still that of the task before it, and has not heard of this one.
    `earlier`: the last tasks before it, oldest first, MOST_EARLIER at most. `directory`: what the first task's `input_data`
    says of its directory, the keys `cwd` and `ref`."""

    task_id: str
    output: object = None
    first_task_id: str = ""
    first_run: bool = True
    earlier: tuple[Earlier, ...] = ()
    directory: Mapping[str, object] = field(default_factory=dict)

    @property
    def unaccepted(self) -> tuple[str, ...] | None:
        """The tasks that ran since the last one of the conversation that completed, oldest first: nobody has accepted their work.
        None: it is not known which task that is, or there is none."""
        if not self.earlier or self.earlier[-1].task_id != self.task_id:  # the row before it was deleted
            return None
        found: list[str] = []
        for one in reversed(self.earlier):
            if one.status == TaskState.COMPLETED:
                return tuple(reversed(found))
            if one.ran:
                found.append(one.task_id)
        return None


@dataclass(frozen=True, slots=True)
class Message:
    """One row of `agent_messages`: what a person tells a task. `sender`: the database user who wrote it."""

    message_id: int
    body: str
    sender: str


# ── as programs get them ────────────────────────────────────────────────────────────────────────────────────────────


def needs_document(needs: Mapping[str, Need]) -> dict[str, object]:
    """`{id: {status, output, workspace}}`, with `cut: true` where the output is not whole."""
    return {task_id: need_document(need) for task_id, need in needs.items()}


def need_document(need: Need) -> dict[str, object]:
    document: dict[str, object] = {"status": need.status, "output": need.output, "workspace": need.workspace}
    return document | ({"cut": True} if need.cut else {})


def continued_document(continued: Continued) -> dict[str, object]:
    """`{task_id, output}`: the task before it."""
    return {"task_id": continued.task_id, "output": continued.output}


def messages_document(messages: Sequence[Message]) -> list[dict[str, object]]:
    """`[{message_id, body, created_by}]`, by the names of the table's columns."""
    return [{"message_id": one.message_id, "body": one.body, "created_by": one.sender} for one in messages]


def work_to_json(needs: Mapping[str, Need], continued: Continued | None, messages: Sequence[Message]) -> dict[str, Any]:
    """The three fields of a Task, for another process."""
    told = None
    if continued is not None:
        told = _shallow(continued) | {"earlier": [_shallow(one) for one in continued.earlier]}
    return {
        "needs": {task_id: _shallow(need) for task_id, need in needs.items()},
        "continued": told,
        "messages": [_shallow(message) for message in messages],
    }


def work_from_json(document: Mapping[str, Any]) -> dict[str, Any]:
    """What `work_to_json` made, as the fields of a Task."""
    continued = document["continued"]
    if continued is not None:
        continued = Continued(**{**continued, "earlier": tuple(Earlier(**one) for one in continued["earlier"])})
    return {
        "needs": {task_id: Need(**need) for task_id, need in document["needs"].items()},
        "continued": continued,
        "messages": tuple(Message(**one) for one in document["messages"]),
    }


def _shallow(one: Need | Earlier | Continued | Message) -> dict[str, Any]:
    """Its fields by name. Outputs may be large: nothing is copied."""
    return {part.name: getattr(one, part.name) for part in fields(one)}
