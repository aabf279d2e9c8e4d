"""docs/reference is what the program says of itself: `make docs` writes two pages, a person the third."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scripts import docs
from turbo.cli.config import Kind
from turbo.cli.main import COMMANDS
from turbo.domain.outcome import FailureKind

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WORDS = {
    "clock_timestamp()": "clock",
    "now()": "now",
    "SESSION_USER": "session user",
    "''::text": "empty",
    "'0'::bigint": "0",
    "('t_'::text || \"left\"(replace((gen_random_uuid())::text, '-'::text, ''::text), 20))": "`t_` and 20 hex digits",
}
COLUMNS = """
select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attidentity
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
 where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
 order by c.relname, a.attnum
"""

TRAIL = (
    r"insert into public\.agent_actions\s*\(task_id, action_type[^)]*\)"
    r"\s*(?:select|values\s*\()\s*[^,]+?,\s*('\w+'|case.*?\bend)\s*,"
)
"""What a statement writes into the audit trail as `action_type`."""


@pytest.mark.parametrize("name", docs.PAGES)
def test_page_matches_make_docs(name: str) -> None:
    assert (DOCS / "reference" / name).read_text() == docs.PAGES[name](), "run `make docs`"


def test_every_command_is_listed() -> None:
    page = (DOCS / "reference" / "commands.md").read_text()
    assert re.findall(r"^## turbo (\w+)$", page, re.M) == list(COMMANDS)


@pytest.mark.parametrize("kind", list(Kind))
def test_every_key_is_explained(kind: Kind) -> None:
    schema = json.loads(docs.output_of("config", "schema", kind.value))

    def silent(section: dict[str, Any], where: str) -> Iterator[str]:
        for name, value in section.get("properties", {}).items():
            if not value.get("description"):
                yield f"{where}.{name}"

    found = [key for name, section in [("", schema), *schema["$defs"].items()] for key in silent(section, name)]
    assert not found, "give these fields a description"


def test_tables_page_matches_the_database(dsn: str) -> None:
    page = (DOCS / "reference" / "tables.md").read_text()
    written = []
    for section in re.split(r"^## ", page, flags=re.M)[1:]:
        table = section.partition("\n")[0]
        for name, kind, default, meaning in re.findall(
            r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) ?\| (.*) \|$", section, re.M
        ):
            written.append((table, name, kind.strip(), default.strip()))
            assert len(meaning) >= 3, f"{table}.{name} has no meaning"
    with psycopg.connect(dsn) as db:
        found = [
            (table, name, kind, _default(expression, identity, not_null))
            for table, name, kind, not_null, expression, identity in db.execute(COLUMNS)
        ]
    assert sorted(written) == sorted(found)


def test_tables_page_has_every_failure_kind() -> None:
    """Of runs, and of what the settler cancels."""
    of_runs, _, of_cancelled = meaning("failure_kind").partition(" Of a task that turbo cancelled")
    kinds = {kind.value for kind in FailureKind}
    settler = [*(ROOT / "turbo" / "sql" / "settle").glob("*.sql"), *(ROOT / "migrations").glob("*_settling.sql")]
    cancels = set(
        re.findall(r"failure_kind = (?:case when [^,;]*? then )?'(\w+)'(?: end)?,", "".join(map(text, settler)))
    )
    assert words(of_cancelled) & kinds == cancels >= {"needs"}
    assert words(of_runs) & kinds == kinds - {"needs"}
    troubles = text(DOCS / "troubleshooting.md")
    cancelled, failed = (
        troubles.split(f"\n## A task is `{status}`")[1].split("\n## ")[0] for status in ("cancelled", "failed")
    )
    assert words(cancelled) & kinds >= cancels, "each is explained"
    assert words(failed) & kinds == kinds - {"needs"}, "each is explained"


def test_tables_page_has_every_entry_of_the_trail() -> None:
    entries = set()
    for file in (*(ROOT / "turbo" / "sql").rglob("*.sql"), *(ROOT / "migrations").glob("*.sql")):
        for written in re.findall(TRAIL, text(file), re.S):
            entries |= set(re.findall(r"'(\w+)'", re.sub(r"\bwhen .*? then\b", "then", written, flags=re.S)))
    listed = re.sub(r"\([^)]*\)", "", meaning("action_type"))
    assert {one.strip() for one in listed.split(",")} == entries


def meaning(column: str) -> str:
    """What the page says of a column; the first of that name."""
    found = re.search(rf"^\| `{column}` \| [^|]* \| [^|]* ?\| (.*) \|$", text(DOCS / "reference" / "tables.md"), re.M)
    assert found is not None
    return found[1]


def words(prose: str) -> set[str]:
    return set(re.findall(r"\w+", prose))


def text(file: Path) -> str:
    return file.read_text()


def _default(expression: str | None, identity: str, not_null: bool) -> str:
    if identity:
        return "counted"
    if expression is None:
        return "required" if not_null else ""
    if expression in WORDS:
        return WORDS[expression]
    quoted = re.fullmatch(r"'(.*)'::[\w \[\]]+", expression)
    return f"`{quoted[1]}`" if quoted else expression
