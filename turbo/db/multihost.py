"""Several hosts in one DSN, tried side by side.

    first host ──0.1 s, or its failure──▶ second host ──…──▶ the first session that opens wins, the others are closed
         ▲            │
         └── 0.1–0.4 s ── while another is still pending

libpq and psycopg try one host after the other, each for `connect_timeout`. That is right for a host that refuses. It is
wrong for one that has lost its power or is frozen: every reconnect would wait 5 s for it while the new primary takes
writes. A standby refuses at once (target_session_attrs=read-write). It is tried again, because it may be promoted while
the dead host still does not answer.
"""

import asyncio
import os
import random
from collections.abc import Mapping, Sequence

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

STAGGER_SECONDS = 0.1
"""Head start of a host before the next: while the first one answers, the others are not asked."""

AGAIN_SECONDS = (0.1, 0.4)

Arguments = Mapping[str, str | int]


def each_host(arguments: Arguments) -> list[dict[str, str | int]]:
    """The arguments of a connection, once for each host they name (host, hostaddr and port, or PGHOST and so on).

    Lists that libpq would refuse are left as they are, for libpq to report; so is a DSN that names a service.
    """
    lists = {key: _list(arguments, key) for key in ("host", "hostaddr", "port")}
    count = max(len(lists["host"]), len(lists["hostaddr"]))
    if count < 2 or any(
        len(values) not in (count, *((0, 1) if key == "port" else (0,))) for key, values in lists.items()
    ):
        return [dict(arguments)]
    hosts = []
    for n in range(count):
        own = {key: values[n if len(values) > 1 else 0] for key, values in lists.items() if values}
        hosts.append({**arguments, **{key: value for key, value in own.items() if value}})
        for key in own.keys() - {key for key, value in own.items() if value}:
            hosts[-1].pop(key, None)
    return hosts


def _list(arguments: Arguments, key: str) -> list[str]:
    text = str(arguments.get(key) or os.environ.get(f"PG{key.upper()}") or "")
    return text.split(",") if text else []


async def open_any(hosts: Sequence[Arguments]) -> AsyncConnection[TupleRow]:
    """A session with the first host that gives one. Raises psycopg.OperationalError once every host has failed."""
    if len(hosts) == 1:
        return await _open(hosts[0])
    failed: dict[int, psycopg.Error] = {}
    gave_up = [asyncio.Event() for _ in hosts]

    async def persist(n: int) -> AsyncConnection[TupleRow]:
        while True:
            try:
                return await _open(hosts[n])
            except psycopg.Error as error:
                failed[n] = error
                gave_up[n].set()
                if len(failed) == len(hosts):
                    raise
            await asyncio.sleep(random.uniform(*AGAIN_SECONDS))

    racing: list[asyncio.Task[AsyncConnection[TupleRow]]] = []
    try:
        for n in range(len(hosts)):
            racing.append(asyncio.create_task(persist(n)))
            head_start = asyncio.create_task(gave_up[n].wait())
            await asyncio.wait({head_start, *racing}, timeout=STAGGER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            head_start.cancel()
            if any(task.done() for task in racing):
                break
        await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        for late in await _ended(racing):
            await late.close()
        raise
    opened = await _ended(racing)
    for late in opened[1:]:
        await late.close()
    if not opened:
        raise psycopg.OperationalError("; ".join(f"{_name(hosts[n])}: {error}" for n, error in sorted(failed.items())))
    return opened[0]


async def _ended(racing: Sequence[asyncio.Task[AsyncConnection[TupleRow]]]) -> list[AsyncConnection[TupleRow]]:
    """End the race. Returns the sessions that were opened, the winner first.

    Raises any other exception than psycopg.Error, a defect; then no session stays open."""
    for task in racing:
        task.cancel()
    results = await asyncio.gather(*racing, return_exceptions=True)
    opened = [result for result in results if isinstance(result, AsyncConnection)]
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, psycopg.Error):
            for connection in opened:
                await connection.close()
            raise result
    return opened


async def _open(arguments: Arguments) -> AsyncConnection[TupleRow]:
    return await AsyncConnection.connect(**arguments, autocommit=True)  # type: ignore[arg-type]


def _name(host: Arguments) -> str:
    return f"{host.get('host') or host.get('hostaddr')}:{host.get('port') or 5432}"
