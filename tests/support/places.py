"""Workers with labels, each on a host of its own, as far as the database knows."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import psycopg

from tests.support.stores import Stores
from turbo.db.lane import Lane
from turbo.db.worker_registry import WorkerRow
from turbo.domain.placement import STAY_SECONDS
from turbo.domain.states import WorkerState
from turbo.migrate import SCHEMA_VERSION


def worker_row(
    host: str, labels: Mapping[str, str], queues: Sequence[str] = ("default",), schema: int | None = SCHEMA_VERSION
) -> WorkerRow:
    return WorkerRow(host, host, 1, "0", 10, tuple(queues), {**labels, "host": host}, (), None, 10, 60, 30, schema)


@contextlib.asynccontextmanager
async def at(
    dsn: str, host: str, *, stay: float = STAY_SECONDS, queues: Sequence[str] = ("default",), **labels: str
) -> AsyncIterator[Stores]:
    """The statements of a worker on `host` that is up. Its id is the host's name and a number."""
    lanes = Lane(dsn, "claims"), Lane(dsn, "results")
    has = {**labels, "host": host}
    stores = Stores(f"{host}-1-abc", *lanes, host=host, labels=has, stay_seconds=stay)
    await stores.registry.register(worker_row(host, labels, queues), WorkerState.UP)
    yield stores
    for lane in lanes:
        await lane.close()


def older(db: psycopg.Connection[Any], host: str = "old", queue: str = "default", schema: int = 21) -> None:
    """A live worker that knows no requirements."""
    db.execute(
        "insert into agent_workers (worker_id, name, host, pid, version, slots, queues, schema)"
        " values (%s, %s, %s, 2, '0', 1, array[%s], %s)",
        [f"{host}-2-abc", host, host, queue, schema],
    )


async def claims(stores: Stores, limit: int = 9, queue: str = "default") -> list[str]:
    """The ids of the tasks that it claims."""
    claimed = await stores.claims.claim(queue, limit, may_idle=False)
    return sorted(task.task_id for task in claimed.tasks)


def pinned(db: psycopg.Connection[Any], task_id: str, host: str, ago: float = 0.0, session: str | None = "s") -> None:
    """A pending task that has asked on `host`, and was answered `ago` seconds before."""
    db.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [task_id])
    db.execute(
        "update agent_tasks set prefer_host = %s, agent_session_id = %s, fencing_token = -5,"
        " run_after = clock_timestamp() - make_interval(secs => %s), turbo_rev = turbo_rev + 1 where task_id = %s",
        [host, session, ago, task_id],
    )


def portable(db: psycopg.Connection[Any], task_id: str, session: str | None = "s") -> None:
    """The conversation and the directory of the task can be had on any host."""
    db.execute("insert into agent_portable (task_id, session) values (%s, %s)", [task_id, session])
