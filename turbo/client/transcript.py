"""What the agents of a task said and did, as any host can read it."""

import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

import psycopg

from turbo import db
from turbo.client.hearing import PREFIX
from turbo.client.operations import Query, Stream
from turbo.client.waiting import CANNOT_WAIT, RENEW_SECONDS
from turbo.sql import statement

BATCHES = 20
CHANNEL: Final = "turbo_transcript"
START = (0, -1)


@dataclass(frozen=True, slots=True)
class TranscriptLine:
    """One line of a transcript. `fencing_token` names the run, `batch` the row of `agent_transcripts` that has the line; `at` is when
    that was stored. `kind` is `session` for a row of the agent's own session file (`path`, relative to the session), else `event`:
    a line of its output. `path` is `turbo` for what turbo itself has to say: {"type": "turbo_begin" | "turbo_note" | "turbo_end"}.
    `text`: the line, usually JSON, without its newline and without secrets."""

    fencing_token: int
    batch: int
    at: datetime
    session_id: str | None
    kind: str
    path: str
    text: str


def lines(task_id: str, after: tuple[int, int]) -> Stream[TranscriptLine]:
    """What there is now, after a run and a batch of it."""
    while True:
        token, batch = after
        answer = yield Query(
            "client/transcript", {"task_id": task_id, "token": token, "batch": batch, "limit": BATCHES}
        )
        for row in answer.rows:
            where = {name: value for name, value in row.items() if name != "lines"}
            for text in row["lines"].split("\n"):
                if text:
                    yield TranscriptLine(**where, text=text)
        if len(answer.rows) < BATCHES:
            return
        after = (answer.rows[-1]["fencing_token"], answer.rows[-1]["batch"])


class TranscriptBell:
    """Rings when a task has new lines, and when it has ended: over a session of its own, where notifications can be had. Else it only
    waits."""

    def __init__(self, dsn: str, task_id: str) -> None:
        self._dsn = dsn
        self._task_id = task_id
        self._connection: psycopg.Connection[Any] | None = None
        self._deaf = False
        self._channel = secrets.token_hex(12)
        self._registered_at: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self, seconds: float) -> bool:
        """Wait for new lines, at most so long. False: nothing was heard, which does not mean that there is nothing; or nothing can be
        heard, and it did not wait."""
        try:
            connection = self._listening()
            if connection is None:
                return False
            self._register(connection)
            return any(True for _ in connection.notifies(timeout=seconds, stop_after=1))
        except (psycopg.Error, OSError):
            self.close()
            self._deaf = True
            return False

    def _register(self, connection: psycopg.Connection[Any]) -> None:
        """To be told of the end, for 60 s; whoever follows a task looks every second all the same."""
        if self._registered_at is None or time.monotonic() - self._registered_at > RENEW_SECONDS:
            with suppress(*CANNOT_WAIT):
                connection.execute(statement("client/wait"), {"task_id": [self._task_id], "channel": self._channel})
            self._registered_at = time.monotonic()

    @property
    def deaf(self) -> bool:
        """Nothing can be heard: whoever waits has to sleep."""
        return self._deaf

    def close(self) -> None:
        """Nobody follows any more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _listening(self) -> psycopg.Connection[Any] | None:
        if self._connection is None and not self._deaf:
            connection = db.open_client(self._dsn, "turbo logs", None)
            pid = connection.execute("select pg_backend_pid()").fetchone()
            if pid is None or pid[0] != connection.info.backend_pid:  # a pooler: the lock would be another client's
                connection.close()
                self._deaf = True
                return None
            connection.execute(statement("client/follow_transcript"), {"task_id": self._task_id})
            connection.execute(
                psycopg.sql.SQL("listen {}; listen {}").format(
                    psycopg.sql.Identifier(CHANNEL), psycopg.sql.Identifier(PREFIX + self._channel)
                )
            )
            self._connection = connection
        return self._connection
