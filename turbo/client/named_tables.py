"""What operations on small tables that people name rows in have in common: schedules, budgets, limits and subscriptions."""

from collections.abc import Callable
from typing import Protocol

import psycopg

from turbo.client.operations import Query, QueryResult, Steps, T


class Does(Protocol):
    """How a client performs an operation."""

    def __call__(self, steps: Steps[T]) -> T: ...


class AsyncDoes(Protocol):
    async def __call__(self, steps: Steps[T]) -> T: ...


def read(query: Query, may_not: Callable[[], Exception]) -> Steps[QueryResult]:
    """The answer. Raises what `may_not` makes, where the role may not read."""
    try:
        return (yield query)
    except psycopg.errors.InsufficientPrivilege:
        raise may_not() from None


def written(query: Query, may_not: Callable[[], Exception], refused: Callable[[str], Exception]) -> Steps[QueryResult]:
    """The answer. Raises what `may_not` makes, where the role may not write, and what `refused` makes of the database's reason."""
    try:
        return (yield query)
    except psycopg.errors.InsufficientPrivilege:
        raise may_not() from None
    except (psycopg.IntegrityError, psycopg.DataError, psycopg.errors.ObjectNotInPrerequisiteState) as error:
        hint = f". {error.diag.message_hint}" if error.diag.message_hint else ""
        raise refused(f"{error.diag.message_primary or error}{hint}") from None
