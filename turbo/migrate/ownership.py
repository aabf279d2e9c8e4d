"""Whose objects turbo uses: those of its names in schema public, and the functions that run when its tables are used.

`create table if not exists` and `create or replace function` keep an object that somebody made before, with its owner. Whoever
owns a trigger's function or a table decides what runs in the sessions of workers and operators. So an object of another
owner is refused, before a migration and after it (somebody may be quick), and `turbo doctor` reports it.

Trusted are superusers, the migrating role and the roles that it is a member of, and the owner of the database.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import psycopg

from turbo.domain.finding import Finding, refuse, warn
from turbo.migrate.adoption.finding import quoted
from turbo.migrate.files import read
from turbo.sql import statement

Connection = psycopg.Connection[Any]

_CREATED = {
    "relations": r"create\s+(?:unlogged\s+)?(?:table|sequence|view)\s+(?:if\s+not\s+exists\s+)?public\.(\w+)"
    r"|create\s+(?:unique\s+)?index\s+(?:concurrently\s+)?(?:if\s+not\s+exists\s+)?(\w+)",
    "functions": r"create\s+(?:or\s+replace\s+)?function\s+public\.(\w+)",
    "types": r"create\s+(?:domain|type)\s+public\.(\w+)",
}
_HISTORY = "turbo_migrations"


@cache
def names() -> dict[str, list[str]]:
    """The names that the migrations create in schema public, by kind."""
    text = "\n".join(file.sql for file in read())
    found = {
        kind: sorted({next(filter(None, match.groups())) for match in re.finditer(pattern, text, re.IGNORECASE)})
        for kind, pattern in _CREATED.items()
    }
    return found | {"relations": [*found["relations"], _HISTORY]}


def trusted(connection: Connection) -> list[str]:
    """The roles whose objects a migration by this session may use."""
    row = connection.execute(statement("migrate/trusted")).fetchone()
    return list(row[0]) if row else []


def keeper(connection: Connection) -> str:
    """Who made the schema: the owner of turbo_migrations, '' without one."""
    row = connection.execute(statement("migrate/keeper")).fetchone()
    return str(row[0]) if row else ""


def judge(connection: Connection) -> list[Finding]:
    """A refusal for each object whose owner is not trusted, and for each function that would no longer find its names. Reads the
    catalog only. What makes an owner trusted is said once, after the last of its objects."""
    believed, user = trusted(connection), quoted(connection.info.user)
    found = strangers(connection, believed)
    last = {one.owner: number for number, one in enumerate(found)}
    return [
        refuse(f"{one}. If {one.owner} may be trusted with that", f"GRANT {quoted(one.owner)} TO {user};")
        if last[one.owner] == number
        else refuse(str(one))
        for number, one in enumerate(found)
    ] + lost_names(connection, believed)


@dataclass(frozen=True, slots=True)
class Stranger:
    """An object of an owner who is not trusted, in words."""

    owner: str
    what: str

    def __str__(self) -> str:
        return self.what


def strangers(connection: Connection, believed: Sequence[str]) -> list[Stranger]:
    """What bears one of turbo's names, or runs when its tables are used, and belongs to none of the roles `believed`."""
    objects = connection.execute(statement("migrate/foreign_objects"), names() | {"trusted": list(believed)}).fetchall()
    called = connection.execute(statement("session/functions")).fetchall()
    return [
        Stranger(
            owner,
            f"the {kind} {name} belongs to {owner}, and what its owner makes of it runs with the rights of turbo's sessions. "
            "Drop or rename it if you do not know it",
        )
        for kind, name, owner in objects
    ] + [
        Stranger(
            owner,
            f"{caller} calls the function {function}, which belongs to {owner} and runs in turbo's sessions. "
            f"Drop the {caller.split()[0]} if you do not know it",
        )
        for function, owner, caller, _ in called
        if owner not in believed
    ]


def open_schema(connection: Connection) -> Finding | None:
    """A warning if every login may create in schema public. An overload of a function of turbo's is never called instead of it,
    but one with defaults makes the call ambiguous."""
    row = connection.execute(statement("migrate/open_schema")).fetchone()
    if row is None or not row[0]:
        return None
    return warn(
        "PUBLIC may create in schema public: any login can make a function that workers cannot tell from turbo's, and so stop them",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC;",
    )


def lost_names(connection: Connection, believed: Sequence[str]) -> list[Finding]:
    """A refusal for each function on turbo's tables that looks names up in its session, where that does not search public."""
    called = connection.execute(statement("session/functions")).fetchall()
    lost = [(function, caller) for function, owner, caller, fixed in called if not fixed and owner in believed]
    row = connection.execute(statement("session/schemas"), {"schemas": ["public"]}).fetchone() if lost else None
    if row is None or row[1] is None:
        return []
    return [
        refuse(
            f"{caller} calls {function}, which looks names up where its session does. turbo's sessions do not look in schema "
            f"public: {row[1]}. Qualify the names in {function} that are not PostgreSQL's own, as in public.name",
            f"ALTER FUNCTION {function} SET search_path = pg_catalog, pg_temp;",
        )
        for function, caller in lost
    ]
