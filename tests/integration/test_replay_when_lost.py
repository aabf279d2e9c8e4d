"""Results are sent again after a session was lost, and not when a deaf listener lets its own go to try anew."""

import asyncio
from pathlib import Path
from typing import cast

import psycopg
import pytest

from tests.support.configs import config_of
from tests.support.rig import finished
from turbo.domain.claim import ClaimRef
from turbo.host.spool import Spool
from turbo.worker.recovery import Recovery
from turbo.worker.wiring import wire


async def test_deaf_worker_sends_no_result_again(dsn: str, tmp_path: Path) -> None:
    parts = wire(config_of(tmp_path), dsn)
    recovery = cast(Recovery, next(service for service in parts.services if service.name == "recovery"))
    spool = Spool(parts.home.spool)
    spool.done(spool.put(finished(ClaimRef("gone", 7), parts.worker_id)))
    await parts.presence.register()

    async def restored(*, hears: bool) -> None:
        """A new session of the listener, and all that follows it."""
        with recovery.restored.watch() as done:
            recovery.connected(hears=hears)
            async with asyncio.timeout(30):
                await done.get()

    def crashed(name: str, error: BaseException) -> None:
        pytest.fail(f"{name}: {error}")

    parts.completer.start(crashed)
    recovery.start(crashed)
    try:
        with parts.completer.recorded.watch() as recorded:
            for _ in range(3):
                await restored(hears=False)
                recovery.disconnected()
            assert recorded.empty()
            recovery.failed(psycopg.OperationalError("lost"), connecting=False)
            recovery.disconnected()
            await restored(hears=True)
            assert recorded.qsize() == 1
            recovery.disconnected()
            await restored(hears=True)
            assert recorded.qsize() == 1, "once for each loss"
    finally:
        await recovery.stop()
        await parts.completer.stop()
        await parts.claims.close()
        await parts.results.close()
        parts.home.close()
