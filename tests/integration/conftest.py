"""What only the integration tests need: an empty database, the DSN of a server, and `turbo` as a person calls it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import database
from tests.support.shell import Shell
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
