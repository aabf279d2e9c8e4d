"""The pages of `turbo web` in a real Chromium: what a person sees and does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.database import migrated_database
from tests.support.web import Web, chromium, serious, serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """One server and database for the module."""
    with migrated_database() as dsn, serving(dsn, Path(tmp_path_factory.mktemp("web"))) as running:
        yield running


def test_front_page_lists_queues(web: Web, browser: Browser):
    page = web.open(browser)
    page.get_by_role("heading", name="Queues").wait_for()
    assert serious(page) == []
    web.quiet()
