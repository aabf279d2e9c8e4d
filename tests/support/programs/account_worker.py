"""A worker as `turbo worker` runs it, with what a test of accounts must be able to shorten or to leave out.

python tests/support/programs/account_worker.py CONFIG '{"timings": {"backoff_first": 1}, "breaker": false, "rechecks": false}'
"""

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from turbo.accounts.breaker import AccountTimings
from turbo.accounts.manager import AccountManager
from turbo.config.worker import load_worker_config
from turbo.db.polls import PollResult
from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.domain.run import Running
from turbo.observability import log
from turbo.worker.signals import WorkerSignals
from turbo.worker.wakeups import WakeUps
from turbo.worker.worker import Worker


async def _as_it_is(_self: AccountManager, _run: Running, outcome: Outcome) -> Outcome:
    return outcome


async def _fails(_self: AccountManager, _run: Running, outcome: Outcome) -> Outcome:
    return replace(outcome, kind=OutcomeKind.FAILED)


def _no_recheck(_self: WakeUps, _result: PollResult) -> None:
    return None


async def main(file: str, settings: str = "{}") -> int:
    wanted = json.loads(settings)
    if not wanted.get("breaker", True):
        AccountManager.review = _as_it_is  # type: ignore[method-assign]
    if not wanted.get("outages", True):
        AccountManager._away = _fails  # type: ignore[method-assign]
    if not wanted.get("rechecks", True):
        WakeUps.went_idle = _no_recheck  # type: ignore[method-assign]
    worker = Worker(
        load_worker_config(Path(file)),
        dsn=os.environ["TURBO_DSN"],
        account_timings=AccountTimings(**wanted.get("timings", {})),
    )
    log.configure(worker.id)
    WorkerSignals().handle(asyncio.get_running_loop(), worker.stop, worker.reload)
    return await worker.run()


if __name__ == "__main__":
    log.configure()
    sys.exit(asyncio.run(main(*sys.argv[1:])))
