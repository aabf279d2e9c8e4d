"""Start-up: the database is there, its schema fits, and what dead workers of this host left has been dealt with.

    schema fits? ──▶ which database? ──▶ its dead workers: programs ended, results sent again, usage counted, tasks rescued
        │                                                              └──▶ registered ──▶ accounts known
        └──────── any of it fails: log it once, wait (however long), begin again ◀────────┘

Every step can be repeated. Nothing is claimed before all of it is done: a task that a dead worker of this host held must not
begin again while its program still runs, or while its result lies in a spool.

A directory that cannot be taken over is passed by, and is a problem of this worker's. It is tried again for as long as there is one.

What another database's workers left is left alone: their own successors end their programs and send their results. What a
turbo from before identities left belongs to the database that knows its worker or one of its claims.
"""

import asyncio
import errno
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from turbo import db, migrate
from turbo.accounts.manager import AccountManager
from turbo.db.address import Address
from turbo.db.lane import Lane
from turbo.db.pair import check_pair
from turbo.db.worker_registry import WorkerRegistry
from turbo.domain.claim import ClaimRef
from turbo.domain.problem import ProblemKind
from turbo.domain.states import RescueReason
from turbo.host.regular_file import NotRegular
from turbo.host.spool import Spool, SpoolEntry
from turbo.host.state_dir import IDENTITY, OWNER, StateDir, WorkerHome, may_live, owner_of
from turbo.process.reaper import end_leftovers
from turbo.runtime.outage import Outage
from turbo.runtime.problems import Problems
from turbo.runtime.service import LoopService
from turbo.worker.completer import Completer
from turbo.worker.killed_runs import KilledRuns
from turbo.worker.presence import WorkerPresence
from turbo.worker.rescuer import Rescuer

log = logging.getLogger(__name__)

_ABOUT_THE_HOST = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Reasons of the disk or of this process: another directory would fail alike, so start-up waits."""

PORTION = 50
"""Directories of dead workers that are taken over together. The lock of each is an open file, and a process has a thousand."""


class SchemaMismatch(Exception):
    """This worker cannot work with the database's schema. The message names the remedy."""

    def __init__(self, fit: migrate.SchemaFit, text: str) -> None:
        super().__init__(text)
        self.fit = fit


