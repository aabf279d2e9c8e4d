"""Type filters: which task types a worker may claim now. Each source of closed executors has one; `&` joins them.

Executors are closed by paused accounts (turbo.accounts), by programs that this host lacks (turbo.worker.availability) and by
busy directories (turbo.executors.exclusive_directories). Claims leave out the task types that need a closed executor, so
a worker never takes a task that it cannot run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

DEFAULT_ROUTE = "default"


@dataclass(frozen=True, slots=True)
class TypeFilter:
    """Only the types in `include`, or all but those in `exclude`. `a & b` is what both let through."""

    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()

    @property
    def none(self) -> bool:
        """Lets nothing through."""
        return self.include == ()

    @property
    def restricted(self) -> bool:
        """Lets less than everything through."""
        return self.include is not None or bool(self.exclude)

    def __and__(self, other: "TypeFilter") -> "TypeFilter":
        if other == EVERYTHING:  # the common case, several times a claim
            return self
        exclude = {*self.exclude, *other.exclude}
        if self.include is None and other.include is None:
            return TypeFilter(exclude=tuple(sorted(exclude)))
        named = [set(types.include) for types in (self, other) if types.include is not None]
        return TypeFilter(include=tuple(sorted(set.intersection(*named) - exclude)))


EVERYTHING = TypeFilter()


def executor_of(routes: Mapping[str, str], task_type: str) -> str | None:
    """The name of the executor that a task goes to."""
    return routes.get(task_type) or routes.get(DEFAULT_ROUTE)


def served_types(routes: Mapping[str, str], able: Callable[[str], bool]) -> TypeFilter:
    """The task types whose executor is `able`. Where the default one is not, those that are routed by name."""
    closed = tuple(sorted(task_type for task_type, executor in routes.items() if not able(executor)))
    if not closed:
        return EVERYTHING
    if DEFAULT_ROUTE in closed:
        return TypeFilter(include=tuple(sorted(t for t, executor in routes.items() if able(executor))))
    return TypeFilter(exclude=closed)
