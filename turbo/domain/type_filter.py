"""Type filters: which task types a worker may claim now. Each source of closed executors has one; `&` joins them.

Executors are closed by paused accounts (turbo.accounts), by programs that this host lacks (turbo.worker.availability) and by
busy directories (turbo.executors.exclusive_directories). Claims leave out the task types that need a closed executor, so
a worker never takes a task that it cannot run.
"""

from collections.abc import Callable, Mapping, Sequence
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

    def lets(self, name: str) -> bool:
        """Lets this type through."""
        return name not in self.exclude if self.include is None else name in self.include

    def __and__(self, other: "TypeFilter") -> "TypeFilter":
        if other == EVERYTHING:  # the common case, several times a claim
            return self
        exclude = {*self.exclude, *other.exclude}
        if self.include is None and other.include is None:
            return TypeFilter(exclude=tuple(sorted(exclude)))
        named = [set(types.include) for types in (self, other) if types.include is not None]
        return TypeFilter(include=tuple(sorted(set.intersection(*named) - exclude)))


EVERYTHING = TypeFilter()

Routes = Mapping[str, str | Sequence[str]]
"""By task type, the executor or, in the order in which they are tried, the executors."""


def executors_of(routes: Routes, task_type: str) -> tuple[str, ...]:
    """The names of the executors that a task may go to, the first choice first. Empty: there is no route."""
    route = routes.get(task_type) or routes.get(DEFAULT_ROUTE) or ()
    return (route,) if isinstance(route, str) else tuple(route)


def served_types(routes: Routes, able: Callable[[str], bool]) -> TypeFilter:
    """The task types of which an executor is `able`. Where none of the default ones is, those that are routed by name."""
    closed = tuple(sorted(t for t in routes if not any(map(able, executors_of(routes, t)))))
    if not closed:
        return EVERYTHING
    if DEFAULT_ROUTE in closed:
        return TypeFilter(include=tuple(sorted(set(routes) - set(closed))))
    return TypeFilter(exclude=closed)
