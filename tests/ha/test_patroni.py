"""A real Patroni cluster of three under a fleet of four: whatever happens to the primary, nothing is lost, nothing is
recorded twice, and work goes on about as soon as a bare psycopg client can write again.

The cluster is in synchronous mode: what an inserter was told is stored, is stored. What the asynchronous mode may lose, and
how turbo repairs it, is tests/model and docs/operations.md.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psycopg
import pytest

from tests.support import patroni, workers
from tests.support.patroni import Cluster, Node
from tests.support.waiting import until
from tests.support.workers import Bench
from turbo.db.connect import cut
from turbo.migrate import migrate

pytestmark = [pytest.mark.xdist_group("patroni"), pytest.mark.timeout(170)]

PACE_SECONDS = 0.15
FAR = 30.0


@dataclass
class Load:
    """Inserts tasks without end, and sure of each; and a bare client that writes a row as often as it can."""

    dsn: str
    sent: list[str] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)  # when a bare client's commit was answered, time.time()
    stopping: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Load":
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._insert, self._write)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _insert(self) -> None:
        while not self.stopping.is_set():
            task_id = f"t{len(self.sent)}"
            query = "insert into agent_tasks (task_id, task_description) values (%s, 'x') on conflict do nothing"
            self._until_done(query, task_id)
            self.sent.append(task_id)
            self.stopping.wait(PACE_SECONDS)

    def _until_done(self, query: str, *parameters: object) -> None:
        while True:
            try:
                with psycopg.connect(self.dsn, autocommit=True) as db:
                    _execute(db, query, *parameters)
                    return
            except psycopg.Error:
                time.sleep(0.05)

    def _write(self) -> None:
        """What a careful program without turbo does: keeps a connection, and after an error makes a new one at once."""
        db: psycopg.Connection[tuple[object, ...]] | None = None
        while not self.stopping.is_set():
            try:
                if db is None:
                    db = psycopg.connect(self.dsn, autocommit=True)
                _execute(db, "update bare set at = clock_timestamp()")
                self.writes.append(time.time())
                time.sleep(0.01)
            except psycopg.Error:
                if db is not None:
                    db.close()
                db = None
                time.sleep(0.02)
        if db is not None:
            db.close()


def _execute(db: "psycopg.Connection[tuple[object, ...]]", query: str, *parameters: object) -> None:
    """With a deadline on this side: a frozen server acknowledges packets, and answers nothing for ever."""
    watchdog = threading.Timer(3.0, cut, (db,))
    watchdog.start()
    try:
        db.execute(query, parameters)  # type: ignore[call-overload]
    finally:
        watchdog.cancel()


@dataclass
class Fleet:
    cluster: Cluster
    bench: Bench
    load: Load
    say: Callable[[str], None]

    def survives(self, what: str, hit: Callable[[Node], None], *, moves: bool = True) -> None:
        """Do `hit` to the leader; then the figures, and that everything goes on."""
        old = self.cluster.whole()
        self.flows()
        began = time.time()
        with ThreadPoolExecutor(1) as aside:  # a switchover is answered well after the new primary takes writes
            done = aside.submit(hit, old)
            if not moves:
                done.result()
            new = until(lambda: self.writable(old if moves else None), 60, "somebody takes writes")
            writable = time.time()
            done.result()
        assert (new is not old) == moves, f"the fault bit: {old.name} → {new.name}"
        bare = until(
            lambda: next((at for at in self.load.writes if at >= writable), None), FAR, "the bare client writes"
        )
        claim = self.claimed_after(writable, new)
        self.say(
            f"{what}: writes again after {writable - began:.1f} s; first write of a bare client {bare - writable:.2f} s"
            f" later, first claim of turbo {claim - writable:.2f} s later"
        )
        assert claim - writable < FAR

    def writable(self, but: Node | None) -> Node | None:
        for node in self.cluster.nodes:
            if node is not but:
                try:
                    with psycopg.connect(node.dsn, autocommit=True, connect_timeout=1) as db:
                        db.execute("set statement_timeout = '1s'; set synchronous_commit = local")
                        db.execute("insert into probe default values")
                        return node
                except psycopg.Error:
                    continue
        return None

    def claimed_after(self, moment: float, node: Node) -> float:
        query = (
            "select extract(epoch from min(executed_at))::float8 from agent_actions"
            " where action_type = 'claimed' and executed_at > to_timestamp(%s)"
        )

        def first() -> float | None:
            try:
                with psycopg.connect(node.dsn, connect_timeout=2) as db:
                    row = db.execute(query, [moment]).fetchone()
            except psycopg.Error:
                return None
            return row[0] if row else None

        found: float = until(first, FAR, f"a claim\n{self.bench.logs()[-4000:]}")
        return found

    def flows(self) -> None:
        """Tasks are inserted and done at this moment."""
        leader = self.cluster.leader()
        assert leader is not None
        with psycopg.connect(leader.dsn, autocommit=True) as db:
            now = time.time()
            until(lambda: db.execute(
                "select count(*) > 3 from agent_tasks where completed_at > to_timestamp(%s)", [now]
            ).fetchone() == (True,), FAR, f"tasks are done\n{self.bench.logs()[-4000:]}")  # fmt: skip

    def nothing_is_lost_or_recorded_twice(self) -> str:
        leader = self.cluster.whole()
        with psycopg.connect(leader.dsn, autocommit=True) as db:
            until(lambda: db.execute(
                "select count(*) from agent_tasks where status not in ('completed', 'failed')"
            ).fetchone() == (0,), 40, "everything is done")  # fmt: skip
            rows = dict(db.execute("select task_id, status from agent_tasks").fetchall())
            recorded = dict(db.execute(
                "select task_id, count(*) from agent_actions where action_type = 'finished' and to_status = 'completed' group by 1"
            ).fetchall())  # fmt: skip
        assert set(rows) == set(self.load.sent), "lost, or from nowhere"
        assert set(rows.values()) == {"completed"}
        assert recorded == dict.fromkeys(self.load.sent, 1), "recorded twice, or not"
        runs = self.bench.runs()
        assert set(runs) == set(self.load.sent)
        twice = sum(n > 1 for n in runs.values())
        # A claim commits asynchronously: a failover may forget one, and then somebody else may be faster than its worker.
        assert twice <= len(self.bench.workers) * 2, f"run twice: {[t for t, n in runs.items() if n > 1]}"
        return f"{len(rows)} tasks, none lost, none recorded twice, {twice} run twice"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with patroni.cluster() as one:
        yield one


def kill(node: Node) -> None:
    assert node.signal(signal.SIGKILL) > 2


def freeze(node: Node) -> None:
    assert node.signal(signal.SIGSTOP) > 2


def read_only(node: Node) -> None:
    """It answers as leader, and refuses writes."""
    with psycopg.connect(node.dsn, autocommit=True) as db:
        db.execute("alter system set default_transaction_read_only = on")
        db.execute("select pg_reload_conf()")
    until(lambda: _refuses(node), 10, "the setting takes effect")
    time.sleep(2.0)  # long enough for claims, beats and results to run into it
    assert node.ask("/primary") == 200, "it says that it is the leader"
    with psycopg.connect(node.dsn, autocommit=True) as db:
        db.execute("set default_transaction_read_only = off")
        db.execute("alter system reset default_transaction_read_only")
        db.execute("select pg_reload_conf()")


def _refuses(node: Node) -> bool:
    try:
        with psycopg.connect(node.dsn, autocommit=True) as db:
            db.execute("insert into probe default values")
    except psycopg.errors.ReadOnlySqlTransaction:
        return True
    return False


def test_four_workers_survive_every_primary_failure(cluster, tmp_path, capsys):
    leader = cluster.whole()
    migrate(leader.dsn)
    with psycopg.connect(leader.dsn, autocommit=True) as db:
        db.execute("create table bare (at timestamptz); insert into bare values (now()); create table probe (n serial)")
    with workers.bench(cluster.dsn, tmp_path) as bench, Load(cluster.dsn) as load:
        for i in range(4):
            bench.start(name=f"w{i}", state_dir=str(tmp_path / f"s{i}"), heartbeat_seconds=2, lease_seconds=60)
        for worker in bench.workers:
            worker.listening()

        def say(line: str) -> None:
            with capsys.disabled():
                print(f"  {line}", flush=True)

        say(f"three nodes are up after {cluster.up_seconds:.1f} s")
        fleet = Fleet(cluster, bench, load, say)
        fleet.survives("switchover", lambda _: cluster.switch_over())
        fleet.survives("read-only leader", read_only, moves=False)
        assert any("read-only" in w.log for w in bench.workers), "the fault bit"
        killed = cluster.leader()
        assert killed is not None
        fleet.survives("kill -9 of the primary's node", kill)
        cluster.start(killed)
        frozen = cluster.whole()
        fleet.survives("SIGSTOP of the primary's node", freeze)
        frozen.signal(signal.SIGCONT)
        cluster.whole()
        fleet.flows()
        load.stopping.set()
        verdict = fleet.nothing_is_lost_or_recorded_twice()
        for worker in bench.workers:
            assert worker.process.poll() is None, "no worker gave up"
            assert "Traceback" not in worker.log
    say(verdict)
