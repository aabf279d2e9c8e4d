"""Prints a task's transcript from the database, as a conversation or as it is stored, and goes on with it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from psycopg import errors

from turbo.cli import conversation, output
from turbo.domain.transcript import END_TYPE, OWN_PATH

if TYPE_CHECKING:
    from turbo.client.client import Client
    from turbo.client.transcript import TranscriptLine

FOLD = 200_000
"""Characters of one line that are shown."""


class TranscriptView:
    """Prints each line once. `raw`: as it is stored."""

    def __init__(self, client: "Client", task_id: str, *, raw: bool = False) -> None:
        self._client = client
        self._task_id = task_id
        self._raw = raw
        self._after = (0, -1)
        self.refused: str | None = None
        self.ended = False
        """The last line was the end of a run."""

    @property
    def begun(self) -> bool:
        """Whether something was printed."""
        return self._after != (0, -1)

    def has_run(self, token: int | None) -> bool:
        """Whether lines of this run, or of a later one, were printed."""
        return token is not None and self._after[0] >= token

    def more(self) -> bool:
        """Print what is new. Whether there was anything. Raises what `Client.transcript` does, but for a role that may not read it, and
        for a database from before transcripts: then `refused` says why there is none."""
        news = False
        try:
            for line in self._client.transcript(self._task_id, after=self._after):
                news = True
                if self._raw:
                    output.print_unchanged(line.text)
                else:
                    for text in _shown(line):
                        output.echo(text[:FOLD])
                self.ended = line.path == OWN_PATH and line.text.startswith(f'{{"type": "{END_TYPE}"')
                self._after = (line.fencing_token, line.batch)
        except errors.InsufficientPrivilege:
            self.refused = "this database user may not read transcripts (turbo_reader may)"
        except (errors.UndefinedTable, errors.UndefinedColumn):
            self.refused = "this database has no transcripts yet: run turbo migrate"
        return news


def _shown(line: "TranscriptLine") -> Iterator[str]:
    """As a conversation; a row of a shape that no agent's CLI writes, as it is stored: it keeps no other from
    being read."""
    try:
        yield from conversation.shown(line)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        yield line.text
