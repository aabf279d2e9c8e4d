"""The migration files: names, numbers, markers; and where an installed turbo finds them."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import turbo
from turbo.migrate import SCHEMA_VERSION, MigrationError, SchemaFit, check_schema, explain_schema
from turbo.migrate.files import ConcurrentIndex, directory, parse, read


def write(where: Path, **files: str) -> Path:
    for name, content in files.items():
        (where / f"{name}.sql").write_text(content, encoding="utf-8")
    return where


# ── names and numbers ────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_are_read_in_numerical_order(tmp_path: Path) -> None:
    write(tmp_path, **{"0002_b": "select 2", "0001_a": "select 1", "0003_c_and_d": "select 3"})
    assert [(m.version, m.name, m.label) for m in read(tmp_path)] == [
        (1, "a", "0001_a"),
        (2, "b", "0002_b"),
        (3, "c_and_d", "0003_c_and_d"),
    ]


def test_gap_in_the_numbers_is_refused(tmp_path: Path) -> None:
    write(tmp_path, **{"0001_a": "select 1", "0003_c": "select 3"})
    with pytest.raises(MigrationError, match=r"migration 0002 is missing: the next file is 0003_c\.sql"):
        read(tmp_path)


def test_two_files_with_one_number_are_refused(tmp_path: Path) -> None:
    write(tmp_path, **{"0001_a": "select 1", "0002_b": "select 2", "0002_c": "select 3"})
    with pytest.raises(MigrationError, match="number 0002: 0002_b and 0002_c"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["1_a", "0001-a", "0001_", "0001_A", "00001_a", "tables"])
def test_invalid_file_name_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, **{name: "select 1"})
    with pytest.raises(MigrationError, match=r"use NNNN_name\.sql"):
        read(tmp_path)


def test_other_files_beside_the_migrations_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, **{"0001_a": "select 1"})
    (tmp_path / "README.md").write_text("about")
    assert len(read(tmp_path)) == 1


def test_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="install agent-turbo again"):
        read(tmp_path)


def test_checksum_covers_the_file_bytes() -> None:
    assert parse("0001_a.sql", b"select 1\n").checksum == hashlib.sha256(b"select 1\n").hexdigest()
    assert parse("0001_a.sql", b"select 1\n").checksum != parse("0001_a.sql", b"select 1 \n").checksum


def test_file_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(MigrationError, match=r"0001_a\.sql: not UTF-8"):
        parse("0001_a.sql", b"-- \xff\nselect 1")


# ── markers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_file_without_markers_is_one_block_in_one_transaction() -> None:
    content = "-- a comment\ncreate table a ();\ndo $$ begin perform 'x;y'; end $$;\n"
    migration = parse("0001_a.sql", content.encode())
    assert migration.in_transaction
    assert [block.sql for block in migration.blocks] == [content]


def test_blocks_split_at_markers_and_keep_their_line_numbers() -> None:
    migration = parse("0001_a.sql", b"select 1;\n-- turbo: next\nselect 2;\n\n-- turbo: next\nselect 3;\n")
    assert migration.in_transaction
    assert [(block.sql.strip(), block.first_line) for block in migration.blocks] == [
        ("select 1;", 1),
        ("select 2;", 3),
        ("select 3;", 6),
    ]


def test_first_line_takes_a_file_out_of_the_transaction() -> None:
    migration = parse("0001_a.sql", b"-- turbo: no-transaction\nvacuum;\n-- turbo: next\nanalyze;\n")
    assert not migration.in_transaction
    assert [block.sql.splitlines()[-1] for block in migration.blocks] == ["vacuum;", "analyze;"]


@pytest.mark.parametrize(
    "content",
    [
        "select 1;\n-- turbo: no-transaction\nvacuum;\n",  # too late: what stands above it would have run in one
        "-- turbo: no transaction\nvacuum;\n",
        "select 1;\n-- turbo: nxt\nselect 2;\n",
    ],
)
def test_marker_without_effect_is_refused(content: str) -> None:
    with pytest.raises(MigrationError, match="is not a marker here"):
        parse("0001_a.sql", content.encode())


@pytest.mark.parametrize("content", ["", "-- only a comment\n", "select 1;\n-- turbo: next\n\n"])
def test_block_without_a_statement_is_refused(content: str) -> None:
    with pytest.raises(MigrationError, match="a block without a statement"):
        parse("0001_a.sql", content.encode())


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("create index concurrently i on public.t (a)", ConcurrentIndex("public", "t", "i")),
        (
            "-- why\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i\n  ON s.t_2 (a) WHERE b",
            ConcurrentIndex("s", "t_2", "i"),
        ),
        ("create index i on public.t (a)", None),
        ("select 'create index concurrently i on public.t (a)'", None),
    ],
)
def test_block_knows_its_concurrent_index(sql: str, expected: ConcurrentIndex | None) -> None:
    assert parse("0001_a.sql", sql.encode()).blocks[0].concurrent_index == expected


# ── the files of this project ────────────────────────────────────────────────────────────────────────────────────────


def test_schema_version_is_the_newest_file_number() -> None:
    newest = max(entry.name for entry in directory().iterdir() if entry.name.endswith(".sql"))
    assert int(newest[:4]) == SCHEMA_VERSION == len(read())


def test_every_concurrent_build_is_recognised_and_repeatable() -> None:
    """Else an attempt cut short leaves an INVALID index that nobody repairs, or a second run fails on it."""
    for migration in read():
        for block in migration.blocks:
            statements = "".join(line for line in block.sql.splitlines() if not line.lstrip().startswith("--"))
            if "concurrently" not in statements:
                continue
            assert not migration.in_transaction, migration.label
            dropped = statements.startswith("drop index concurrently if exists")
            assert dropped or block.concurrent_index is not None, block.sql
            assert dropped or "if not exists" in statements, block.sql
            assert statements.count(";") == 1, "several statements sent at once are a transaction"


# ── where they are ───────────────────────────────────────────────────────────────────────────────────────────────────


def find_them(package_parent: Path) -> subprocess.CompletedProcess[str]:
    program = "from turbo.migrate import files; print(files.directory(), len(files.read()))"
    return subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {[str(package_parent), *sys.path]!r}; {program}"],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        cwd=package_parent,
    )


@pytest.fixture
def package_alone(tmp_path: Path) -> Path:
    """The package as a wheel lays it out, in a directory that is no checkout; the migrations not yet in it."""
    source = Path(turbo.__file__).parent
    shutil.copytree(source, tmp_path / "turbo", ignore=shutil.ignore_patterns("__pycache__", "migrations"))
    return tmp_path


def test_installed_turbo_reads_its_packaged_migrations(package_alone: Path) -> None:
    (package_alone / "turbo" / "migrations").mkdir()
    write(package_alone / "turbo" / "migrations", **{"0001_mine": "select 1"})
    found = find_them(package_alone)
    assert found.stdout.split() == [str(package_alone / "turbo" / "migrations"), "1"], found.stderr


def test_foreign_migrations_directory_is_not_read(package_alone: Path) -> None:
    """Other distributions put a `migrations` directory into site-packages too."""
    (package_alone / "migrations").mkdir()
    write(package_alone / "migrations", **{"0001_theirs": "drop table users"})
    found = find_them(package_alone)
    assert "turbo's migration files are missing from this installation" in found.stderr


# ── may a worker run on this database? ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("distance", "fit", "says"),
    [
        (-1, SchemaFit.BEHIND, "run `turbo migrate`"),
        (0, SchemaFit.OK, "the latest"),
        (1, SchemaFit.OK, "and compatible"),
        (2, SchemaFit.TOO_NEW, "upgrade turbo on this host"),
    ],
)
def test_worker_accepts_its_own_schema_and_the_next(distance: int, fit: SchemaFit, says: str) -> None:
    assert check_schema(SCHEMA_VERSION + distance) is fit
    assert says in explain_schema(SCHEMA_VERSION + distance)


def test_unmigrated_database_is_behind() -> None:
    assert check_schema(0) is SchemaFit.BEHIND
    assert "no turbo schema yet" in explain_schema(0)


def test_worker_runs_on_every_schema_it_is_compatible_with() -> None:
    """A newer database names the oldest schema whose turbo may still run: files are not counted."""
    far = SCHEMA_VERSION + 7
    assert check_schema(far, compatible_from=SCHEMA_VERSION) is SchemaFit.OK
    assert "and compatible" in explain_schema(far, compatible_from=SCHEMA_VERSION)
    assert check_schema(far, compatible_from=SCHEMA_VERSION + 1) is SchemaFit.TOO_NEW
    assert check_schema(SCHEMA_VERSION - 1, compatible_from=1) is SchemaFit.BEHIND


def test_file_names_the_oldest_compatible_schema() -> None:
    assert parse("0009_x.sql", b"-- turbo: compatible-from 4\nselect 1;\n").compatible_from == 4
    assert parse("0009_x.sql", b"select 1;\n").compatible_from == 8
    concurrent = b"-- turbo: no-transaction\n-- turbo: compatible-from 4\nselect 1;\n-- turbo: next\nselect 2;\n"
    assert parse("0009_x.sql", concurrent).compatible_from == 4
    with pytest.raises(MigrationError, match="compatible-from 9 must name an earlier schema"):
        parse("0009_x.sql", b"-- turbo: compatible-from 9\nselect 1;\n")


# ── functions that later files change in part ────────────────────────────────────────────────────────────────────────


def undone(files: dict[str, str]) -> list[str]:
    """Whole definitions of functions that an earlier file has changed in part: they begin from a text without that change."""
    changed: dict[str, str] = {}
    found = []
    for name, text in sorted(files.items()):
        for function in re.findall(r"create or replace function public\.(\w+)\(", text):
            if function in changed:
                found.append(f"{name} defines {function}, which {changed[function]} changed in part")
        if "pg_get_functiondef" in text:
            listed = " ".join(re.findall(r"proname in \(([^)]*)\)", text))
            parts = re.findall(r"^ *\(\d+, '(\w+)',", text, re.M) + re.findall(r"'(turbo_\w+)'", listed)
            assert parts, f"{name} changes functions, and names none"
            changed |= dict.fromkeys(parts, name)
    return found


def test_no_file_undoes_what_another_changed_in_a_function() -> None:
    files = (file for file in directory().iterdir() if file.name.endswith(".sql"))
    assert undone({file.name: file.read_text(encoding="utf-8") for file in files}) == []


def test_definition_from_an_old_text_is_found() -> None:
    part = "(1, 'turbo_f', $a$x$a$, $b$y$b$)\npg_get_functiondef"
    whole = "create or replace function public.turbo_f() returns trigger"
    assert undone({"1": whole, "2": part, "3": whole}) == ["3 defines turbo_f, which 2 changed in part"]
    assert undone({"1": whole, "2": whole, "3": part}) == []
