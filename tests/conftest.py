"""One database server for the whole run (tests/support/database.py), and a database for each test that asks for one."""

import re
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import database, inherited, prefork, workers
from turbo import embedded

# A busy machine makes drawing slow; that is no property of the code.
hypothesis.settings.register_profile("turbo", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("turbo")

ID_LENGTH = 24
"""Characters of one parameter in the id of a test."""

LONGEST_FIRST = ("tests/soak", "tests/model", "tests/chaos", "tests/ha", "test_fleet_", "tests/integration")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    inherited.reset(config)
    if not hasattr(config, "workerinput"):  # xdist's workers ask the controlling process for the server
        shared = database.SharedServer()
        shared.offer()
        config.add_cleanup(shared.close)
    prefork.keep_environment()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that wait longest begin first: begun last, one of them alone would decide how long the run takes."""
    items.sort(
        key=lambda item: next(
            (n for n, folder in enumerate(LONGEST_FIRST) if folder in item.nodeid), len(LONGEST_FIRST)
        )
    )


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A short, plain id for a text: its first words, without quotes, line ends and control characters."""
    text = val.decode("utf-8", "replace") if isinstance(val, bytes) else val
    if not isinstance(text, str):
        return None
    words = " ".join(re.findall(r"[A-Za-z0-9_./:=-]+", text))
    short = words if len(words) <= ID_LENGTH else words[:ID_LENGTH].rpartition(" ")[0] or words[:ID_LENGTH]
    return short or argname


@pytest.fixture
def dsn() -> Iterator[str]:
    """A migrated database for this test alone."""
    with database.migrated_database() as name:
        yield name


@pytest.fixture
def own_server() -> Iterator[embedded.Server]:
    """A migrated server for this test alone: to stop, to freeze, to start again."""
    with database.migrated_server() as server:
        yield server


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator["workers.Bench"]:
    """Real worker processes on this test's database."""
    with workers.bench(dsn, tmp_path) as one:
        yield one
