"""A host that does not answer holds up nobody who names another one beside it."""

import asyncio
import socket
import time

import psycopg
import pytest
from psycopg import conninfo

from tests.support.waiting import until
from turbo import db
from turbo.embedded import free_port


@pytest.fixture
def silent():
    """A port that takes connections and never says a word, as a frozen host's does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def with_ports(dsn: str, *ports: int) -> str:
    return conninfo.make_conninfo(dsn, host=",".join(["127.0.0.1"] * len(ports)), port=",".join(map(str, ports)))


def port_of(dsn: str) -> int:
    return int(str(conninfo.conninfo_to_dict(dsn)["port"]))


@pytest.mark.parametrize("first", [True, False])
async def test_silent_host_delays_a_connect_by_a_tenth_of_a_second(dsn, silent, first):
    ports = (silent, port_of(dsn)) if first else (port_of(dsn), silent)
    begun = time.monotonic()
    connection = await db.connect(with_ports(dsn, *ports), "side by side")
    took = time.monotonic() - begun
    await connection.close()
    assert took < db.CONNECT_TIMEOUT / 2
    if first:  # the control
        begun = time.monotonic()
        psycopg.connect(with_ports(dsn, *ports), connect_timeout=2).close()
        assert time.monotonic() - begun >= 2


async def test_connections_that_lose_the_race_leave_no_session(dsn, silent):
    port = port_of(dsn)
    connection = await db.connect(with_ports(dsn, silent, port, port), "side by side")
    count = "select count(*) from pg_stat_activity where application_name = 'side by side'"
    with psycopg.connect(dsn, autocommit=True) as other:
        until(lambda: other.execute(count).fetchone() == (1,))
    await connection.close()


async def test_error_names_every_host_that_refused(dsn):
    ports = free_port(), free_port()
    begun = time.monotonic()
    with pytest.raises(psycopg.OperationalError) as caught:
        await db.connect(with_ports(dsn, *ports), "nobody")
    assert time.monotonic() - begun < db.CONNECT_TIMEOUT / 2
    assert all(f"127.0.0.1:{port}: " in str(caught.value) for port in ports)
    assert db.is_transient(caught.value)


async def test_defect_in_one_connect_leaves_no_session(dsn, monkeypatch):
    """An error that is not psycopg's, in the connect that loses the race, while the other one has won it."""
    connect, defective = psycopg.AsyncConnection.connect, free_port()

    async def defect_when_cancelled(*arguments, **keywords):
        if int(keywords["port"]) != defective:
            return await connect(*arguments, **keywords)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError("a defect") from None

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", defect_when_cancelled)
    with pytest.raises(RuntimeError, match="a defect"):
        await db.connect(with_ports(dsn, defective, port_of(dsn)), "a defect")
    count = "select count(*) from pg_stat_activity where application_name = 'a defect'"
    with psycopg.connect(dsn, autocommit=True) as other:
        until(lambda: other.execute(count).fetchone() == (0,), seconds=5)
