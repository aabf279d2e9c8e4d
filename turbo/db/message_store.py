"""Statements about messages: what people tell this worker's runs."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from turbo.db.store import Store, claim_columns
from turbo.domain.claim import ClaimRef
from turbo.domain.work import Message

MOST_MESSAGES = 200
MOST_BYTES = 1024 * 1024
"""Of one run's messages in one answer; the last one may go past it."""


class MessageStore(Store):
    """Of any worker: a statement names the claims that it is for."""

    async def open(self, claims: Iterable[ClaimRef], known: Iterable[int]) -> dict[ClaimRef, list[Message]]:
        """The open messages of these runs, oldest first, without the `known` ones: at most MOST_MESSAGES and about MOST_BYTES of
        each run."""
        limits = {"most": MOST_MESSAGES, "bytes": MOST_BYTES, "known": list(known)}
        found: dict[ClaimRef, list[Message]] = {}
        for task_id, token, *message in await self._rows("messages/open", claim_columns(claims) | limits):
            found.setdefault(ClaimRef(task_id, token), []).append(Message(*message))
        return found

    async def earlier(self, claim: ClaimRef) -> list[Message]:
        """What earlier runs of the task were told, oldest first: the latest MOST_MESSAGES and about MOST_BYTES."""
        parameters = {"task_id": claim.task_id, "token": claim.token, "most": MOST_MESSAGES, "bytes": MOST_BYTES}
        return [Message(*row) for row in await self._rows("messages/earlier", parameters)]

    async def mark(self, given: Mapping[Message, tuple[int, bool]]) -> None:
        """By message: the token of the run that was given it, and whether its agent has it."""
        columns: Sequence[list[object]] = [
            [message.message_id for message in given],
            [token for token, _ in given.values()],
            [delivered for _, delivered in given.values()],
            [hashlib.sha256(message.body.encode()).digest() for message in given],
        ]
        names = ("message_id", "token", "delivered", "digest")
        await self._run("messages/mark", dict(zip(names, columns, strict=True)))


def is_full(messages: Sequence[Message]) -> bool:
    """Whether the database may have more for that run."""
    return len(messages) >= MOST_MESSAGES or sum(len(one.body.encode()) for one in messages) >= MOST_BYTES
