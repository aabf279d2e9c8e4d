"""Before the first claim: the database is there, its schema fits, and what dead workers of this host left is seen to.

    schema fits? ──▶ the dead: programs ended, results replayed, tasks rescued ──▶ registered ──▶ accounts known
        └──────── any of it fails: say it once, wait (however long), begin again ◀────────┘

Every step can be repeated. Nothing is claimed before all of it is done, so a task that a dead worker of this host had in
hand is not begun again while its program still runs, or while its result lies in a spool.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import psycopg

from turbo import db, migrate
from turbo.db.claim_store import Queue
from turbo.db.connect import Backoff, Lane
from turbo.host.spool import Spool
from turbo.host.state_dir import StateDir
from turbo.process.reaper import end_leftovers

log = logging.getLogger(__name__)


class SchemaMismatch(Exception):
    """The database's schema is not one this worker can work with; the message says what to do."""

    def __init__(self, fit: migrate.SchemaFit, text: str) -> None:
        super().__init__(text)
        self.fit = fit


class Startup:
    def __init__(
        self,
        queue: Queue,
        lane: Lane,
        state: StateDir,
        spool: Spool,
        *,
        host: str,
        dsn: str,
        replay: Callable[[], "Awaitable[Counter[str]]"],
        rescue: Callable[[str], Awaitable[None]],
        register: Callable[[], Awaitable[None]],
        learn: Callable[[], Awaitable[None]],
    ) -> None:
        """`replay` sends what `spool`, this worker's own, holds, and counts the answers; `rescue(reason)` takes back what
        declared-dead workers held; `register` writes this worker's row; `learn` reads which accounts are closed."""
        self._queue = queue
        self._lane = lane
        self._state = state
        self._spool = spool
        self._host = host
        self._dsn = dsn
        self._replay = replay
        self._rescue = rescue
        self._register = register
        self._learn = learn

    async def run(self) -> None:
        """Returns when all is done; waits for the database as long as it takes."""
        backoff = Backoff()
        said: str | None = None
        while True:
            try:
                await self._check_schema()
                await self._adopt_the_dead()
                await self._register()
                await self._learn()
                break
            except (psycopg.Error, OSError, SchemaMismatch) as error:
                said = self._say(error, said)
                await asyncio.sleep(backoff.next())
        if said is not None:
            log.info("the database is there")

    def _say(self, error: Exception, said: str | None) -> str:
        """A line per kind of trouble (a migration under way shows several versions). The kind that was said last."""
        if isinstance(error, psycopg.Error) and not db.is_transient(error):
            log.error("cannot start: %s", db.reason(error))
        mismatch = isinstance(error, SchemaMismatch)
        kind = error.fit if isinstance(error, SchemaMismatch) else type(error).__name__
        if said != kind:
            what = "" if mismatch else f"waiting for the database at {db.describe(self._dsn)}: "
            log.warning("%s%s", what, db.reason(error))
        return kind

    async def _check_schema(self) -> None:
        async with self._lane.use() as connection:
            fit, text = await migrate.worker_verdict(connection)
        if fit is not migrate.SchemaFit.OK:
            raise SchemaMismatch(fit, text)

    async def _adopt_the_dead(self) -> None:
        """End what dead siblings of this host left running, replay their results, give back the rest."""
        dead = self._state.dead_workers()
        try:
            for home in dead:
                ended = await asyncio.to_thread(end_leftovers, home.journal)
                if ended:
                    log.warning("ended %d processes that dead worker %s left behind", len(ended), home.worker_id)
                # What it had not recorded, and what a failover may have lost of what it had.
                await asyncio.to_thread(self._spool.adopt, Spool(home.spool))
            if not dead:
                return
            if tally := await self._replay():
                said = ", ".join(f"{n} {verdict}" for verdict, n in sorted(tally.items()))
                log.info("results of earlier workers sent again: %s", said)
            if await self._queue.bury([home.worker_id for home in dead], self._host):
                await self._rescue("worker_restarted")
            for home in dead:
                home.remove()
        finally:
            for home in dead:
                home.close()  # else nobody could adopt it as long as this process lives
