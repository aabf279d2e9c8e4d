"""A small fleet under load, to break: two worker processes that a supervisor starts again, and a backlog never empty.

The load is bound by slots, not by the machine: a run sleeps for most of its time, so a fleet that has recovered is as fast
as before, on a noisy machine too. Every run writes when it begins and when it ends into a ledger outside turbo.
"""

import contextlib
import itertools
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo

from tests.support.database import migrated_server
from tests.support.proxy import Proxy, proxy
from tests.support.repositories import GitHost, git_host
from tests.support.size import sized
from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess
from turbo import embedded
from turbo.client.client import Client

WORKERS, SLOTS, RUN_SECONDS = 2, sized(2, 4), sized(0.5, 0.3)
"""Small: 8 runs a second. Full: 27 a second, about what two cores can do."""
BACKLOG = 60
LEASE_SECONDS = 4
PROGRAM = """
case "$TURBO_TASK_ID" in *7)  # asks, once
  grep -q 'A<' || { printf '{"ask": {"text": "%s?"}}' "$TURBO_TASK_ID"; exit 76; };;
esac
printf '%s begin %s\\n' "$TURBO_TASK_ID" $$ >>"$1"; sleep "$2"; printf '%s end %s\\n' "$TURBO_TASK_ID" $$ >>"$1"
printf '{"by": %s}' $$
"""


