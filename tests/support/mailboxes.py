"""A mailbox without a database: a test puts messages in, and reads which of them the agent had."""

import itertools
from collections.abc import Sequence

from turbo.domain.mailbox import Mailbox
from turbo.domain.work import Message


class Told:
    """A MessageSource. `last`: what the next look finds. `before`: what earlier runs were told. `marks`: bodies of messages that
    were marked, each with whether the agent has it."""

    def __init__(self, *bodies: str, before: Sequence[str] = ()) -> None:
        self._numbers = itertools.count(1)
        self.last: list[str] = []
        self.before = [self._message(body) for body in before]
        self.marks: list[tuple[str, bool]] = []
        self.looks = 0
        self.mailbox = Mailbox(self, [self._message(body) for body in bodies])

    def say(self, *bodies: str) -> None:
        self.mailbox.put([self._message(body) for body in bodies])

    @property
    def delivered(self) -> list[str]:
        return [body for body, delivered in self.marks if delivered]

    def _message(self, body: str) -> Message:
        return Message(next(self._numbers), body, "alice")

    async def look(self) -> None:
        self.looks += 1
        found, self.last = self.last, []
        self.say(*found)

    def look_soon(self) -> None: ...

    async def earlier(self) -> Sequence[Message]:
        return self.before

    def mark(self, messages: Sequence[Message], *, delivered: bool) -> None:
        self.marks += [(message.body, delivered) for message in messages]
