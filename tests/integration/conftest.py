"""What only the integration tests need: an empty database, the DSN of a server, a person's session, the statements of a worker, and
`turbo` as a person calls it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support import database
from tests.support.shell import Shell
from tests.support.steps import registered
from tests.support.stores import Stores
from turbo import embedded


@pytest.fixture
def empty_dsn() -> Iterator[str]:
    """An empty database for this test alone."""
    with database.fresh_database() as name:
        yield name


@pytest.fixture
def own_server_dsn(own_server: embedded.Server) -> str:
    return own_server.dsn


@pytest.fixture
def shell(dsn: str, tmp_path: Path) -> Shell:
    """`turbo`, as a person calls it, on this test's database."""
    return Shell(dsn, tmp_path)


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection]:
    """A person's session."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def stores(dsn: str) -> AsyncIterator[Stores]:
    """The statements of a worker that is up."""
    async with registered(dsn) as stores:
        yield stores
