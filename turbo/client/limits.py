"""`Client.limits` and `AsyncClient.limits`: how many tasks of a concurrency_key run at a time. Both drive the same operations."""

from functools import partial

import psycopg

from turbo.client.limit import (
    COUNTED_WAITERS,
    KeyLimit,
    LimitRefused,
    MayNotLimit,
    UnknownLimit,
    check_limit,
    read_limit,
)
from turbo.client.named_tables import AsyncDoes, Does, read, written
from turbo.client.new_task import BadField, check_text
from turbo.client.operations import Query, Steps, like

FULL_LISTED = 10

_MAY_NOT_SEE = partial(MayNotLimit, reading=True)
_MAY_NOT_CHANGE = partial(MayNotLimit, reading=False)


def _set(key: str, running: int) -> Steps[KeyLimit]:
    check_limit(key, running)
    query = Query("client/set_limit", {"concurrency_key": key, "running": running})
    yield from written(query, _MAY_NOT_CHANGE, LimitRefused)
    return (yield from _get(key))


def _get(key: str) -> Steps[KeyLimit]:
    found = yield from _listed([_known(key)], 1)
    if not found:
        raise UnknownLimit(key)
    return found[0]


def _listed(keys: list[str] | None, limit: int | None) -> Steps[list[KeyLimit]]:
    query = Query("client/limits", {"keys": keys, "limit": limit, "most_waiting": COUNTED_WAITERS})
    return [read_limit(row) for row in (yield from read(query, _MAY_NOT_SEE)).rows]


def _of(key: str) -> Steps[KeyLimit]:
    query = Query("client/key", {"key": _known(key), "most_waiting": COUNTED_WAITERS})
    return read_limit((yield from read(query, _MAY_NOT_SEE)).rows[0])


def full() -> Steps[list[KeyLimit]]:
    """Keys of which as many tasks run as may, while others wait, those with the most waiters first. None for a role that may not see
    limits, and before schema 23."""
    try:
        rows = (yield Query("status/full_keys", {"limit": FULL_LISTED, "most_waiting": COUNTED_WAITERS})).rows
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
        return []
    return [read_limit(row) for row in rows]


def _keys(prefix: str, limit: int) -> Steps[list[str]]:
    query = Query("client/limit_keys", {"pattern": like(prefix), "limit": limit})
    return [row["concurrency_key"] for row in (yield from read(query, _MAY_NOT_SEE)).rows]


def _remove(key: str) -> Steps[None]:
    query = Query("client/remove_limit", {"concurrency_key": _known(key)})
    if not (yield from written(query, _MAY_NOT_CHANGE, LimitRefused)).count:
        raise UnknownLimit(key)


def _known(key: str) -> str:
    try:
        check_text("concurrency_key", key)
    except BadField:
        raise UnknownLimit(repr(key)) from None
    return key


class KeyLimits:
    """The limits of a database. Raises UnknownLimit for a key that has none, MayNotLimit for a role that may not."""

    def __init__(self, run: Does) -> None:
        self._run = run

    def set(self, key: str, running: int) -> KeyLimit:
        """Let `running` tasks (1 to 1,000) of this concurrency_key run at a time, instead of one.

        A lower limit stops nothing: no further task of the key starts until fewer run. Raises BadField, LimitRefused (the text
        says why)."""
        return self._run(_set(key, running))

    def get(self, key: str) -> KeyLimit:
        """The limit of one key, and its tasks."""
        return self._run(_get(key))

    def of(self, key: str) -> KeyLimit:
        """How many tasks of any key may run, run and wait: one may, without a limit."""
        return self._run(_of(key))

    def keys(self, prefix: str = "", limit: int = 50) -> list[str]:
        """Keys with this prefix, for shell completion: only those that mean nothing to a shell."""
        return self._run(_keys(prefix, limit))

    def remove(self, key: str) -> None:
        """Delete it: one task of the key runs at a time again. What runs goes on."""
        self._run(_remove(key))

    def list(self, limit: int | None = None) -> list[KeyLimit]:
        """The limits by key, each with its tasks."""
        return self._run(_listed(None, limit))


class AsyncKeyLimits:
    """`KeyLimits` with `await`: the same methods, arguments and exceptions (a test compares them)."""

    def __init__(self, run: AsyncDoes) -> None:
        self._run = run

    async def set(self, key: str, running: int) -> KeyLimit:
        """See KeyLimits.set."""
        return await self._run(_set(key, running))

    async def get(self, key: str) -> KeyLimit:
        """See KeyLimits.get."""
        return await self._run(_get(key))

    async def of(self, key: str) -> KeyLimit:
        """See KeyLimits.of."""
        return await self._run(_of(key))

    async def keys(self, prefix: str = "", limit: int = 50) -> list[str]:
        """See KeyLimits.keys."""
        return await self._run(_keys(prefix, limit))

    async def remove(self, key: str) -> None:
        """See KeyLimits.remove."""
        await self._run(_remove(key))

    async def list(self, limit: int | None = None) -> list[KeyLimit]:
        """See KeyLimits.list."""
        return await self._run(_listed(None, limit))
