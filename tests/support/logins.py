"""Logins in turbo's five roles, for the length of a test. Roles belong to the cluster that all tests share, so each login
has a name of its own and is dropped again; the four group roles stay."""

import contextlib
import uuid
from collections.abc import Iterator

import psycopg
from psycopg import conninfo, sql


@contextlib.contextmanager
def login(dsn: str, *roles: str, attributes: str = "") -> Iterator[str]:
    """A DSN of a new login that is a member of `roles` and of nothing else."""
    name, password = f"member_{uuid.uuid4().hex[:10]}", uuid.uuid4().hex
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(
            sql.SQL("create role {} login password {} " + attributes).format(
                sql.Identifier(name), sql.Literal(password)
            )
        )
        for role in roles:
            admin.execute(sql.SQL("grant {} to {}").format(sql.Identifier(role), sql.Identifier(name)))
    try:
        yield conninfo.make_conninfo(dsn, user=name, password=password)
    finally:
        with psycopg.connect(dsn, autocommit=True) as admin:
            # a session that has just closed may still be dropping its temporary tables
            admin.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = %s", (name,))
            admin.execute(sql.SQL("reassign owned by {} to current_user").format(sql.Identifier(name)))
            admin.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
            admin.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def user(dsn: str) -> str:
    return str(conninfo.conninfo_to_dict(dsn)["user"])
