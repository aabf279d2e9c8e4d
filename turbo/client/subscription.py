"""A subscription, as the client writes it and returns it: which events go to which target, and how far it is."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from turbo.client.new_task import BadField, check_text
from turbo.domain.event import OF_TASKS, EventName
from turbo.domain.schedule import NAME_LENGTH
from turbo.domain.visible import visible

FAILING = 3
"""Deliveries that failed in a row: it is not a matter of a moment."""

UNHELD_SECONDS = 60.0
"""A live worker that has the target takes a subscription sooner."""


class UnknownSubscription(LookupError):
    """No subscription of this name; the message has the name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no subscription '{visible(name if len(name) <= 60 else name[:60] + '…')}'")


class SubscriptionRefused(ValueError):
    """The database does not take this subscription. The text says why, and what to write instead."""


class SubscriptionExists(SubscriptionRefused):
    """There is a subscription of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is a subscription '{visible(name[:60])}' already; to change it, add it again and say replace"
        )


class MayNotSubscribe(SubscriptionRefused):
    """The session's role may not write subscriptions, or not see them."""

    def __init__(self, *, reading: bool) -> None:
        what, who = ("see", "turbo_reader") if reading else ("change", "turbo_admin")
        super().__init__(
            f"this role may not {what} subscriptions: {who} may (GRANT {who} TO ..., after turbo migrate --roles)"
        )


@dataclass(frozen=True, slots=True)
class NewSubscription:
    """A subscription to write; the columns of agent_subscriptions by their names. `queue` and `task_type` choose among events of tasks;
    None means any. Raises BadField."""

    name: str
    target: str
    events: Sequence[str]
    queue: str | None = None
    task_type: str | None = None

    def __post_init__(self) -> None:
        for column in ("name", "target", "queue", "task_type"):
            check_text(column, getattr(self, column))
        for column, what in (("name", "'phone'"), ("target", "'ntfy'")):
            text = getattr(self, column)
            if text is None or not text.strip():
                raise BadField(column, f"is empty: write a short one, as in {what}")
            if len(text) > NAME_LENGTH:
                raise BadField(column, f"has {len(text)} characters, more than {NAME_LENGTH}: write a shorter one")
            if re.search(r"[\x00-\x1f\x7f-\x9f]", text):
                raise BadField(column, "has a control character: leave it out")
        if isinstance(self.events, str) or not self.events:
            raise BadField("events", f"is empty: write some of {', '.join(EventName)}")
        for event in self.events:
            check_text("events", event)
            if event not in list(EventName):
                raise BadField("events", f"has '{visible(event[:60])}': write some of {', '.join(EventName)}")
        for column in ("queue", "task_type"):
            if getattr(self, column) == "":
                raise BadField(column, "is empty: leave it out for any")
        if (self.queue is not None or self.task_type is not None) and not set(self.events) & OF_TASKS:
            raise BadField("queue", "and task_type choose among events of tasks, and none of these events is one")

    def parameters(self, *, replace: bool) -> dict[str, object]:
        """Those of client/add_subscription.sql."""
        return {
            "name": self.name,
            "target": self.target,
            "events": sorted(set(self.events)),
            "queue": self.queue,
            "task_type": self.task_type,
            "replace": replace,
        }


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription. `holder`: the worker that delivers it, None for none. `unheld_seconds`: for how long none has been there.
    `waiting_since`: when the oldest event happened that is read and not delivered; None: none waits. `delivered`: how many events its
    target has taken, `delivered_at` the last of them. `failures`: in a row; `error`: why the last failed; `next_at`: the next try."""

    name: str
    events: tuple[str, ...]
    queue: str | None
    task_type: str | None
    target: str
    enabled: bool
    created_by: str | None
    created_at: datetime
    updated_at: datetime
    holder: str | None
    unheld_seconds: float | None
    waiting_since: datetime | None
    delivered: int
    delivered_at: datetime | None
    failures: int
    error: str | None
    next_at: datetime | None
    now: datetime

    @property
    def state(self) -> str:
        """on, paused; failing: its target does not take what is delivered; no worker: none has its target."""
        if not self.enabled:
            return "paused"
        if self.failures >= FAILING:
            return "failing"
        if self.unheld_seconds is not None and self.unheld_seconds > UNHELD_SECONDS:
            return "no worker"
        return "on"


def read_subscription(row: Mapping[str, Any]) -> Subscription:
    """A row of client/subscriptions.sql."""
    return Subscription(**{**row, "events": tuple(row["events"])})
