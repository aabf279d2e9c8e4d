"""The settler's statements, one after another, without a worker: for tests of what reads the graphs of tasks."""

from typing import Any

import psycopg
from psycopg.rows import dict_row

from turbo.sql import statement


def tie(dsn: str) -> None:
    """Give follow-ups their turn, and write down what blocked tasks wait for. Lets none of them go."""
    _walk(dsn, "settle/place", {"notes": 1000}, 0, "last")
    _walk(dsn, "settle/tie", {"notes": 200, "edges": 1000, "worker": "w"}, 0, "last")


def settle(dsn: str) -> None:
    """Also let go what waits for nothing any more, to any depth."""
    for _ in range(3):
        tie(dsn)
        _walk(dsn, "settle/settle", {"passed": "{}", "needs": 200, "edges": 1000, "worker": "w"}, None, "last")


def _walk(dsn: str, name: str, parameters: dict[str, Any], after: object, last: str) -> None:
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as db:
        row = db.execute(statement(name).encode(), {**parameters, "after": after}).fetchone()
        while row is not None and row[last] is not None:
            row = db.execute(statement(name).encode(), {**parameters, "after": row[last]}).fetchone()
