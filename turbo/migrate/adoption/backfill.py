"""The backfill of an adopted table: rows that waited before turbo was installed get a place in the queue.

ADD COLUMN gave every row the same `run_after`, the time of the adoption. That is fine for finished rows, but waiting rows would
have no order. So they get their `created_at`, a thousand rows per transaction, and an old poller waits for one batch at
most. A row that the poller has locked or claimed stays unchanged.

Repeatable: a row is done when its `run_after` has changed, and turbo_meta records when all are done.
"""

from dataclasses import dataclass

import psycopg
from psycopg.rows import TupleRow

from turbo.migrate.adoption.survey import Survey
from turbo.sql import source, statement

Connection = psycopg.Connection[TupleRow]

BATCH = 1_000
PAGES = 2_048
"""Pages of 8 kB per statement: without waiting rows, a statement reads 16 MB and changes nothing."""

PASSES = 3
"""Passes over the table: the second for rows that were locked, the third for rows of a poller that died meanwhile."""


@dataclass(frozen=True, slots=True)
class Backfill:
    """The statements, and whether foreign triggers are disabled for them."""

    quiet: bool

    def sql(self) -> tuple[str, ...]:
        """The statements of one batch, for a plan."""
        quiet = (source("migrate/quiet_triggers"),) if self.quiet else ()
        return (source("migrate/backfill_ahead"), *quiet, source("migrate/backfill"), source("migrate/backfill_done"))


def method_for(survey: Survey) -> Backfill | None:
    """How to fill waiting rows; None if that would fire a trigger that this session cannot disable."""
    if survey.tasks is None:
        return None
    loud = any(trigger.updates for trigger in survey.tasks.of("trigger"))
    return None if loud and not survey.quiet else Backfill(survey.quiet)


def run(connection: Connection, how: Backfill | None) -> int:
    """Fill the rows and record that it is done. Returns the number of filled rows; 0 if nothing was adopted."""
    adopted_at, ahead, done = connection.execute(statement("migrate/backfill_state")).fetchone() or (None, None, True)
    if adopted_at is None or done:
        return 0
    filled = 0
    if how is not None:
        if ahead is None:
            connection.execute(statement("migrate/backfill_ahead"), {"adopted_at": adopted_at})
            ahead = (connection.execute(statement("migrate/backfill_state")).fetchone() or (None, 0.0))[1]
        for _ in range(PASSES):
            filled_now = _pass(connection, how, adopted_at, float(ahead or 0.0))
            filled += filled_now
            if not filled_now:
                break
    connection.execute(statement("migrate/backfill_done"))
    return filled


def _pass(connection: Connection, how: Backfill, adopted_at: str, ahead: float) -> int:
    filled, page, pages, after = 0, 0, 1, "(0,0)"
    while page < pages:
        parameters = {
            "after": after,
            "to_page": page + PAGES,
            "adopted_at": adopted_at,
            "ahead": ahead,
            "limit": BATCH,
        }
        with connection.transaction():
            if how.quiet:
                connection.execute(statement("migrate/quiet_triggers"))
            row = connection.execute(statement("migrate/backfill"), parameters).fetchone()
        assert row is not None
        looked_at, changed, last, pages = row
        filled += changed
        if looked_at == BATCH:
            after = last
        else:
            page += PAGES
            after = f"({page},0)"
    return filled
