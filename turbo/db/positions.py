"""Places among the rows of a statement by their age, for the way past rows that the database refuses (turbo.db.row_by_row)."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from turbo.db.connect import Connection
from turbo.db.store import rows


@dataclass(frozen=True, slots=True)
class Position:
    """A moment as PostgreSQL writes it, and an id of that moment."""

    moment: str
    task_id: str | None = None


NOW = Position("now")
BEGINNING = Position("-infinity")

Found = tuple[Position, list[tuple[tuple[str, int | None], Position]]]

After = Callable[[Position, Sequence[str]], Awaitable[Found]]
"""The rows after a position, at most a hundred, without some ids: the id and the fencing token of each, with its own position. Before
them the given position, with the moment for NOW."""


async def rows_after(
    connection: Connection, name: str, parameters: Mapping[str, object], position: Position, aside: Sequence[str]
) -> Found:
    """An `After`, by a statement such as tasks/claim_after."""
    more = {"moment": position.moment, "after_id": position.task_id, "aside": list(aside)}
    found = await rows(connection, name, {**parameters, **more})
    since = Position(found[0][0], position.task_id)
    return since, [((task_id, token), Position(at, task_id)) for _, task_id, token, at in found if task_id is not None]
