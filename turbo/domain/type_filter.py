"""Which task types a worker may claim now: what each source of closed executors lets through, and all of them together.

Paused accounts (turbo.accounts.manager), programs that this host does not have (turbo.worker.availability) and busy
directories (turbo.executors.exclusive_directories) each say which executors are closed; the claims leave out the task
types that need those. Nobody takes a task that it could not run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

DEFAULT_ROUTE = "default"


@dataclass(frozen=True, slots=True)
class TypeFilter:
    """`only` these, or all but `skip`. `a & b` is what both let through."""

    only: tuple[str, ...] | None = None
    skip: tuple[str, ...] = ()

    @property
    def none(self) -> bool:
        return self.only == ()

    def __and__(self, other: "TypeFilter") -> "TypeFilter":
        if other == EVERYTHING:  # the common case, several times a claim
            return self
        skip = {*self.skip, *other.skip}
        if self.only is None and other.only is None:
            return TypeFilter(skip=tuple(sorted(skip)))
        named = [set(types.only) for types in (self, other) if types.only is not None]
        return TypeFilter(only=tuple(sorted(set.intersection(*named) - skip)))


EVERYTHING = TypeFilter()


def executor_of(routes: Mapping[str, str], task_type: str) -> str | None:
    """The name of the executor that a task goes to."""
    return routes.get(task_type) or routes.get(DEFAULT_ROUTE)


def served_types(routes: Mapping[str, str], able: Callable[[str], bool]) -> TypeFilter:
    """The task types whose executor is `able`. Without the default one, that is those that are routed by name."""
    shut = tuple(sorted(t for t, executor in routes.items() if not able(executor)))
    if not shut:
        return TypeFilter()
    if DEFAULT_ROUTE in shut:
        return TypeFilter(only=tuple(sorted(t for t, executor in routes.items() if able(executor))))
    return TypeFilter(skip=shut)
