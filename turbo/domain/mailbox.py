"""The mailbox of one run: what people tell its task while it goes on.

    put ──▶ waiting ──take──▶ with the executor ──delivered──▶ the agent has it
               ▲                    │                └── given: a program was started with it
               └──── put_back ──────┘       neither: it stays open in the database, for the next run or as a follow-up

The worker puts in what the database has (turbo.worker.message_desk); an executor with a conversation takes it out. All of it is
on the worker's event loop.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from turbo.domain.work import Message


class MessageSource(Protocol):
    """What the worker does for the mailbox of a run."""

    async def look(self) -> None:
        """Put in what the database has. Never raises; takes a few seconds at most."""
        ...

    def look_soon(self) -> None:
        """The same, in the background."""
        ...

    async def earlier(self) -> Sequence[Message]:
        """What earlier runs of the task were told; nothing where the database cannot be asked now."""
        ...

    def mark(self, messages: Sequence[Message], *, delivered: bool) -> None:
        """Write down that the run was given them, or that its agent has them."""
        ...


class Mailbox:
    """`known`: the ids of all that was put in. `told`: how many messages the agent has, `heard`: those. `more`: the database has
    more than was put in at once."""

    def __init__(self, source: MessageSource, messages: Iterable[Message] = ()) -> None:
        self._source = source
        self._waiting: list[Message] = []
        self._arrived: Callable[[], None] | None = None
        self.known: set[int] = set()
        self.told = 0
        self.heard: list[Message] = []
        self.more = False
        self.put(messages)

    def put(self, messages: Iterable[Message]) -> None:
        """Add those that are not known yet."""
        new = [message for message in messages if message.message_id not in self.known]
        if new:
            self.known.update(message.message_id for message in new)
            self._waiting += new
            if self._arrived is not None:
                self._arrived()

    def put_back(self, messages: Sequence[Message]) -> None:
        """The agent has not had them."""
        self._waiting[:0] = messages

    def take(self) -> tuple[Message, ...]:
        """All that waits, oldest first."""
        taken, self._waiting = tuple(self._waiting), []
        if taken and self.more:
            self.more = False
            self._source.look_soon()
        return taken

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def on_arrival(self, arrived: Callable[[], None] | None) -> None:
        """`arrived()` is called when something was put in; None ends that."""
        self._arrived = arrived

    def delivered(self, messages: Sequence[Message]) -> None:
        """The agent has them: it has answered since."""
        if messages:
            self.told += len(messages)
            self.heard += messages
            self._source.mark(messages, delivered=True)

    def given(self, messages: Sequence[Message]) -> None:
        """A program was started with them. They count as delivered if it succeeds."""
        if messages:
            self._source.mark(messages, delivered=False)

    async def last_look(self) -> bool:
        """Before the run ends: ask the database once more. Whether anything waits now."""
        await self._source.look()
        return self.waiting

    async def earlier(self) -> Sequence[Message]:
        """What earlier runs of the task were told, for a conversation that begins anew."""
        return await self._source.earlier()
