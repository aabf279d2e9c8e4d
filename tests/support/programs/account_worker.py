"""A worker as `turbo worker` runs it, with what a test of accounts must be able to shorten or to leave out.

python tests/support/programs/account_worker.py CONFIG '{"timings": {"backoff_first": 1}, "breaker": false, "ladder": false}'
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from turbo.accounts.breaker import AccountTimings
from turbo.config.worker import load_worker_config
from turbo.domain.outcome import Outcome
from turbo.domain.run import Running
from turbo.observability import log
from turbo.worker.worker import Worker


async def _as_it_is(_run: Running, outcome: Outcome) -> Outcome:
    return outcome


async def main(file: str, settings: str = "{}") -> int:
    wanted = json.loads(settings)
    worker = Worker(
        load_worker_config(Path(file)),
        dsn=os.environ["TURBO_DSN"],
        account_timings=AccountTimings(**wanted.get("timings", {})),
    )
    log.configure(worker.id)
    if not wanted.get("breaker", True):
        worker.runner.after_run = _as_it_is
    worker.claimer._ladder = wanted.get("ladder", True)
    return await worker.run()


if __name__ == "__main__":
    log.configure()
    sys.exit(asyncio.run(main(*sys.argv[1:])))
