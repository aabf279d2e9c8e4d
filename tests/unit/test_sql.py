"""What is sent to the database for a statement's file."""

import re
from pathlib import Path

import pytest
from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH

from turbo import sql
from turbo.sql import statement, statement_names

FOLDER = Path(sql.__file__).parent


def test_statement_names_list_every_file():
    assert statement_names() == sorted(str(f.relative_to(FOLDER))[: -len(".sql")] for f in FOLDER.rglob("*.sql"))


@pytest.mark.parametrize("name", statement_names())
def test_statement_is_sent_bare_with_every_word_and_string(name):
    sent, written = statement(name), (FOLDER / f"{name}.sql").read_text()
    assert sent.startswith(f"/* turbo {name} */ ")
    without_comments = "\n".join(re.sub(r"(^|\s)-- ?.*$", "", line) for line in written.splitlines())
    assert sent.split("*/ ", 1)[1].split() == without_comments.split()
    assert re.findall(r"'[^']*'", sent) == re.findall(r"'[^']*'", without_comments)


@pytest.mark.parametrize("name", ["tasks/claim", "tasks/poll", "workers/beat"])
def test_frequent_statements_fit_psycopgs_prepare_cache(name):
    assert len(statement(name)) <= MAX_CACHED_STATEMENT_LENGTH
