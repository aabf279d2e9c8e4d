"""A worker as `turbo worker` runs it, with a defect put in: some part of it raises what nobody foresaw.

python tests/support/programs/defective.py CONFIG DEFECT
"""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

from turbo.accounts.manager import AccountManager
from turbo.config.worker import load_worker_config
from turbo.maintenance.spool_maintenance import SpoolMaintenance
from turbo.observability import log
from turbo.worker import heartbeat
from turbo.worker.presence import WorkerPresence
from turbo.worker.signals import WorkerSignals
from turbo.worker.worker import Worker


async def _raises(*_: object, **__: object) -> None:
    raise RuntimeError("an unforeseen defect")


def startup() -> None:
    """What start-up does last."""
    AccountManager.learn = _raises  # type: ignore[method-assign]


def run() -> None:
    """What reviews a run's outcome before it is written."""
    AccountManager.review = _raises  # type: ignore[method-assign, assignment]


def job() -> None:
    """What a beat starts when this worker's row is gone."""
    register, calls = WorkerPresence.register, list[WorkerPresence]()

    async def once(self: WorkerPresence) -> None:
        calls.append(self)
        await (register(self) if len(calls) == 1 else _raises())

    WorkerPresence.register = once  # type: ignore[method-assign]


def loop() -> None:
    """What a service does again and again."""
    SpoolMaintenance.once = _raises  # type: ignore[method-assign]


def beat() -> None:
    """What runs in the heartbeat's thread."""
    heartbeat.beat = _raises  # type: ignore[attr-defined]


DEFECTS: dict[str, Callable[[], None]] = {"startup": startup, "run": run, "job": job, "loop": loop, "beat": beat}


async def main(file: str, defect: str) -> int:
    DEFECTS[defect]()
    worker = Worker(load_worker_config(Path(file)), dsn=os.environ["TURBO_DSN"])
    log.configure(worker.id)
    WorkerSignals().handle(asyncio.get_running_loop(), worker.stop, worker.reload)
    return await worker.run()


if __name__ == "__main__":
    log.configure()
    sys.exit(asyncio.run(main(*sys.argv[1:])))
