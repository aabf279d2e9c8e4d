"""The backfill of an adopted table: rows that waited before turbo came get their own place in the queue.

ADD COLUMN gave every row the same `run_after`, the moment of the adoption. For finished rows that will do. For waiting rows
it would mean no order at all, so they get their `created_at`, a thousand at a time, each batch a transaction of its own: an
old poller beside it waits for no more than that. A row that it has locked, or has claimed meanwhile, stays as it is.

Repeatable: a row is done when its `run_after` is no longer that moment, and turbo_meta remembers when all are.
"""

from dataclasses import dataclass

import psycopg
from psycopg.rows import TupleRow

from turbo.migrate.adoption.survey import Survey
from turbo.sql import source, statement

Connection = psycopg.Connection[TupleRow]

BATCH = 1_000
PAGES = 2_048
"""Of 8 kB, in one statement at most: where no row waits, a statement reads 16 MB and changes nothing."""

PASSES = 3
"""Over the table: a second one for rows that somebody had locked, a third for those of a poller that died with them."""


@dataclass(frozen=True, slots=True)
class Backfill:
    """The statements, and whether other people's triggers are kept from firing for them."""

    quiet: bool

    def sql(self) -> tuple[str, ...]:
        """What is sent for one batch, for a plan."""
        quiet = (source("migrate/quiet_triggers"),) if self.quiet else ()
        return (source("migrate/backfill_ahead"), *quiet, source("migrate/backfill"), source("migrate/backfill_done"))


def method_for(survey: Survey) -> Backfill | None:
    """Whether waiting rows may be touched at all: not where that would set off a trigger that this session cannot hush."""
    if survey.tasks is None:
        return None
    loud = any(trigger.updates for trigger in survey.tasks.of("trigger"))
    return None if loud and not survey.quiet else Backfill(survey.quiet)


def run(connection: Connection, how: Backfill | None) -> int:
    """Fill, and remember that it is done. Returns how many rows were filled; 0 at once where nothing was adopted."""
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
