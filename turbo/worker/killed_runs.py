"""What runs used whose worker was killed, for the ledger.

    program runs, its journal entry says whose it is ──worker killed──▶ ended, entry kept ──the host's next worker──▶ log read, counted

The results of the dead worker are recorded first: where it still told what a run used, that counts, and not its log.
"""

import asyncio
import logging

from turbo import db
from turbo.db.result_store import ResultStore
from turbo.domain.outcome import ModelUsage
from turbo.domain.usage import MeteredRun, Prices, usage_rows
from turbo.executors.claude.log_usage import used_in
from turbo.host.sanitize import sanitize_usage
from turbo.host.state_dir import WorkerHome
from turbo.process.journal import Journal

log = logging.getLogger(__name__)


class KilledRuns:
    """Counting one twice adds nothing: a row of the ledger is a run, executor, account and model."""

    def __init__(self, store: ResultStore, prices: Prices) -> None:
        self._store = store
        self._prices = prices

    async def count(self, home: WorkerHome) -> None:
        """Record what the runs of a dead worker used. Raises `db.DATABASE_ERRORS` if the database is away; what it refuses is
        logged, and missing."""
        for run, used in await asyncio.to_thread(_used, home):
            rows = usage_rows(run, run.executor, run.account, self._prices.fill(used))
            try:
                await self._store.record_usage(sanitize_usage(rows))
            except db.DATABASE_ERRORS as error:
                if db.is_transient(error):
                    raise
                why = db.reason(error)
                log.warning("what a killed run used is missing in agent_usage: %s", why, extra={"task": run.task_id})


def _used(home: WorkerHome) -> list[tuple[MeteredRun, tuple[ModelUsage, ...]]]:
    found = []
    for run in Journal(home.journal).uncounted():
        path = home.log_path(run.task_id, run.attempt, run.fencing_token)
        if "/" in run.log or not run.log.startswith((path.name, f"{path.stem}.check")):
            continue  # a program may have written the entry: only logs of this run are read
        try:
            used = used_in(path.with_name(run.log), run.begin)
        except OSError as error:
            log.warning("what a killed run used is not known: %s", error, extra={"task": run.task_id})
            continue
        if used:
            found.append((run, used))
    return found
