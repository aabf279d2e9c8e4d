"""A worker as `turbo worker` runs it, with a defect put in: some part of it raises what nobody foresaw.

python tests/support/programs/defective.py CONFIG DEFECT
"""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

from turbo.config.worker import load_worker_config
from turbo.observability import log
from turbo.worker.worker import Worker


async def _raises(*_: object) -> None:
    raise RuntimeError("nobody foresaw this")


def run(worker: Worker) -> None:
    """What looks at a run's outcome before it is written."""
    worker.runner.after_run = _raises  # type: ignore[assignment]


def job(worker: Worker) -> None:
    """What a beat starts when this worker's row is gone."""
    worker._come_back = _raises  # type: ignore[method-assign]


def loop(worker: Worker) -> None:
    worker.housekeeping.once = _raises  # type: ignore[method-assign]


def beat(worker: Worker) -> None:
    worker._heartbeat._beat = _raises  # type: ignore[assignment, method-assign]


DEFECTS: dict[str, Callable[[Worker], None]] = {"run": run, "job": job, "loop": loop, "beat": beat}


async def main(file: str, defect: str) -> int:
    worker = Worker(load_worker_config(Path(file)), dsn=os.environ["TURBO_DSN"])
    log.configure(worker.id)
    DEFECTS[defect](worker)
    return await worker.run()


if __name__ == "__main__":
    log.configure()
    sys.exit(asyncio.run(main(*sys.argv[1:])))
