"""What is sent to the database for a statement's file."""

import re
from pathlib import Path

import pytest
from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH

from turbo import sql
from turbo.sql import statement

FILES = sorted(Path(sql.__file__).parent.glob("*.sql"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_statement_goes_out_bare_with_every_word_and_string_it_had(file):
    sent, written = statement(file.stem), file.read_text()
    assert sent.startswith(f"/* turbo {file.stem} */ ")
    without_comments = "\n".join(re.sub(r"(^|\s)-- ?.*$", "", line) for line in written.splitlines())
    assert sent.split("*/ ", 1)[1].split() == without_comments.split()
    assert re.findall(r"'[^']*'", sent) == re.findall(r"'[^']*'", without_comments)


@pytest.mark.parametrize("name", ["claim", "sweep", "beat"])
def test_what_is_sent_most_often_is_short_enough_for_psycopg_to_remember(name):
    assert len(statement(name)) <= MAX_CACHED_STATEMENT_LENGTH
