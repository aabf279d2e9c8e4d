"""A rolling upgrade: workers of this turbo and of the next one, whose schema is one further, side by side on one database."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import until
from tests.support.workers import Bench
from turbo.migrate import SCHEMA_VERSION, migrate

ROOT = Path(__file__).parents[2]
NEXT_VERSION = "99.0"
PROGRAM = "import sys; sys.path.insert(0, {path!r}); from turbo.cli.main import main; main()"


@pytest.fixture
def next_turbo(bench: Bench) -> tuple[str, ...]:
    """The command of a turbo that has one migration more."""
    copy = bench.path / "next"
    migrations = copy / "turbo" / "migrations"
    shutil.copytree(ROOT / "turbo", copy / "turbo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "migrations", migrations)
    init = copy / "turbo" / "__init__.py"
    init.write_text(init.read_text() + f'__version__ = "{NEXT_VERSION}"\n')
    added = migrations / f"{SCHEMA_VERSION + 1:04d}_next.sql"
    added.write_text("alter table public.agent_tasks add column if not exists added_next text default 'next';\n")
    return (sys.executable, "-c", PROGRAM.format(path=str(copy)))


def test_workers_of_two_schema_versions_share_the_work(bench: Bench, next_turbo: tuple[str, ...]) -> None:
    old = bench.start(name="old").listening()
    this_turbo = bench.program
    bench.program = (*next_turbo, "worker", "--config")
    new = bench.start(name="new")
    new.said(f"this turbo needs {SCHEMA_VERSION + 1}: run `turbo migrate`")
    subprocess.run([*next_turbo, "migrate", "--dsn", bench.dsn], check=True, capture_output=True)
    new.listening()
    bench.program = this_turbo
    started_after = bench.start(name="after").listening()
    rows = bench.sql("select name, version from agent_workers where state = 'up' order by name")
    assert [name for name, _ in rows] == ["after", "new", "old"]
    assert dict(rows)["new"] == NEXT_VERSION != dict(rows)["old"]
    tasks = [f"t{i}" for i in range(60)]
    for task in tasks:
        bench.insert(task, {"seconds": 0.1}, max_retries=3)
    for task in tasks:
        bench.wait(task)
    assert bench.runs() == dict.fromkeys(tasks, 1)
    did = {row[0].rsplit("-", 2)[0] for row in bench.sql("select distinct assigned_worker_id from agent_tasks")}
    assert did == {"after", "new", "old"}
    bench.insert("last", {"seconds": 1}, max_retries=0)
    until(lambda: bench.runs()["last"])
    assert (old.stop(), started_after.stop()) == (0, 0)
    bench.wait("last")
    bench.insert("next")
    assert bench.wait("next")["assigned_worker_id"].startswith("new-")


def test_schema_two_versions_ahead_is_not_used(bench: Bench) -> None:
    bench.sql(
        "insert into turbo_migrations (version, name, checksum, turbo_version) select v, 'n', 'c', '9'"
        " from generate_series(%s::int, %s::int) v",
        SCHEMA_VERSION + 1,
        SCHEMA_VERSION + 2,
    )
    worker = bench.start()
    worker.said("too new for this turbo")
    bench.sql("delete from turbo_migrations where version > %s", SCHEMA_VERSION + 1)
    worker.listening()


def test_schema_far_ahead_is_used_when_it_says_compatible(bench: Bench) -> None:
    bench.sql(
        "insert into turbo_migrations (version, name, checksum, turbo_version, compatible_from)"
        " select v, 'n', 'c', '9', %s from generate_series(%s::int, %s::int) v",
        SCHEMA_VERSION,
        SCHEMA_VERSION + 1,
        SCHEMA_VERSION + 5,
    )
    bench.start().listening()
    bench.insert("t")
    bench.wait("t")


def test_database_of_an_earlier_turbo_gains_the_column(bench: Bench) -> None:
    """Its turbo_migrations has no `compatible_from` yet: read as it is, and added by the next migration."""
    bench.sql("alter table turbo_migrations drop column compatible_from")
    bench.sql("delete from turbo_migrations where version = %s", SCHEMA_VERSION)
    worker = bench.start()
    worker.said(f"this turbo needs {SCHEMA_VERSION}: run `turbo migrate`")
    migrate(bench.dsn)
    worker.listening()
    assert bench.sql("select compatible_from from turbo_migrations where version = %s", SCHEMA_VERSION) == [(3,)]
