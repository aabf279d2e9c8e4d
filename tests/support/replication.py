"""Two nodes of the wheel: a primary, and a standby made by `pg_basebackup -R` that streams from it.

    running ──cut()──▶ the standby hears nothing more ──kill() | freeze()──▶ the primary is gone ──promote()──▶ the other

Both end with the test, or with its process. `dsn` names both hosts, as an operator's DSN does.
"""

import contextlib
import os
import pwd
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.support import processes as running
from tests.support.database import embedded_arguments, migrated_server, place
from tests.support.waiting import gone, until
from turbo import embedded


@dataclass
class Nodes:
    """`primary` and `standby` as they were at the start; `promote` changes what they are, not their names."""

    primary: embedded.Server
    standby: embedded.Server
    _stopped: list[psutil.Process] = field(default_factory=list)

    @property
    def dsn(self) -> str:
        """Both hosts, the first primary first; no target_session_attrs: turbo sets its own."""
        ports = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return f"postgresql://postgres@{ports}/postgres"

    def caught_up(self) -> None:
        """Wait until the standby has replayed everything that is committed now."""
        with psycopg.connect(self.primary.dsn, autocommit=True) as db:
            row = db.execute("select pg_current_wal_insert_lsn()::text").fetchone()
            assert row is not None
            db.execute("select txid_current()")  # a commit, or what lies in a buffer would not be sent
        until(
            lambda: (
                one(self.standby.dsn, "select coalesce(pg_last_wal_replay_lsn() >= %s::pg_lsn, false)", row[0]) is True
            ),
            what="the standby has caught up",
        )

    def cut(self) -> None:
        """From now on nothing that the primary commits reaches the standby: its WAL sender is frozen."""
        pid = one(self.primary.dsn, "select pid from pg_stat_replication")
        assert pid, "the standby streams"
        self._stopped += running.freeze(pid)

    def kill(self) -> None:
        """SIGKILL to the primary with everything it runs, as when its host loses power."""
        processes = self._processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        until(lambda: all(gone(p) for p in processes), what="the primary is gone")
        self._stopped.clear()

    def freeze(self) -> None:
        """SIGSTOP to the primary with everything it runs: its sockets stay open and nothing answers."""
        self._stopped += running.freeze(self.primary.pid)

    def thaw(self) -> None:
        running.thaw(self._stopped)
        self._stopped.clear()

    def promote(self) -> None:
        """The standby becomes the primary; it takes writes when this returns."""
        self.standby.run("pg_ctl", "-D", str(self.standby.data_dir), "-w", "-s", "promote")

    def _processes(self) -> list[psutil.Process]:
        postmaster = psutil.Process(self.primary.pid)
        return [postmaster, *postmaster.children(recursive=True)]


@contextlib.contextmanager
def standby_of(primary: embedded.Server) -> Iterator[embedded.Server]:
    """A standby that streams from it."""
    home = Path(tempfile.mkdtemp(prefix="turbo-pg-standby-", dir=place()))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        home.chmod(0o755)
        data_dir = home / "data"
        data_dir.mkdir(mode=0o700)
        if os.geteuid() == 0:
            user = pwd.getpwnam(embedded.SERVER_USER)
            os.chown(data_dir, user.pw_uid, user.pw_gid)
        copy = ("-D", str(data_dir), "-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres", "-R", "-c", "fast")
        primary.run("pg_basebackup", *copy, "-X", "stream")
        started = embedded.start(data_dir, **embedded_arguments())  # type: ignore[arg-type]
        standby = stack.enter_context(embedded.guarded(started))
        streams(primary)
        yield standby


def streams(primary: embedded.Server) -> None:
    """Wait until its standby does."""
    until(lambda: one(primary.dsn, "select state from pg_stat_replication") == "streaming", what="streaming")


@contextlib.contextmanager
def nodes(*, synchronous: bool = False) -> Iterator[Nodes]:
    """A migrated pair, the standby streaming. `synchronous`: a commit waits for the standby, while this primary lives."""
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(migrated_server({}))
        standby = stack.enter_context(standby_of(primary))
        pair = Nodes(primary, standby)
        stack.callback(pair.thaw)
        if synchronous:
            with psycopg.connect(primary.dsn, autocommit=True) as db:
                db.execute("alter system set synchronous_standby_names = '*'")
                db.execute("select pg_reload_conf()")
            until(lambda: one(primary.dsn, "select sync_state from pg_stat_replication") == "sync", what="synchronous")
        yield pair


@contextlib.contextmanager
def bare_client(dsn: str) -> Iterator["BareClient"]:
    """What a plain psycopg client with the same DSN sees, for comparison: when it can write again."""
    client = BareClient(dsn)
    client.thread.start()
    try:
        yield client
    finally:
        client.stop.set()
        client.thread.join(30)


class BareClient:
    """Connects as libpq does, one host after the other, and inserts a task; again until that works."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.stop = threading.Event()
        self.wrote_at: float | None = None  # time.time()
        self.refused = 0
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self.stop.is_set():
            try:
                with psycopg.connect(
                    self.dsn, target_session_attrs="read-write", connect_timeout=2, autocommit=True
                ) as db:
                    db.execute("insert into agent_tasks (task_id, task_description) values ('bare', 'x')")
                self.wrote_at = time.time()
                return
            except psycopg.Error:
                self.refused += 1
                time.sleep(0.02)


def one(dsn: str, query: str, *parameters: object) -> Any:
    """The first column of the first row, None without one."""
    with psycopg.connect(dsn, autocommit=True) as db:
        row = db.execute(query, parameters).fetchone()
        return row and row[0]
