"""Real `turbo worker` processes, and a ledger that the tasks' own program writes, outside turbo."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support import prefork
from tests.support.prefork import PROGRAMS, TURBO, Process
from tests.support.sessions import Sessions
from tests.support.waiting import until

AS_A_SHELL_DOES = (sys.executable, TURBO, "worker", "--config")
"""Not forked (tests.support.prefork): for tests of the start itself, and of what an interpreter sets up at its start."""

UNGUARDED = (sys.executable, PROGRAMS / "unguarded.py")

LEDGER_PROGRAM = """
import json, os, sys, time
task = json.load(sys.stdin)
data = task["input_data"] or {}
line = json.dumps({"task": task["task_id"], "attempt": task["attempt"], "pid": os.getpid(), "at": time.time()})
with open(sys.argv[1], "a") as ledger:
    ledger.write(line + "\\n")
for number in range(data.get("children", 0)):
    import subprocess  # not for every run: it is a third of what this program costs
    child = subprocess.Popen(["sleep", "600"], start_new_session=bool(number))
    with open(sys.argv[1] + ".pids", "a") as pids:
        pids.write(f"{child.pid}\\n")
if data.get("kill_worker"):
    os.kill(int(open(sys.argv[1] + ".worker").read()), 9)
time.sleep(data.get("seconds", 0))
while "gate" in data and not os.path.exists(data["gate"]):
    time.sleep(0.01)
print(json.dumps({"done": task["task_id"]}) if not data.get("raw") else eval(data["raw"]))
sys.exit(data.get("exit", 0))
"""


@dataclass
class WorkerProcess:
    process: Process
    log_path: Path
    state_dir: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def worker_id(self) -> str:
        return re.search(r"worker (\S+-\d+-[0-9a-f]{6}) ", self.log)[1]  # type: ignore[index]

    def said(self, text: str, seconds: float = 20.0, times: int = 1) -> None:
        until(
            lambda: self.log.count(text) >= times or self.process.poll() is not None,
            seconds,
            lambda: f"{text!r} in\n{self.log}",
        )
        assert self.log.count(text) >= times, f"the worker ended without saying {text!r}:\n{self.log}"

    def listening(self) -> "WorkerProcess":
        self.said("listening on channel")
        return self

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(number)

    def metric(self, dsn: str, name: str, **labels: str) -> float:
        """A sample of its metrics page, 0 where there is none."""
        query = "select metrics_address from agent_workers where worker_id = %s"
        with psycopg.connect(dsn) as db:
            (address,) = db.execute(query, [self.worker_id]).fetchone() or (None,)
        page = urllib.request.urlopen(f"http://{address}/metrics").read().decode()
        samples = [s for family in text_string_to_metric_families(page) for s in family.samples]
        return next((s.value for s in samples if s.name == name and labels.items() <= s.labels.items()), 0.0)

    def stop(self) -> int:
        """TERM, and its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        return self.process.wait(timeout=60)


@dataclass
class Bench:
    """A database, a directory, a ledger; starts workers that all end with the test."""

    dsn: str
    path: Path
    workers: list[WorkerProcess] = field(default_factory=list)
    program: tuple[str | Path, ...] = (TURBO, "worker", "--config")
    sessions: Sessions = field(default_factory=Sessions, repr=False)

    @property
    def ledger(self) -> Path:
        return self.path / "ledger"

    def config(self, **worker: object) -> dict[str, Any]:
        program = self.path / "program.py"
        program.write_text(LEDGER_PROGRAM)
        command = [sys.executable, str(program), str(self.ledger)]
        return {
            "worker": {
                "name": "w",
                "slots": 2,
                "state_dir": str(self.path / "state"),
                "heartbeat_seconds": 1,
                "lease_seconds": 4,
            }
            | worker,
            "metrics": {"port": 0},
            "executors": {
                "ledger": {"kind": "command", "command": command, "grace_seconds": 1},
                "noop": {"kind": "python", "handler": "turbo.testing:noop"},
                "echo": {"kind": "python", "handler": "turbo.testing:echo"},
            },
            "routes": {"default": "ledger", "noop": "noop", "echo": "echo"},
            "retry": {"base_seconds": 0.1, "max_seconds": 0.2},
        }

    def start(
        self,
        config: dict[str, Any] | None = None,
        *arguments: str,
        dsn: str | None = None,
        listen_dsn: str | None = None,
        without: Sequence[str] = (),
        **worker: object,
    ) -> WorkerProcess:
        """`without` names guards of tests/support/programs/unguarded.py to take out."""
        program = (*UNGUARDED,) if without else self.program
        if without:
            arguments = (json.dumps(list(without)),)
        number = len(self.workers)
        file = self.path / f"worker{number}.yaml"
        file.write_text(yaml.safe_dump(config or self.config(**worker)))
        log = self.path / f"worker{number}.log"
        with log.open("wb") as out:
            environment = {**os.environ, "TURBO_DSN": dsn or self.dsn}
            if listen_dsn is not None:
                environment["TURBO_LISTEN_DSN"] = listen_dsn
            process = prefork.popen([*program, file, *arguments], env=environment, stdout=out, stderr=out)
        one = WorkerProcess(process, log, self.path / "state")
        self.workers.append(one)
        (self.path / "ledger.worker").write_text(str(process.pid))
        return one

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self.sessions.use(self.dsn) as db:
            cursor = db.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def insert(self, task_id: str, data: dict[str, Any] | None = None, **columns: object) -> None:
        names = ["task_id", "task_description", "input_data", *columns]
        values = [task_id, "x", json.dumps(data or {}), *columns.values()]
        self.sql(f"insert into agent_tasks ({', '.join(names)}) values ({', '.join(['%s'] * len(names))})", *values)

    def row(self, task_id: str) -> dict[str, Any]:
        with self.sessions.use(self.dsn) as db, db.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            return cursor.execute("select * from agent_tasks where task_id = %s", [task_id]).fetchone() or {}

    def wait(self, task_id: str, status: str = "completed", seconds: float = 30.0) -> dict[str, Any]:
        until(
            lambda: self.row(task_id).get("status") == status,
            seconds,
            lambda: f"{task_id} {status}; {self.row(task_id)}\n{self.logs()}",
        )
        return self.row(task_id)

    def runs(self) -> Counter[str]:
        """How often each task's program ran, by its own account."""
        return Counter(entry["task"] for entry in self.entries())

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.ledger.read_text().splitlines()] if self.ledger.exists() else []

    def trail(self, task_id: str) -> list[str]:
        return [
            r[0]
            for r in self.sql("select action_type from agent_actions where task_id = %s order by action_id", task_id)
        ]

    def logs(self) -> str:
        return "\n".join(f"--- {w.log_path.name}\n{w.log}" for w in self.workers)

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill(signal.SIGCONT)
                worker.process.terminate()
        for worker in self.workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(timeout=10)
            if worker.process.poll() is None:
                worker.kill()
                worker.process.wait(timeout=10)
        self.sessions.close()


@contextlib.contextmanager
def bench(dsn: str, path: Path) -> Iterator[Bench]:
    one = Bench(dsn, path)
    try:
        yield one
    finally:
        one.close()
