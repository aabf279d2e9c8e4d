"""`agent_files`: what runs leave in it, who reads it, and what becomes of it with its task."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support import prefork
from tests.support.prefork import TURBO
from tests.support.stores import Stores
from tests.support.workers import Bench
from turbo.client.client import Client
from turbo.db.file_store import FileStore
from turbo.db.lane import Lane
from turbo.domain.claim import ClaimRef
from turbo.domain.kept import KeptFile

PROGRAM = """
mkdir -p report && echo hello > report/a.html && ln -s /etc/passwd passwd.html && printf 'x\\033[2J' > '..' 2>/dev/null
printf 'odd' > "$(printf 'line\\nbreak.html')"
cat > /dev/null
exit "$1"
"""


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator[Bench]:
    one = Bench(dsn, tmp_path)
    yield one
    one.close()


def start(bench: Bench, code: int = 0) -> None:
    config = bench.config(name="w", slots=2)
    command = ["/bin/sh", "-c", PROGRAM, "sh", str(code)]
    config["executors"] = {"files": {"kind": "command", "command": command, "files": ["**/*.html"]}}
    config["routes"] = {"default": "files"}
    bench.start(config).listening()


def turbo(bench: Bench, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return prefork.run_text([TURBO, *arguments], env={**os.environ, "TURBO_DSN": bench.dsn}, cwd=cwd)


def test_files_are_read_from_anywhere_and_go_with_the_task(bench: Bench) -> None:
    start(bench)
    bench.insert("t", {})
    listed = bench.wait("t")["output_data"]["files"]
    assert [one["path"] for one in listed] == ["line\nbreak.html", "report/a.html", "passwd.html"]
    assert listed[-1]["left_out"] == "it is a link, not a regular file"
    with Client(bench.dsn) as client:
        assert [one.path for one in client.files("t")] == ["line\nbreak.html", "report/a.html"]
        assert client.file("t", "report/a.html") == b"hello\n"
        assert client.diff("t") is None

    here = bench.path / "here"
    here.mkdir()
    shown = turbo(bench, "files", "t", cwd=here)
    assert "report/a.html" in shown.stdout
    assert len(shown.stdout.splitlines()) == 3, "a name with a newline is one line"
    assert turbo(bench, "files", "t", "--get", "report/a.html", cwd=here).returncode == 0
    assert (here / "a.html").read_text() == "hello\n"
    assert "is there already" in turbo(bench, "files", "t", "--get", "report/a.html", cwd=here).stderr
    assert turbo(bench, "files", "t", "--get", "report/a.html", "--force", cwd=here).returncode == 0
    assert turbo(bench, "files", "t", "--get", "report/a.html", "--to", "-", cwd=here).stdout == "hello\n"
    assert turbo(bench, "files", "t", "--get", "line\nbreak.html", cwd=here).returncode == 2

    bench.sql("update agent_files set path = '../../up' where path <> 'report/a.html'")
    assert turbo(bench, "files", "t", "--get", "../../up", cwd=here).returncode == 0
    assert sorted(one.name for one in here.iterdir()) == ["a.html", "up"]
    assert not (bench.path.parent / "up").exists()

    bench.sql("delete from agent_tasks where task_id = 't'")
    assert bench.sql("select * from agent_files") == []


def test_refused_file_is_a_note_of_the_result(bench: Bench) -> None:
    bench.sql("alter table agent_files add check (path <> 'report/a.html')")
    start(bench)
    bench.insert("t", {})
    row = bench.wait("t")
    assert row["status"] == "completed"
    (note,) = [one for one in row["output_data"]["files"] if one["path"] == "report/a.html"]
    assert "refused it" in note["left_out"]


async def test_late_run_keeps_its_files_and_strangers_none(stores: Stores, db: psycopg.Connection, dsn: str) -> None:
    files = FileStore(Lane(dsn, "turbo files"))
    db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
    (task,) = (await stores.claims.claim("default", 1, may_idle=False)).tasks
    db.execute("update agent_tasks set status = 'cancelled' where task_id = 't'")
    file = KeptFile("a", b"\x00\xff")
    assert await files.write(ClaimRef("t", task.fencing_token), file)
    assert await files.write(ClaimRef("t", task.fencing_token), file), "a replay"
    assert not await files.write(ClaimRef("t", task.fencing_token + 1000), file)
    assert not await files.write(ClaimRef("gone", task.fencing_token), file)
    found = db.execute("select fencing_token, path, bytes from agent_files").fetchall()
    assert found == [(task.fencing_token, "a", b"\x00\xff")]
