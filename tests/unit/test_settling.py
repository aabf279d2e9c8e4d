"""When claims wait, and for what: asked as the claimer asks, told as lane and listener tell."""

import asyncio

import psycopg
import pytest
from psycopg import errors

from turbo.worker.recovery_gate import RecoveryGate

LONG = 60.0


def one(*, seconds: float = 0.0) -> RecoveryGate:
    made = RecoveryGate(seconds, LONG)
    made.opened("server 1")
    made.restored()
    return made


async def waits(settling: RecoveryGate) -> bool:
    try:
        await asyncio.wait_for(settling.settled(), 0.05)
    except TimeoutError:
        return True
    return False


async def test_the_first_server_is_waited_for_by_nobody():
    assert not await waits(one(seconds=LONG))


@pytest.mark.parametrize(
    ("error", "connecting", "wait"),
    [
        (errors.AdminShutdown(), False, False),
        (psycopg.OperationalError("lost"), False, False),
        (errors.CrashShutdown(), False, True),
        (psycopg.OperationalError("refused"), True, True),
    ],
)
async def test_the_same_server_is_waited_for_after_a_crash_only(error, connecting, wait):
    settling = one(seconds=LONG)
    settling.failed(error, connecting=connecting)
    settling.opened("server 1")
    assert await waits(settling) is wait


async def test_another_server_is_waited_for_until_the_listener_has_put_back_what_it_forgot():
    settling = one()
    settling.opened("server 2")
    settling.disconnected()
    asked = asyncio.create_task(settling.settled())
    await asyncio.sleep(0.05)
    assert not asked.done()
    settling.restored()
    await asyncio.wait_for(asked, 5)
    assert not await waits(settling)


async def test_a_listener_that_does_not_come_back_is_waited_for_a_while_only():
    settling = RecoveryGate(0.0, 0.02)
    settling.opened("server 1")
    settling.disconnected()
    settling.opened("server 2")
    await asyncio.wait_for(settling.settled(), 5)


async def test_another_failover_meanwhile_begins_the_wait_anew():
    settling = one(seconds=0.05)
    settling.opened("server 2")
    asked = asyncio.create_task(settling.settled())
    await asyncio.sleep(0.02)
    settling.disconnected()
    settling.opened("server 3")
    await asyncio.sleep(0.1)
    assert not asked.done()
    settling.restored()
    await asyncio.wait_for(asked, 5)
