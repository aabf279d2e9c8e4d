"""The worker: one process, from start to exit.

    starting (turbo.worker.startup) ──▶ up ──TERM──▶ draining (turbo.worker.shutdown) ──▶ gone

Its parts are built by turbo.worker.wiring; a task's path does not come through here. Promises: the metrics endpoint is up
before the database answers; nothing is claimed before what a dead predecessor left is ended, recorded and released; the
heartbeat goes on to the end of a drain, so that no other worker rescues what still runs.
"""

import asyncio
import logging
from collections.abc import Mapping

from turbo import __version__
from turbo.accounts.breaker import AccountTimings
from turbo.config.worker import WorkerConfig
from turbo.db.address import Address
from turbo.executors.protocol import Executor
from turbo.runtime.service import Service
from turbo.worker.wiring import wire

log = logging.getLogger(__name__)


class Worker:
    """One worker process. `await Worker(config, dsn=...).run()` returns when it has drained, after `stop`: whoever owns the
    process handles its signals (turbo.worker.signals). `parts` is for tests."""

    def __init__(
        self,
        config: WorkerConfig,
        *,
        dsn: str | Address,
        executors: Mapping[str, Executor] | None = None,
        account_timings: AccountTimings | None = None,
    ) -> None:
        """Raises ConfigError, StateDirUnusable and OSError: what cannot be used on this host. Needs a running loop."""
        self.parts = wire(config, dsn, executors=executors, account_timings=account_timings)
        self.id = self.parts.worker_id
        self._queues = config.worker.queues

    async def run(self) -> int:
        """From start to drained. Returns the exit code: 0, or 1 after a defect, at start-up too.

        Raises OSError when the metrics endpoint cannot listen."""
        parts = self.parts
        running: list[Service] = []
        parts.loop_watch.start(parts.lifecycle.crashed)
        try:
            self._start(parts.endpoint, running)
            parts.watcher.start(parts.home.journal)
            log.info(
                "worker %s %s starting: %d slots, queues %s",
                self.id,
                __version__,
                parts.slots.size,
                ", ".join(self._queues),
            )
            self._start(parts.completer, running)  # the results that dead workers left go through it, too
            self._start(parts.startup, running)
            if await self._started():
                parts.availability.check()
                for service in parts.services:
                    self._start(service, running)
                await parts.lifecycle.stopping.wait()
                await parts.shutdown.drain()
        finally:
            parts.deadline.begin()
            await self._stop(running)
        return parts.lifecycle.exit_code

    def reload(self) -> str:
        """Read the endpoint's TLS files again. Returns what came of it, for a log; empty if there are none."""
        return self.parts.endpoint.reload()

    def stop(self) -> None:
        """Drain; a second call ends the runs now."""
        self.parts.lifecycle.stop()

    def _start(self, service: Service, running: list[Service]) -> None:
        service.start(self.parts.lifecycle.crashed)
        running.append(service)

    async def _started(self) -> bool:
        """Wait for start-up, unless a stop comes first. True when start-up is done."""
        started = asyncio.create_task(self.parts.startup.started.wait())
        stopping = asyncio.create_task(self.parts.lifecycle.stopping.wait())
        await asyncio.wait({started, stopping}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        stopping.cancel()
        return self.parts.startup.started.is_set() and not self.parts.lifecycle.stopping.is_set()

    async def _stop(self, running: list[Service]) -> None:
        """Stop everything, in time: a service that is not gone by the deadline is not waited for."""
        parts = self.parts
        last = (parts.heartbeat, parts.endpoint)
        stopping = asyncio.create_task(_stop_all([service for service in running if service not in last]))
        await asyncio.wait({stopping}, timeout=parts.deadline.left)
        await parts.heartbeat.stop()
        await parts.presence.say_goodbye()
        await parts.claims.close()
        await parts.results.close()
        parts.watcher.close()
        await parts.endpoint.stop()
        parts.home.close()
        await parts.loop_watch.stop()
        log.info("worker %s stopped", self.id)


async def _stop_all(services: list[Service]) -> None:
    for service in reversed(services):
        await service.stop()