class Startup(LoopService):
    """`started` is set once all of it is done. The service ends when no directory is left to be tried again."""

    name = "start-up"

    def __init__(
        self,
        lane: Lane,
        where: Address,
        registry: WorkerRegistry,
        state: StateDir,
        home: WorkerHome,
        spool: Spool,
        completer: Completer,
        rescuer: Rescuer,
        presence: WorkerPresence,
        accounts: AccountManager,
        problems: Problems,
        killed: KilledRuns,
        *,
        host: str,
        again_seconds: float,
    ) -> None:
        """`lane` leads to `where`, whose identity is settled here. `home` and `spool` are this worker's own. `again_seconds`: until a
        directory that could not be taken over is tried again."""
        super().__init__()
        self._lane = lane
        self._where = where
        self._identity = where.identity
        self._registry = registry
        self._state = state
        self._home = home
        self._spool = spool
        self._completer = completer
        self._rescuer = rescuer
        self._presence = presence
        self._accounts = accounts
        self._problems = problems
        self._killed = killed
        self._said: set[str] = set()
        self._left: set[str] = set()
        self._again_seconds = again_seconds
        self._host = host
        self._asked = where
        """The way to the database that is tried at present."""

    async def run(self) -> None:
        """Returns when nothing is left; waits for the database as long as it takes."""
        outage = Outage(
            log,
            "cannot start",
            "the database is there",
            lasting=_lasting,
            kind=_kind,
            reason=lambda error: _reason(error, self._asked.dsn),
        )
        while True:
            self._asked = self._where
            try:
                await self._check_schema()
                await self._settle()
                await self._recover_dead_workers()
                await self._presence.register()
                await self._accounts.learn()
                break
            except (*db.DATABASE_ERRORS, SchemaMismatch) as error:
                await outage.wait(error)
        outage.over()
        self.started.set()
        while self._left:
            await asyncio.sleep(self._again_seconds)
            await self._try_again()

    async def _try_again(self) -> None:
        """Take over what could not be taken over before: a person may have corrected it, or removed it."""
        before, self._left = self._left, set()
        try:
            there = (await asyncio.to_thread(self._state.workers)).keys() & before
            known = {entry.path for entry in await asyncio.to_thread(self._on_disk)}
            for first in range(0, len(there), PORTION):
                await self._recover(sorted(there)[first : first + PORTION], known)
        except db.DATABASE_ERRORS as error:
            log.debug("cannot take over what dead workers left: %s", db.reason(error))
            self._left = before
        for worker in before - self._left:
            self._problems.clear(ProblemKind.LEFT_BEHIND, worker)
            self._said.discard(worker)

    async def _check_schema(self) -> None:
        async with self._lane.use() as connection:
            fit, text = await migrate.worker_verdict(connection)
        if fit is not migrate.SchemaFit.OK:
            raise SchemaMismatch(fit, text)

    async def _settle(self) -> None:
        """Learn which database this is, and note on disk whose this worker's files are."""
        database = await self._registry.database_id()
        if database is None or not IDENTITY.fullmatch(database):
            raise SchemaMismatch(
                migrate.SchemaFit.BEHIND,
                "the database has lost its identity: INSERT INTO turbo_meta VALUES ('database_id', "
                "to_jsonb(gen_random_uuid()::text)), or put the old one back to keep what its workers have on their hosts",
            )
        self._identity.settle(database)
        await self._compare_dsns()
        claim = owner_of(self._state.root) is None
        if claim and (logged := await asyncio.to_thread(self._state.unowned_logs)):
            claim = bool(await self._registry.known({"": logged}))
        await asyncio.to_thread(self._state.use, database, claim=claim)
        await asyncio.to_thread(self._home.belongs_to, database)

    async def _compare_dsns(self) -> None:
        """Raises AnotherDatabase and AnotherServer: listen_dsn leads elsewhere."""
        if not self._where.apart:
            return
        self._asked = self._where.listen
        await check_pair(self._lane, self._where, f"turbo listener {self._home.worker_id}")
        self._asked = self._where

    async def _own_workers(self) -> set[str]:
        """The workers of this host, dead or alive, whose directories belong to this worker's database."""
        databases = await asyncio.to_thread(self._state.workers)
        own = {worker for worker, database in databases.items() if database in ("", self._identity.id)}
        unmarked = [worker for worker, database in databases.items() if database is None]
        claims = {worker: await asyncio.to_thread(_claims_in, self._state, worker) for worker in unmarked}
        own |= await self._registry.known(claims)
        for worker in sorted(databases.keys() - own):
            if waiting := await asyncio.to_thread(_results_of_the_dead, self._state, worker):
                whose = f"of database {databases[worker]}" if databases[worker] else "that this database does not know"
                log.warning(
                    "left alone: %d results of the dead worker %s, %s. A worker of its database with this state_dir records "
                    "them. To give them to this one, write %s into %s",
                    waiting,
                    worker,
                    whose,
                    self._identity.id,
                    self._state.root / "workers" / worker / OWNER,
                )
        return own

    async def _recover_dead_workers(self) -> None:
        """End what dead siblings of this host left running, send their results again, and give back the rest.

        A directory that cannot be taken over is left as it is: its worker's lease ends, and its tasks are rescued then."""
        own = sorted(await self._own_workers())
        for first in range(0, len(own), PORTION):
            await self._recover(own[first : first + PORTION])

    async def _recover(self, workers: Sequence[str], known: Collection[Path] = ()) -> None:
        """`known`: results that need not be sent again."""
        odd: list[tuple[Path, Exception]] = []
        dead = await asyncio.to_thread(self._state.dead_workers, workers, lambda path, why: odd.append((path, why)))
        try:
            for path, why in odd:
                self._left_alone(path, why)
            taken_over = [home for home in dead if await self._take_over(home)]
            if not taken_over:
                return
            await self._replay(known)
            for home in taken_over:
                await self._killed.count(home)
            if await self._rescuer.mark_dead([home.worker_id for home in taken_over], self._host):
                await self._rescuer.rescue(RescueReason.WORKER_RESTARTED)
            for home in taken_over:
                try:
                    await asyncio.to_thread(home.remove)
                except OSError as error:
                    self._left_alone(home.path, error)
        finally:
            for home in dead:
                home.close()  # else no other worker could adopt it as long as this process lives

    async def _take_over(self, home: WorkerHome) -> bool:
        """End the programs of a dead worker, and take its results. Raises OSError if this host's disk is the reason."""
        try:
            ended = await asyncio.to_thread(end_leftovers, home.journal)
            if ended:
                log.warning("ended %d processes that dead worker %s left behind", len(ended), home.worker_id)
            # Results that were not recorded, and recorded ones that a failover may have lost.
            await asyncio.to_thread(self._spool.adopt, Spool(home.spool))
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in _ABOUT_THE_HOST:
                raise
            self._left_alone(home.path, error)
            return False
        return True

    def _left_alone(self, home: Path, error: Exception) -> None:
        what = f"what the worker {home.name} left in {home} cannot be taken over: {error}"
        do = f"if that worker is dead, see what is there, and correct or remove it; tried again every {self._again_seconds:g} s"
        if home.name not in self._said:  # start-up may begin again
            self._said.add(home.name)
            log.warning("%s; %s", what, do)
        self._left.add(home.name)
        self._problems.report(ProblemKind.LEFT_BEHIND, home.name, what, do)

    def _on_disk(self) -> list[SpoolEntry]:
        return [*self._spool.pending(), *self._spool.recently_done()]

    async def _replay(self, known: Collection[Path]) -> None:
        entries = [entry for entry in await asyncio.to_thread(self._on_disk) if entry.path not in known]
        replayed: Counter[str] = await self._completer.replay(entries, None)
        if replayed:
            answers = ", ".join(f"{count} {verdict}" for verdict, count in sorted(replayed.items()))
            log.info("results of earlier workers sent again: %s", answers)


