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


async def waits(gate: RecoveryGate) -> bool:
    try:
        await asyncio.wait_for(gate.wait_open(), 0.05)
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
    gate = one(seconds=LONG)
    gate.failed(error, connecting=connecting)
    gate.opened("server 1")
    assert await waits(gate) is wait


async def test_new_server_is_waited_for_until_claims_are_restored():
    gate = one()
    gate.opened("server 2")
    gate.disconnected()
    asked = asyncio.create_task(gate.wait_open())
    await asyncio.sleep(0.05)
    assert not asked.done()
    gate.restored()
    await asyncio.wait_for(asked, 5)
    assert not await waits(gate)


async def test_missing_listener_is_waited_for_only_a_while():
    gate = RecoveryGate(0.0, 0.02)
    gate.opened("server 1")
    gate.disconnected()
    gate.opened("server 2")
    await asyncio.wait_for(gate.wait_open(), 5)


async def test_second_failover_restarts_the_wait():
    gate = one(seconds=0.05)
    gate.opened("server 2")
    asked = asyncio.create_task(gate.wait_open())
    await asyncio.sleep(0.02)
    gate.disconnected()
    gate.opened("server 3")
    await asyncio.sleep(0.1)
    assert not asked.done()
    gate.restored()
    await asyncio.wait_for(asked, 5)


@pytest.mark.parametrize("pooled", [True, False])
async def test_pooled_claims_wait_from_the_first_sign_of_a_crash(pooled):
    """Their session may outlive the server behind the pooler, so no new one shuts the gate. Control: claims of another worker go on."""
    gate = RecoveryGate(LONG, LONG, pooled=pooled)
    gate.opened("server 1")
    gate.restored()
    gate.failed(errors.CrashShutdown(), connecting=False)
    assert await waits(gate) is pooled


async def test_listener_that_stays_away_holds_pooled_claims_once():
    """Each attempt to connect fails: only the first one shuts the gate, for as long as claims wait for a listener."""
    gate = RecoveryGate(0.0, 0.05, pooled=True)
    gate.opened("server 1")
    for _ in range(3):
        gate.disconnected()
        gate.failed(psycopg.OperationalError("refused"), connecting=True)
        await asyncio.sleep(0.03)
    await asyncio.wait_for(gate.wait_open(), 5)
    gate.failed(psycopg.OperationalError("refused"), connecting=True)
    assert not await waits(gate)
