"""Hands the messages of a run's mailbox to one process of the CLI, through its stdin, one batch at a time.

    mailbox ──▶ on its way ──the CLI says `started`──▶ taken ──the model answers──▶ delivered
                    └── the run asks a person first: withdrawn, for the run after the answer

While a tool runs, the CLI adds a message to the tool's result; during the last answer it keeps it, and makes it the next prompt.
What the model has answered is in the session's file, so a session that is resumed knows it.

A CLI that gives no receipts (2.1.197) takes messages too, but nobody can tell when: it gets them as its next prompt only.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from turbo.domain.mailbox import Mailbox
from turbo.domain.work import Message
from turbo.executors.agent.handed_on import later_messages_part

BATCH_BYTES = 1024 * 1024
"""Of one batch; its last message may go past it."""


class Courier:
    """For one call of the CLI. `in_prompt`: the messages that its prompt contains. `write` sends one line to the CLI."""

    def __init__(
        self,
        mailbox: Mailbox,
        write: Callable[[Mapping[str, Any]], None],
        in_prompt: Sequence[Message] = (),
    ) -> None:
        self._mailbox = mailbox
        self._write = write
        self._in_prompt = tuple(in_prompt)
        self._number: str | None = None  # of the batch on its way
        self._on_way: tuple[Message, ...] = ()
        self._taken: tuple[Message, ...] = ()
        self._open = False  # the agent is at work, or about to be
        self._idle = False  # a turn is over, and the CLI waits
        self._receipts = False
        self._acknowledged = False  # what is on its way has a receipt
        mailbox.on_arrival(self.send)

    @property
    def on_way(self) -> bool:
        """The CLI was sent something that it has not begun with."""
        return self._number is not None

    @property
    def acknowledged(self) -> bool:
        """It has that, and begins with it by itself."""
        return self.on_way and self._acknowledged

    def prompted(self, number: str) -> None:
        """The prompt was sent, as the message `number`."""
        self._open, self._idle = True, True
        self._number, self._on_way, self._in_prompt, self._acknowledged = number, self._in_prompt, (), False

    def carried(self) -> None:
        """The agent goes on without a prompt: what was in it is sent by itself."""
        self._mailbox.put_back(self._in_prompt)
        self._in_prompt, self._open = (), True
        self.send()

    def send(self) -> None:
        """Send what waits, if the CLI can take it now."""
        if not self._open or self.on_way or not (self._receipts or self._idle):
            return
        batch = self._batch()
        if batch:
            self._number, self._on_way, self._acknowledged = str(uuid.uuid4()), batch, False
            text = "\n\n".join(later_messages_part(batch))
            self._write(user_message(self._number, text))

    def turn_over(self) -> None:
        """The CLI waits for the next prompt, unless something is on its way."""
        self._idle = True

    async def more(self) -> bool:
        """Look once more, and send what there is. False: there is nothing."""
        if await self._mailbox.last_look():
            self.send()
        return self.on_way

    def receipt(self, number: object, state: object) -> bool:
        """What became of a message, or of a call that was deferred; whether it is the message on its way."""
        self._receipts = True
        if number is None or number != self._number:
            return False
        self._acknowledged = True
        if state in ("started", "completed"):
            self._began()
            self.send()
        elif state == "cancelled":
            self._mailbox.put_back(self._on_way)
            self._number, self._on_way = None, ()
        return True

    def answered(self) -> None:
        """The model has answered, in the main conversation."""
        if self.on_way and self._idle and not self._receipts:
            self._began()
        self._idle = False
        taken, self._taken = self._taken, ()
        self._mailbox.delivered(taken)

    def withdraw(self) -> str | None:
        """Nothing more is handed over. The message that is to be taken back from the CLI, if there is one."""
        self._open = False
        return self._number if self._on_way else None

    def close(self) -> None:
        """The call is over. What the agent has not had goes back into the mailbox."""
        self._open = False
        self._mailbox.on_arrival(None)
        self._mailbox.put_back((*self._taken, *self._on_way, *self._in_prompt))
        self._taken = self._on_way = self._in_prompt = ()
        self._number = None

    def _began(self) -> None:
        self._taken += self._on_way
        self._number, self._on_way = None, ()

    def _batch(self) -> tuple[Message, ...]:
        waiting = self._mailbox.take()
        size = 0
        for place, message in enumerate(waiting, start=1):
            size += len(message.body.encode("utf-8", "replace"))
            if size >= BATCH_BYTES:
                self._mailbox.put_back(waiting[place:])
                return waiting[:place]
        return waiting


def user_message(number: str, text: str) -> dict[str, Any]:
    """A line for the CLI's stdin: something that the user says."""
    content = text.encode("utf-8", "replace").decode()
    return {"type": "user", "uuid": number, "message": {"role": "user", "content": content}}