def _claims_in(state: StateDir, worker: str) -> list[ClaimRef]:
    """The claims whose results a worker has on disk."""
    spool = Spool(state.root / "workers" / worker / "spool")
    try:
        results = [entry.result for entry in [*spool.pending(), *spool.recently_done()]]
    except OSError as error:
        log.warning("cannot read what the worker %s left: %s", worker, error)
        return []
    return [ClaimRef(result.task_id, result.fencing_token) for result in results]


def _results_of_the_dead(state: StateDir, worker: str) -> int:
    """How many results wait in the spool of a worker whose process is gone."""
    waiting = len(list((state.root / "workers" / worker / "spool").glob("*.json")))
    return 0 if waiting and may_live(worker) else waiting


def _is_of_the_disk(error: BaseException) -> bool:
    return isinstance(error, NotRegular) or (isinstance(error, OSError) and error.filename is not None)


def _lasting(error: BaseException) -> bool:
    """A migration under way changes the schema within seconds; a revoked privilege stays revoked."""
    return isinstance(error, db.AnotherServer) or (not isinstance(error, SchemaMismatch) and db.is_lasting(error))


def _kind(error: BaseException) -> str:
    """A migration under way shows several versions: one line for each verdict."""
    if isinstance(error, SchemaMismatch):
        return str(error.fit)
    return "disk" if _is_of_the_disk(error) else db.kind(error)


def _reason(error: BaseException, dsn: str) -> str:
    if isinstance(error, SchemaMismatch):
        return str(error)
    if db.is_lasting(error) or isinstance(error, db.AnotherServer):
        return db.reason(error)
    if _is_of_the_disk(error):
        return f"waiting for the state directory: {error}"
    return f"waiting for the database at {db.describe(dsn)}: {db.reason(error)}"
