"""The tests' PostgreSQL: one server for each run, one database for each test, copied from a migrated template.

TURBO_TEST_DSN names a server to use as it is. TURBO_TEST_DB=container starts one with testcontainers. Otherwise the
embedded server runs and ends with the test run: TURBO_TEST_PG=16 or 18 chooses the wheel's version, and
TURBO_TEST_PG=debian the system's PostgreSQL 15.
"""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import conninfo

from tests.support.requirements import require
from turbo import embedded
from turbo.migrate import migrate

DEBIAN = Path("/usr/lib/postgresql/15/bin")


def embedded_arguments() -> dict[str, object]:
    """The version that TURBO_TEST_PG asks for, as arguments of `embedded.temporary`."""
    chosen = os.environ.get("TURBO_TEST_PG", "18")
    if chosen != "debian":
        return {"version": int(chosen)}
    require(str(DEBIAN / "postgres"))
    return {"bin_dir": DEBIAN}


@contextlib.contextmanager
def _container() -> Iterator[str]:
    try:
        from testcontainers.community.postgres import PostgresContainer
    except ImportError:
        from testcontainers.postgres import PostgresContainer
    with PostgresContainer("postgres:16", driver=None) as container:
        yield container.get_connection_url()


@contextlib.contextmanager
def _server() -> Iterator[str]:
    if given := os.environ.get("TURBO_TEST_DSN"):
        yield given
    elif os.environ.get("TURBO_TEST_DB") == "container":
        with _container() as dsn:
            yield dsn
    else:
        settings = {"max_prepared_transactions": "10", "synchronous_commit": "on"}
        with embedded.temporary(settings=settings, **embedded_arguments()) as server:  # type: ignore[arg-type]
            yield server.dsn


@contextlib.contextmanager
def server_with_template() -> Iterator[None]:
    """A server and a migrated template for this process and its children, which find both in their environment."""
    with _server() as dsn:
        template = f"turbo_template_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(f"create database {template}")
        migrate(_with_database(dsn, template))
        os.environ["TURBO_TEST_SERVER"] = dsn
        os.environ["TURBO_TEST_TEMPLATE"] = template
        try:
            yield
        finally:
            with contextlib.suppress(psycopg.Error), psycopg.connect(dsn, autocommit=True) as admin:
                admin.execute(f"drop database if exists {template} with (force)")


@contextlib.contextmanager
def fresh_database(template: str = "template0") -> Iterator[str]:
    """The DSN of a new database, which is dropped at the end."""
    server = os.environ["TURBO_TEST_SERVER"]
    name = f"turbo_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"create database {name} template {template}")
    try:
        yield _with_database(server, name)
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(f"drop database if exists {name} with (force)")


def migrated_database() -> contextlib.AbstractContextManager[str]:
    """The DSN of a new database with turbo's schema, which is dropped at the end."""
    return fresh_database(os.environ["TURBO_TEST_TEMPLATE"])


@contextlib.contextmanager
def migrated_server() -> Iterator[embedded.Server]:
    """A server that a test may stop, freeze and start again, with turbo's schema in its database."""
    settings = {"max_prepared_transactions": "10", "autovacuum": "off"}
    with embedded.temporary(settings=settings, **embedded_arguments()) as server:  # type: ignore[arg-type]
        migrate(server.dsn)
        yield server


def _with_database(dsn: str, name: str) -> str:
    return conninfo.make_conninfo(dsn, dbname=name)
