"""The database of the tests: one server a run, a database of its own for every test, copied from a migrated template.

TURBO_TEST_DSN is used as given; TURBO_TEST_DB=container asks testcontainers; else the embedded one, which dies with the
run. TURBO_TEST_PG=16 or 18 chooses the wheel's version, TURBO_TEST_PG=debian the system's PostgreSQL 15.
"""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
from psycopg import conninfo

from tests import workers
from tests.real import require
from tests.shell import Shell
from turbo import embedded
from turbo.migrate import migrate

# A busy machine makes drawing slow; that is no property of the code.
hypothesis.settings.register_profile("turbo", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("turbo")

DEBIAN = Path("/usr/lib/postgresql/15/bin")


def _embedded_arguments() -> dict[str, object]:
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
        with embedded.temporary(settings=settings, **_embedded_arguments()) as server:  # type: ignore[arg-type]
            yield server.dsn


def pytest_configure(config: pytest.Config) -> None:
    """The controlling process holds the one server; xdist's workers find it in their environment."""
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    stack = contextlib.ExitStack()
    dsn = stack.enter_context(_server())
    template = f"turbo_template_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"create database {template}")
    migrate(with_database(dsn, template))
    os.environ["TURBO_TEST_SERVER"] = dsn
    os.environ["TURBO_TEST_TEMPLATE"] = template

    def drop() -> None:
        with contextlib.suppress(psycopg.Error), psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(f"drop database if exists {template} with (force)")

    stack.callback(drop)
    config.add_cleanup(stack.close)


def with_database(dsn: str, name: str) -> str:
    return conninfo.make_conninfo(dsn, dbname=name)


@contextlib.contextmanager
def fresh_database(template: str = "template0") -> Iterator[str]:
    server = os.environ["TURBO_TEST_SERVER"]
    name = f"turbo_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"create database {name} template {template}")
    try:
        yield with_database(server, name)
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(f"drop database if exists {name} with (force)")


def migrated_database() -> contextlib.AbstractContextManager[str]:
    return fresh_database(os.environ["TURBO_TEST_TEMPLATE"])


@pytest.fixture
def dsn() -> Iterator[str]:
    """A migrated database of the test's own."""
    with migrated_database() as name:
        yield name


@pytest.fixture
def empty_dsn() -> Iterator[str]:
    """An empty database of the test's own."""
    with fresh_database() as name:
        yield name


@pytest.fixture
def own_server() -> Iterator[embedded.Server]:
    """A server of the test's own, migrated: to stop, to freeze, to start again."""
    settings = {"max_prepared_transactions": "10", "autovacuum": "off"}
    with embedded.temporary(settings=settings, **_embedded_arguments()) as server:  # type: ignore[arg-type]
        migrate(server.dsn)
        yield server


@pytest.fixture
def own_server_dsn(own_server: embedded.Server) -> str:
    return own_server.dsn


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator["workers.Bench"]:
    """Real worker processes on a database of the test's own."""
    with workers.bench(dsn, tmp_path) as one:
        yield one


@pytest.fixture
def shell(dsn: str, tmp_path: Path) -> Shell:
    """`turbo`, as a person calls it, on a database of the test's own."""
    return Shell(dsn, tmp_path)
