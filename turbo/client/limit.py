"""A limit, as the client writes it and returns it: how many tasks of a concurrency_key run at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from turbo.client.new_task import BadField, check_text, check_whole
from turbo.domain.limits import KEY_CHARACTERS
from turbo.domain.visible import visible

MOST_RUNNING = 1000
COUNTED_WAITERS = 10_000
"""Tasks that wait are counted so far."""


class UnknownLimit(LookupError):
    """No limit of this key; the message has the key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no limit for key '{visible(key if len(key) <= 60 else key[:60] + '…')}'")


class LimitRefused(ValueError):
    """The database does not take this limit. The text says why, and what to write instead."""


class MayNotLimit(LimitRefused):
    """The session's role may not write limits, or not see them."""

    def __init__(self, *, reading: bool) -> None:
        what, who = ("see", "turbo_reader") if reading else ("change", "turbo_admin")
        super().__init__(
            f"this role may not {what} limits: {who} may (GRANT {who} TO ..., after turbo migrate --roles)"
        )


@dataclass(frozen=True, slots=True)
class KeyLimit:
    """A limit, and its tasks: `limit` of this `concurrency_key` run at a time, `running` do, `waiting` are pending (counted up to
    COUNTED_WAITERS). More run than the limit says if it was lowered: they go on."""

    concurrency_key: str
    limit: int
    running: int
    waiting: int

    @property
    def shown_waiting(self) -> str:
        return f"{self.waiting}{'+' * (self.waiting >= COUNTED_WAITERS)}"

    @property
    def full(self) -> bool:
        """No task of this key starts now."""
        return self.running >= self.limit


def check_limit(key: object, running: object) -> None:
    """Raises BadField for what is no key, or no number from 1 to MOST_RUNNING."""
    check_text("concurrency_key", key)
    if not isinstance(key, str):
        raise BadField("concurrency_key", "is missing: write the key as tasks have it")
    if len(key) > KEY_CHARACTERS:
        raise BadField(
            "concurrency_key", f"has {len(key)} characters, more than {KEY_CHARACTERS}: no task has such a key"
        )
    if isinstance(running, int) and not isinstance(running, bool) and not 1 <= running <= MOST_RUNNING:
        raise BadField(
            "running", f"is {running}: write 1 to {MOST_RUNNING}; to start no task at all, pause the queue: turbo pause"
        )
    check_whole("running", running, 1, MOST_RUNNING)
    if running is None:
        raise BadField("running", f"is missing: write 1 to {MOST_RUNNING}")


def read_limit(row: Mapping[str, Any]) -> KeyLimit:
    """A row of client/limits.sql."""
    return KeyLimit(**row)
