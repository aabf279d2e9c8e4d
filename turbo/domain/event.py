"""Events: what happened, as a subscription delivers it. docs/how-to/notifications.md has the body that a target gets."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from turbo.domain.redaction import Redactor
from turbo.domain.visible import visible

TEXT_CHARACTERS = 200
NAMED_IN_SUMMARY = 3


class EventName(StrEnum):
    """What a subscription may name. The first five belong to a task."""

    ASKED = "asked"
    REMINDED = "reminded"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ACCOUNT_PAUSED = "account_paused"
    ACCOUNT_RESUMED = "account_resumed"
    BUDGET_WARNED = "budget_warned"
    BUDGET_SPENT = "budget_spent"
    SCHEDULE_FAILED = "schedule_failed"
    WORKER_DIED = "worker_died"


OF_TASKS = frozenset(list(EventName)[:5])

_SAID = {
    EventName.ASKED: "task {about} asks",
    EventName.REMINDED: "task {about} still waits for an answer",
    EventName.COMPLETED: "task {about} completed",
    EventName.FAILED: "task {about} failed",
    EventName.CANCELLED: "task {about} was cancelled",
    EventName.ACCOUNT_PAUSED: "account {about} is paused",
    EventName.ACCOUNT_RESUMED: "account {about} is open again",
    EventName.BUDGET_WARNED: "budget {about} is nearly spent",
    EventName.BUDGET_SPENT: "budget {about} is spent",
    EventName.SCHEDULE_FAILED: "schedule {about} failed",
    EventName.WORKER_DIED: "worker {about} died",
}


@dataclass(frozen=True, slots=True)
class Event:
    """A row of agent_actions (`stream` actions) or agent_events (events), as sql/subscriptions/look_… reads it. `row`: its columns by
    their names in the body."""

    stream: str
    id: int
    name: str
    at: datetime
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same at every delivery of this event: `a4711`, `e12`."""
        return f"{self.stream[0]}{self.id}"

    @property
    def task_id(self) -> str | None:
        found = self.row.get("task_id")
        return None if found is None else str(found)


@dataclass(frozen=True, slots=True)
class Notice:
    """What is delivered at once: one event, or many that are folded. `id` is the same when it is sent again."""

    id: str
    body: Mapping[str, Any]

    @property
    def summary(self) -> str:
        return str(self.body["summary"])


def notice(
    subscription: str,
    events: Sequence[Event],
    redactor: Redactor,
    *,
    web_url: str | None = None,
    outputs: Mapping[str, object] | None = None,
) -> Notice:
    """The body for these events, at least one, in their order. `web_url`: where the page is, for links. `outputs`: by task id, for a
    target that gets them. Texts are without secrets, safe for a terminal, and at most TEXT_CHARACTERS long."""
    told = [_told(event, redactor, web_url, outputs or {}) for event in events]
    first, last = events[0], events[-1]
    return Notice(
        f"{subscription}:{first.key}" if len(events) == 1 else f"{subscription}:{first.key}-{last.key}+{len(events)}",
        {
            "type": first.name if len(events) == 1 else "several",
            "timestamp": _moment(last.at),
            "subscription": subscription,
            "summary": _summary(told),
            "count": len(events),
            "counts": dict(Counter(event.name for event in events)),
            "events": told,
        },
    )


def sample(subscription: str, name: str = EventName.COMPLETED, *, web_url: str | None = None) -> Notice:
    """An event that never happened, to try a target with."""
    row: dict[str, Any] = {"text": "This is a test of turbo: nothing happened.", "test": True}
    if name in OF_TASKS:
        row |= {"task_id": "sample-task", "queue": "default", "task_type": "default", "from": "running"}
        row |= {"to": "waiting" if name in (EventName.ASKED, EventName.REMINDED) else name}
    else:
        row |= {"about": "sample"}
    event = Event("test", 0, name, datetime.now(UTC), row)
    return notice(subscription, [event], Redactor(frozenset()), web_url=web_url)


def _told(event: Event, redactor: Redactor, web_url: str | None, outputs: Mapping[str, object]) -> dict[str, Any]:
    row = dict(event.row)
    detail = row.pop("detail", None)
    told: dict[str, Any] = {"id": event.key, "event": event.name, "at": _moment(event.at)}
    for column, value in row.items():
        told[column] = shown(value, redactor) if isinstance(value, str) else value
    if isinstance(detail, Mapping):
        if "text" not in told and (why := detail.get("error") or detail.get("why")):
            told["text"] = shown(str(why), redactor)
        told["detail"] = {
            key: shown(value, redactor) if isinstance(value, str) else value
            for key, value in detail.items()
            if not isinstance(value, dict | list) and key not in ("error", "why")
        }
    if (task_id := event.task_id) is not None:
        if web_url is not None:
            told["link"] = f"{web_url}/tasks/{quote(task_id, safe='')}"
        if task_id in outputs and event.name == EventName.COMPLETED:
            told["output"] = redactor.value(outputs[task_id])
    return told


def shown(text: str, redactor: Redactor) -> str:
    """On one line, without secrets. The secrets are taken out first: a part of one is none that can be found."""
    words = visible(" ".join(redactor.text(text).split()))
    return words if len(words) <= TEXT_CHARACTERS else words[: TEXT_CHARACTERS - 1] + "…"


def _summary(told: Sequence[Mapping[str, Any]]) -> str:
    """One line for people: what happened, or how much of what."""
    if len(told) == 1:
        one = told[0]
        about = one.get("task_id") or one.get("about") or "?"
        said = _SAID.get(one["event"], "{about}: " + str(one["event"])).replace("{about}", str(about))
        return f"{said}: {one['text']}" if one.get("text") else said
    counts = Counter(str(one["event"]) for one in told)
    parts = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    names = [str(one.get("task_id") or one.get("about")) for one in told[:NAMED_IN_SUMMARY]]
    return f"{len(told)} events: {parts} ({', '.join(names)}{', …' if len(told) > NAMED_IN_SUMMARY else ''})"


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
