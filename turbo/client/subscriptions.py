"""`Client.subscriptions` and `AsyncClient.subscriptions`: who is told what happened. Both drive the same operations."""

from collections.abc import Sequence
from functools import partial

from turbo.client.named_tables import AsyncDoes, Does, read, written
from turbo.client.operations import Query, QueryResult, Steps, like
from turbo.client.schedule import UnknownSchedule, known_name
from turbo.client.subscription import (
    MayNotSubscribe,
    NewSubscription,
    Subscription,
    SubscriptionExists,
    SubscriptionRefused,
    UnknownSubscription,
    read_subscription,
)


def _add(new: NewSubscription, replace: bool) -> Steps[Subscription]:
    answer = yield from _written(Query("client/add_subscription", new.parameters(replace=replace)))
    if not answer.rows and not replace:
        raise SubscriptionExists(new.name)
    return (yield from _get(new.name))


def _get(name: str) -> Steps[Subscription]:
    rows = (yield from _read("client/subscriptions", names=[_known(name)], limit=1)).rows
    if not rows:
        raise UnknownSubscription(name)
    return read_subscription(rows[0])


def _listed(limit: int | None) -> Steps[list[Subscription]]:
    return [read_subscription(row) for row in (yield from _read("client/subscriptions", names=None, limit=limit)).rows]


def _names(prefix: str, limit: int) -> Steps[list[str]]:
    rows = (yield from _read("client/subscription_names", pattern=like(prefix), limit=limit)).rows
    return [row["name"] for row in rows]


def _switched(name: str, enabled: bool) -> Steps[bool]:
    query = Query("client/switch_subscription", {"name": _known(name), "enabled": enabled})
    row = (yield from _written(query)).rows[0]
    if not row["known"]:
        raise UnknownSubscription(name)
    return bool(row["changed"])


def _remove(name: str) -> Steps[None]:
    if not (yield from _written(Query("client/remove_subscription", {"name": _known(name)}))).count:
        raise UnknownSubscription(name)


def _known(name: str) -> str:
    try:
        return known_name(name)
    except UnknownSchedule:
        raise UnknownSubscription(name) from None


def _read(statement: str, **parameters: object) -> Steps[QueryResult]:
    return (yield from read(Query(statement, parameters), partial(MayNotSubscribe, reading=True)))


def _written(query: Query) -> Steps[QueryResult]:
    return (yield from written(query, partial(MayNotSubscribe, reading=False), SubscriptionRefused))


class Subscriptions:
    """The subscriptions of a database. Raises UnknownSubscription for a name that none has, MayNotSubscribe for a role that may not."""

    def __init__(self, run: Does) -> None:
        self._run = run

    def add(
        self,
        name: str,
        target: str,
        events: Sequence[str],
        *,
        queue: str | None = None,
        task_type: str | None = None,
        replace: bool = False,
    ) -> Subscription:
        """From now on, deliver these events to `target`: a name under `notify` in the worker.yaml of some workers.

        `events`: asked, reminded, completed, failed, cancelled (of tasks: of this `queue` and `task_type`; None: any), account_paused,
        account_resumed, budget_warned, budget_spent, schedule_failed, worker_died. `replace`: change the one of this name to just this;
        what waits stays. Raises BadField, SubscriptionExists, SubscriptionRefused (the text says why)."""
        return self._run(_add(NewSubscription(name, target, events, queue, task_type), replace))

    def get(self, name: str) -> Subscription:
        """One subscription, and how far it is."""
        return self._run(_get(name))

    def names(self, prefix: str = "", limit: int = 50) -> list[str]:
        """Names with this prefix, for shell completion: only those that mean nothing to a shell."""
        return self._run(_names(prefix, limit))

    def pause(self, name: str) -> bool:
        """Deliver nothing more; what happens meanwhile waits. False: it was already paused."""
        return self._run(_switched(name, False))

    def resume(self, name: str) -> bool:
        """Deliver again, and first what has waited. False: it was not paused."""
        return self._run(_switched(name, True))

    def remove(self, name: str) -> None:
        """Delete it. What waits is not delivered."""
        self._run(_remove(name))

    def list(self, limit: int | None = None) -> list[Subscription]:
        """The subscriptions by name."""
        return self._run(_listed(limit))


class AsyncSubscriptions:
    """`Subscriptions` with `await`: the same methods, arguments and exceptions (a test compares them)."""

    def __init__(self, run: AsyncDoes) -> None:
        self._run = run

    async def add(
        self,
        name: str,
        target: str,
        events: Sequence[str],
        *,
        queue: str | None = None,
        task_type: str | None = None,
        replace: bool = False,
    ) -> Subscription:
        """See Subscriptions.add."""
        return await self._run(_add(NewSubscription(name, target, events, queue, task_type), replace))

    async def get(self, name: str) -> Subscription:
        """See Subscriptions.get."""
        return await self._run(_get(name))

    async def names(self, prefix: str = "", limit: int = 50) -> list[str]:
        """See Subscriptions.names."""
        return await self._run(_names(prefix, limit))

    async def pause(self, name: str) -> bool:
        """See Subscriptions.pause."""
        return await self._run(_switched(name, False))

    async def resume(self, name: str) -> bool:
        """See Subscriptions.resume."""
        return await self._run(_switched(name, True))

    async def remove(self, name: str) -> None:
        """See Subscriptions.remove."""
        await self._run(_remove(name))

    async def list(self, limit: int | None = None) -> list[Subscription]:
        """See Subscriptions.list."""
        return await self._run(_listed(limit))
