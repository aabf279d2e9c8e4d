"""docs/how-to/from-a-poller.md, block by block: the shell's in a shell, the SQL in psql, while a poller works."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import yaml

from tests.support.adoption import contents, old_columns
from tests.support.migrations import everything, query
from tests.support.odd_tables import PREDECESSOR, OldPoller
from tests.support.prefork import TURBO
from tests.support.waiting import until
from turbo import embedded

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "from-a-poller.md"
BLOCK = re.compile(r"^```(sh|sql|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Reader:
    """Somebody who follows the page: runs the next block of a section, in a directory of their own."""

    dsn: str
    path: Path
    sections: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        for part in PAGE.read_text().split("\n## ")[1:]:
            self.sections[part[0]] = BLOCK.findall(part)

    def runs(self, section: str, kind: str) -> str:
        """The next block of the section; what it printed."""
        found, text = self.sections[section].pop(0)
        assert found == kind, f"section {section} goes on with a block of {found}"
        if kind == "yaml":
            (self.path / "trial.yaml").write_text(text)
            return ""
        printed = ""
        for command in text.strip().splitlines() if kind == "sh" else [text]:
            if command.startswith("turbo worker"):
                self.start(command)
                continue
            argv = (
                ["bash", "-euo", "pipefail", "-c", command]
                if kind == "sh"
                else [self._psql(), "-X", "-v", "ON_ERROR_STOP=1", self.dsn]
            )
            done = subprocess.run(
                argv,
                input=None if kind == "sh" else text,
                env=self._env(),
                cwd=self.path,
                capture_output=True,
                text=True,
                timeout=90,
            )
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            printed += done.stdout
        return printed

    def start(self, command: str) -> None:
        log = self.path / f"worker{len(self.workers)}.log"
        with log.open("wb") as out:
            self.workers.append(
                subprocess.Popen(
                    command.split(), env=self._env(), cwd=self.path, stdout=out, stderr=out, stdin=subprocess.DEVNULL
                )
            )
        until(lambda: "listening on channel" in log.read_text(), what="the worker listens")

    def stop(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0
        self.workers.clear()

    def _env(self) -> dict[str, str]:
        return {**os.environ, "TURBO_DSN": self.dsn, "PATH": f"{TURBO.parent}:{os.environ['PATH']}"}

    def _psql(self) -> str:
        return str(embedded.binaries() / "psql")


@pytest.fixture
def reader(empty_dsn: str, tmp_path: Path) -> Iterator[Reader]:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        PREDECESSOR.make(connection, rows=2_000)
        connection.execute("update agent_tasks set started_at = started_at - interval '2 days'")
    (tmp_path / "worker.yaml").write_text(
        yaml.safe_dump(
            {
                "worker": {"name": "w", "slots": 2, "state_dir": str(tmp_path / "state")},
                "metrics": {"port": 0},
                "executors": {"noop": {"kind": "python", "handler": "turbo.testing:noop"}},
                "routes": {"default": "noop"},
            }
        )
    )
    one = Reader(empty_dsn, tmp_path)
    try:
        yield one
    finally:
        for worker in one.workers:
            worker.kill()
            worker.wait()


def test_every_block_of_the_page_runs_in_order(reader: Reader) -> None:
    dsn = reader.dsn
    columns = old_columns(dsn)
    before, untouched = everything(dsn), contents(dsn, columns)
    with OldPoller(dsn, PREDECESSOR, patience=6) as poller:
        reader.runs("2", "sh")
        assert everything(dsn) == before
        assert "-- note: view public.worker_load" in (reader.path / "plan.sql").read_text()
        reader.runs("3", "sh")
        assert "completed" in reader.runs("3", "sql")
        poller.does(2)

        reader.runs("4", "yaml")
        reader.runs("4", "sh")
        poller.does(1)
        printed = reader.runs("4", "sh")
        assert "trial" in printed
        task = query(dsn, "select status from agent_tasks where task_description = 'the first one'")
        assert task == [("completed",)]
        reader.stop()

        reader.runs("5", "sh")
        until(lambda: query(dsn, "select count(*) >= 3 from agent_tasks where fencing_token is not null") == [(True,)])
        poller.does(1)
        assert "turbo" in reader.runs("5", "sql")

        poller.stop()  # and one that dies in the middle
        query(dsn, "insert into agent_tasks (task_id, task_type, task_description, status, started_at)"
                   " values ('left', 'x', 'x', 'in_progress', now())")  # fmt: skip
        assert "left" in reader.runs("6", "sql")
        reader.runs("6", "sql")
        until(
            lambda: (
                query(dsn, "select status, fencing_token < 0 from agent_tasks where task_id = 'left'")
                == [("completed", True)]
            ),
            what="turbo runs what the poller left",
        )
    assert poller.errors == []

    # and back
    query(dsn, "insert into agent_tasks (task_description, run_after) values ('for later', now() + interval '1 hour')")
    with OldPoller(dsn, PREDECESSOR, patience=6) as poller:
        reader.stop()
        assert re.search(r"^ +0$", reader.runs("7", "sql"), re.MULTILINE)
        reader.runs("7", "sql")
        until(
            lambda: (
                query(dsn, "select status, assigned_worker_id from agent_tasks where task_description = 'for later'")
                == [("completed", "old-poller-1")]
            ),
            what="the poller runs what turbo had scheduled",
        )
        reader.runs("7", "sql")
        poller.does(2)
    assert poller.errors == []
    assert not any(reader.sections.values()), "a block that nobody has run"
    assert old_columns(dsn) == columns
    left = {row for row in everything(dsn) if row[0] != "column"} - set(before)
    assert not [row for row in left if "turbo" in str(row)]
    now = contents(dsn, columns)
    changed = {task for task, digest in untouched.items() if now[task] != digest}
    assert len(changed) <= 40, "only what waited has been changed"
