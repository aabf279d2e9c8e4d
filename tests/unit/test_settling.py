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


async def test_first_server_delays_no_claim():
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
async def test_same_server_is_waited_for_only_after_a_crash(error, connecting, wait):
    settling = one(seconds=LONG)
    settling.failed(error, connecting=connecting)
    settling.opened("server 1")
    assert await waits(settling) is wait


async def test_new_server_is_waited_for_until_claims_are_restored():
    settling = one()
    settling.opened("server 2")
    settling.disconnected()
    asked = asyncio.create_task(settling.settled())
    await asyncio.sleep(0.05)
    assert not asked.done()
    settling.restored()
    await asyncio.wait_for(asked, 5)
    assert not await waits(settling)


async def test_missing_listener_is_waited_for_only_a_while():
    settling = RecoveryGate(0.0, 0.02)
    settling.opened("server 1")
    settling.disconnected()
    settling.opened("server 2")
    await asyncio.wait_for(settling.settled(), 5)


async def test_second_failover_restarts_the_wait():
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