@dataclass
class Fleet:
    """What a fault may lay its hands on."""

    server: embedded.Server
    bench: Bench
    proxy: Proxy | None
    git: GitHost | None = None
    without: Sequence[str] = ()
    workers: list[WorkerProcess] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)  # ids of tasks whose insert was acknowledged
    refused: int = 0  # inserts that failed
    restarts: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _fed: threading.Event = field(default_factory=threading.Event)

    # ── workers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def config(self, n: int) -> dict[str, Any]:
        state = self.bench.path / f"state{n}"
        config = self.bench.config(
            name=f"w{n}", slots=SLOTS, state_dir=str(state), lease_seconds=LEASE_SECONDS, drain_seconds=5
        )
        program = self.bench.path / "run.sh"
        program.write_text(PROGRAM)
        config["executors"]["work"] = {
            "kind": "command",
            "command": ["/bin/sh", str(program), str(self.bench.ledger), str(RUN_SECONDS)],
            "grace_seconds": 1,
            "ask": {},
        }
        if self.git is not None:  # each run begins with a fetch
            clone = self.bench.path / f"clone{n}"
            if not clone.exists():
                self.git.clone(clone)
            config["executors"]["work"]["workspace"] = {
                "kind": "worktree", "repo": str(clone), "ref": "origin/main", "fetch": True,
            }  # fmt: skip
        config["executors"]["block"] = {"kind": "python", "handler": "turbo.testing:block"}
        config["routes"] |= {"default": "work", "block": "block"}
        return config

    @property
    def dsn(self) -> str:
        """The workers' way to the database."""
        return conninfo.make_conninfo(self.server.dsn, port=self.proxy.port) if self.proxy else self.server.dsn

    def start(self, n: int) -> WorkerProcess:
        return self.bench.start(self.config(n), dsn=self.dsn, without=self.without)

    def supervise(self) -> None:
        """Start again whatever died, as launchd and systemd do."""
        while not self._stop.wait(0.2):
            for n, worker in enumerate(self.workers):
                if worker.process.poll() is not None:
                    self.restarts += 1
                    self.workers[n] = self.start(n)

    @property
    def backlog(self) -> int:
        """A run that fetches takes longer, and at the end all of it is to be done."""
        return BACKLOG if self.git is None else BACKLOG // 3

    # ── load ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def feed(self) -> None:
        """Keep the backlog full; what the database refuses is counted, and sent again under the same ids."""
        numbers = itertools.count()
        ids: list[str] = []
        db: psycopg.Connection[Any] | None = None
        while not self._stop.is_set() and not self._fed.is_set():
            try:
                if db is None:
                    db = psycopg.connect(self.server.dsn, autocommit=True, connect_timeout=2)
                row = db.execute("select count(*) from agent_tasks where status = 'pending'").fetchone()
                if row and row[0] < self.backlog:
                    ids = ids or [f"t{next(numbers)}" for _ in range(self.backlog // 2)]
                    db.execute(
                        "insert into agent_tasks (task_id, task_description) select i, 'x' from unnest(%s::text[]) i"
                        " on conflict do nothing",
                        [ids],
                    )
                    self.accepted.update(ids)
                    ids = []
            except psycopg.Error:
                self.refused += 1
                if db is not None:
                    db.close()
                    db = None
            self._stop.wait(0.1)
        if db is not None:
            db.close()

    def answer(self) -> None:
        """A person who answers whatever is asked, as soon as the database lets him."""
        while not self._stop.wait(0.1):
            with contextlib.suppress(psycopg.Error), psycopg.connect(self.server.dsn, connect_timeout=2) as db:
                db.execute("update agent_tasks set answer = 'A<' || task_id || '>' where status = 'waiting'")

    def drained(self, seconds: float = 60.0) -> None:
        """Feed no more, and wait until nothing is left to do."""
        self._fed.set()
        left = "select count(*) from agent_tasks where status in ('pending', 'scheduled', 'running', 'waiting')"
        until(lambda: self.bench.sql(left) == [(0,)], seconds, f"drained; {self.bench.logs()[-6000:]}")

    def stop(self) -> None:
        self._stop.set()

    def status(self) -> str:
        """What `turbo status` shows first."""
        try:
            with Client(self.server.dsn) as client:
                return "\n".join(finding.what for finding in client.fleet().problems)
        except psycopg.OperationalError as error:
            return f"cannot reach the database: {error}"

    # ── the truth, afterwards ───────────────────────────────────────────────────────────────────────────────────────

    def finished_at(self) -> list[float]:
        """When results of the load were recorded, seconds since 1970, in order."""
        query = (
            "select extract(epoch from executed_at)::float8 from agent_actions a"
            " where action_type = 'finished' and success and task_id like 't%%' order by 1"
        )
        return [at for (at,) in self.bench.sql(query)]

    def lost(self) -> int:
        """Acknowledged tasks that are not completed."""
        done = {t for (t,) in self.bench.sql("select task_id from agent_tasks where status = 'completed'")}
        return len(self.accepted - done)

    def recorded_twice(self) -> int:
        """A result, or an answer."""
        query = (
            "select task_id from agent_actions where action_type = 'finished' and success or action_type = 'answered'"
            " group by task_id, action_type having count(*) > 1"
        )
        return len(self.bench.sql(query))

    def ledger(self, what: str) -> Counter[str]:
        """Per task, how many runs began or ended."""
        if not self.bench.ledger.exists():
            return Counter()
        words = (line.split() for line in self.bench.ledger.read_text().splitlines())
        return Counter(word[0] for word in words if word[1] == what)


@contextlib.contextmanager
def fleet(
    path: Path, *, through_proxy: bool = False, fetching: bool = False, without: Sequence[str] = ()
) -> Iterator[Fleet]:
    """Up and loaded. `fetching`: its runs have worktrees, and fetch from a git host. `without`: guards of
    tests/support/programs/unguarded.py that its workers do without."""
    with contextlib.ExitStack() as stack:
        # WAL is flushed late on purpose: a crash then surely forgets claims, which do not wait for the disk.
        settings = {"max_connections": "60", "wal_writer_delay": "2s", "log_min_messages": "fatal"}
        server = stack.enter_context(migrated_server(settings))
        wire = stack.enter_context(proxy("127.0.0.1", server.port)) if through_proxy else None
        git = stack.enter_context(git_host(path / "git")) if fetching else None
        one = Fleet(server, Bench(server.dsn, path), wire, git, without)
        stack.callback(one.bench.close)
        one.workers = [one.start(n) for n in range(WORKERS)]
        for worker in one.workers:
            worker.listening()
        threads = [threading.Thread(target=work, daemon=True) for work in (one.feed, one.supervise, one.answer)]
        for thread in threads:
            thread.start()
        stack.callback(lambda: [thread.join(30) for thread in threads])
        stack.callback(one.stop)
        yield one


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
