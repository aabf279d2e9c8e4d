"""The channels of LISTEN and NOTIFY, and what is sent over them.

turbo_q_<queue>     a queue may have a runnable task (the insert trigger, and a worker that must not take it)
turbo_ctl           workers, queues or accounts changed: see ControlMessage
turbo_w_<worker>    one worker's channel: its proof of delivery, questions, and calls by rank
turbo_heard         answers to questions: `<token> <worker id>`
"""

from collections.abc import Iterable
from typing import Final

from psycopg import sql as compose

from turbo.db.connect import Connection
from turbo.db.store import Store

CONTROL = "turbo_ctl"
QUEUE_PREFIX = "turbo_q_"
HEARD = "turbo_heard"
QUESTION = "do you hear? "
"""A question begins with this; the rest comes back with the answer: `<rest> <worker id>`."""

CROWDED: Final = 0.5
"""Nothing is sent while the server's notification queue is fuller than this share (migrations/0008_shared.sql)."""


def worker_channel(worker_id: str) -> str:
    """The channel of one worker."""
    return f"turbo_w_{worker_id}"[:63]


def queue_channel(queue: str) -> str:
    return QUEUE_PREFIX + queue


async def listen(connection: Connection, channels: Iterable[str]) -> None:
    """LISTEN to all of them, in one round trip."""
    statements = (compose.SQL("listen {}").format(compose.Identifier(channel)) for channel in channels)
    await connection.execute(compose.SQL("; ").join(statements))


class Notifier(Store):
    """Sends notifications, from a session that is not the listener's: a pooler may deliver a session's own to itself."""

    async def notify(self, channel: str, payload: str) -> bool:
        """False: not sent, because the server's notification queue is more than half full."""
        return bool(await self._rows("workers/notify", {"channel": channel, "payload": payload}))

    async def wake_all(self, queue: str) -> None:
        """Wake every idle worker of `queue`, as the insert trigger does where few are idle."""
        await self.notify(queue_channel(queue), "")
