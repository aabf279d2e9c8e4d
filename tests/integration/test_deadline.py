"""A deadline on a statement holds, and leaves nothing behind: no error that nobody fetched, no traceback in the log."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any

import pytest

from turbo import db


@pytest.fixture
async def connection(dsn: str):
    one = await db.connect(dsn, "deadline")
    yield one
    await one.close()


async def test_stop_during_a_statement_logs_nothing(connection: db.Connection) -> None:
    heard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: heard.append(context))
    await cancelled(db.within(60, connection, connection.execute("select pg_sleep(60)")))
    assert connection.broken, "the statement did not go on"
    gc.collect()
    assert heard == []


async def cancelled(work: Coroutine[Any, Any, object]) -> None:
    """Begin it, cancel it, wait for its end; nothing keeps a hold on it."""
    job = asyncio.create_task(work)
    await asyncio.sleep(0.1)
    job.cancel()
    await asyncio.wait({job})
    assert job.cancelled()


async def test_statement_past_its_deadline_times_out(connection: db.Connection) -> None:
    with pytest.raises(TimeoutError, match=r"no answer from the database within 0\.1 s"):
        await db.within(0.1, connection, connection.execute("select pg_sleep(60)"))
    assert connection.broken
