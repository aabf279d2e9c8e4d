"""What is done to the fleet, and how it is known to have been done. Each fault lasts as long as its block."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.chaos.fleet import LEASE_SECONDS, Fleet
from tests.support.processes import freeze, thaw
from tests.support.size import sized
from tests.support.waiting import until

Bites = Generator[list[str], None, None]
"""A fault appends to the list it yields what shows that it bit; an empty list at its end fails the scenario."""


@dataclass(frozen=True)
class Fault:
    name: str
    inject: Callable[[Fleet, float], AbstractContextManager[list[str]]]
    through_proxy: bool = False
    small_disk: bool = False
    fetching: bool = False
    at_least: float = 0.0  # seconds it must last to be what it says
    named: str = ""  # what `turbo status` says within a minute; "" where the fleet mends it at once, or it costs no task anything

    def __str__(self) -> str:
        return self.name


FAULTS: list[Fault] = []

UNREACHABLE = "cannot reach the database"

PROBE_SECONDS = 60.0
"""The longest pause between two probes of what is away."""


def fault(name: str, **more: Any) -> Callable[[Callable[[Fleet, float], Bites]], Callable[..., Any]]:
    def add(inject: Callable[[Fleet, float], Bites]) -> Callable[..., Any]:
        made = contextlib.contextmanager(inject)
        FAULTS.append(Fault(name, made, **more))
        return made

    return add


# ── the server ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@fault("restart (fast)", named=UNREACHABLE)
def restart(fleet: Fleet, seconds: float) -> Bites:
    with away(fleet, "fast") as bites:
        yield bites


@fault("crash (immediate) and recovery", named=UNREACHABLE)
def crash(fleet: Fleet, seconds: float) -> Bites:
    with away(fleet, "immediate") as bites:
        yield bites


@contextlib.contextmanager
def away(fleet: Fleet, mode: Any) -> Iterator[list[str]]:
    refused = fleet.refused
    bites: list[str] = []
    fleet.server.stop(mode)
    yield bites
    fleet.server.start_again()
    if fleet.refused > refused:
        bites.append(f"{fleet.refused - refused} inserts refused")


@fault("all of turbo's backends killed, once")
def backend_kill(fleet: Fleet, seconds: float) -> Bites:
    killed = kill_sessions(fleet)
    yield [f"{killed} sessions killed"] if killed >= 4 else []


@fault("all of turbo's backends killed, twice a second")
def repeated_kills(fleet: Fleet, seconds: float) -> Bites:
    with again(0.5, lambda: kill_sessions(fleet)) as counts:
        bites: list[str] = []
        yield bites
    if sum(counts) > 4:
        bites.append(f"{sum(counts)} sessions killed")


@fault("server frozen (SIGSTOP)", named=UNREACHABLE)
def frozen(fleet: Fleet, seconds: float) -> Bites:
    processes = freeze(fleet.server.pid)
    bites: list[str] = []
    try:
        yield bites
        with contextlib.suppress(psycopg.Error):
            psycopg.connect(fleet.server.dsn, connect_timeout=2).close()
            raise AssertionError("the frozen server answered")
        bites.append(f"{len(processes)} processes stopped, a connect timed out")
    finally:
        thaw(processes)


@fault("connections exhausted, turbo's ended", named=UNREACHABLE)
def exhaustion(fleet: Fleet, seconds: float) -> Bites:
    hogs: list[psycopg.Connection[Any]] = []
    refused = 0

    def hog() -> int:
        nonlocal refused
        with contextlib.suppress(psycopg.Error):
            while len(hogs) < 100:
                hogs.append(psycopg.connect(fleet.server.dsn, autocommit=True))
        refused += 1
        return 0

    hog()
    killer = hogs[0]
    with again(0.01, hog):
        for _ in range(3):  # whoever comes back before the hog is ended again
            killed = killer.execute(KILL).rowcount
            time.sleep(0.1)
        bites = [f"{len(hogs)} connections held, {killed} of turbo's left"] if refused else []
        yield bites
    for one in hogs:
        one.close()


@fault("idle in transaction, holding rows", named="is locked by another transaction")
def idle_in_transaction(fleet: Fleet, seconds: float) -> Bites:
    held = "select task_id from agent_tasks where status = %s order by run_after limit %s for update skip locked"
    with psycopg.connect(fleet.server.dsn) as db:
        ids = [
            r[0] for r in (*db.execute(held, ["pending", 20]).fetchall(), *db.execute(held, ["running", 1]).fetchall())
        ]
        bites: list[str] = []
        yield bites
        state = fleet.bench.sql("select status, count(*) from agent_tasks where task_id = any(%s) group by 1", ids)
        if sum(n for status, n in state if status in ("pending", "running")) == len(ids) > 20:
            bites.append(f"{len(ids)} rows held, one of them running")
        db.rollback()


@fault("long readers (held xmin)")
def long_readers(fleet: Fleet, seconds: float) -> Bites:
    readers = [psycopg.connect(fleet.server.dsn) for _ in range(2)]
    for reader in readers:
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select count(*) from agent_tasks")

    def read() -> int:
        for reader in readers:
            reader.execute("select count(*) from agent_tasks a, agent_actions b where a.task_id = b.task_id")
        return 1

    with again(0.05, read) as counts:
        bites: list[str] = []
        yield bites
        query = "select max(age(backend_xmin)) from pg_stat_activity where state <> 'idle' or backend_xmin is not null"
        held = fleet.bench.sql(query)[0][0]
    for reader in readers:
        reader.close()
    if held and held > 20 and counts:
        bites.append(f"xmin held back by {held} transactions")


@fault("insert burst")
def burst(fleet: Fleet, seconds: float) -> Bites:
    def insert(n: int) -> None:
        ids = [f"burst{n}-{time.time_ns()}-{i}" for i in range(500)]
        rows = "insert into agent_tasks (task_id, task_type, task_description) select i, 'noop', 'x' from unnest(%s::text[]) i"
        with psycopg.connect(fleet.server.dsn, autocommit=True) as db:
            for start in range(0, 500, 50):
                db.execute(rows, [ids[start : start + 50]])
        fleet.accepted.update(ids)

    writers = [threading.Thread(target=insert, args=(n,)) for n in range(4)]
    begun = time.monotonic()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    yield [f"2000 rows in {time.monotonic() - begun:.1f} s"]


# ── rows that the database refuses ──────────────────────────────────────────────────────────────────────────────────────


@fault("rows refused in claim and promotion", named="task refused.* cannot (be claimed|become pending)")
def refused_rows(fleet: Fleet, seconds: float) -> Bites:
    """They stand before all others: the highest priority, and due for the longest."""
    rule = "left(task_id, 7) <> 'refused' or turbo_rev = 0 or status in ('failed', 'completed')"
    fleet.bench.sql(f"alter table agent_tasks add constraint refuses check ({rule}) not valid")
    with psycopg.connect(fleet.server.dsn, autocommit=True) as db:
        db.execute("set session_replication_role = replica")
        db.execute(
            "insert into agent_tasks (task_id, task_type, task_description, task_priority, status, run_after)"
            " select 'refused' || n || clock_timestamp(), 'noop', 'x', 9, (array['pending', 'scheduled'])[1 + n % 2],"
            " now() - interval '1 day' from generate_series(1, 20) n"
        )
    bites: list[str] = []
    yield bites
    named = (
        "select count(*) from agent_workers w, jsonb_array_elements(w.problems) p where p ->> 'kind' = 'refused_row'"
    )
    until(lambda: fleet.bench.sql(named)[0][0], 10, "a worker names a refused row")
    bites.append(f"{fleet.bench.sql(named)[0][0]} problems named by workers")
    fleet.bench.sql("alter table agent_tasks drop constraint refuses")


@fault("a row refused in rescue and start-up", at_least=LEASE_SECONDS, named="cannot be taken back")
def refused_rescue(fleet: Fleet, seconds: float) -> Bites:
    """Whatever writes into one row of a worker is refused; then the worker is killed, and starts again on its host."""
    victim = fleet.workers[0]
    task_id = until(lambda: refused_while_it_runs(fleet, victim.worker_id), 20, "a row that it runs is refused")
    bites: list[str] = []
    victim.kill()
    said = f"task={task_id}"
    yield bites
    until(lambda: refused_in_log(fleet, said), 20, "the row is refused")
    ((state,),) = fleet.bench.sql("select status from agent_tasks where task_id = %s", task_id)
    fleet.bench.sql("alter table agent_tasks drop constraint refuses")
    if state == "running":
        bites.append(f"{task_id} stayed with its dead worker")


def refused_while_it_runs(fleet: Fleet, worker_id: str) -> str | None:
    """A task of this worker whose row takes nothing from now on; None if each one that was found had ended by then."""
    query = "select task_id from agent_tasks where status = 'running' and assigned_worker_id = %s"
    for (task_id,) in fleet.bench.sql(query + " limit 1", worker_id):
        fleet.bench.sql(f"alter table agent_tasks add constraint refuses check (task_id <> '{task_id}') not valid")
        if (task_id,) in fleet.bench.sql(query, worker_id):
            return str(task_id)
        fleet.bench.sql("alter table agent_tasks drop constraint refuses")
    return None


def refused_in_log(fleet: Fleet, task: str) -> bool:
    said = "it cannot be taken back from its dead worker"
    return any(said in line and task in line for worker in fleet.bench.workers for line in worker.log.splitlines())


# ── the workers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@fault("worker crash (SIGABRT)")
def worker_crash(fleet: Fleet, seconds: float) -> Bites:
    with died(fleet, signal.SIGABRT) as bites:
        yield bites


@fault("worker SIGKILL")
def worker_kill(fleet: Fleet, seconds: float) -> Bites:
    with died(fleet, signal.SIGKILL) as bites:
        yield bites


@contextlib.contextmanager
def died(fleet: Fleet, number: signal.Signals) -> Iterator[list[str]]:
    bites: list[str] = []
    victim = fleet.workers[0]
    victim.kill(number)
    yield bites
    if victim.process.wait(5) == -number:
        bites.append(f"pid {victim.pid} ended by {number.name}")


@fault("worker SIGSTOP past its lease", at_least=LEASE_SECONDS, named="worker w0.* (does not answer|is dead)")
def worker_stop(fleet: Fleet, seconds: float) -> Bites:
    """Until somebody else has done one of its tasks again."""
    worker = fleet.workers[0]
    done_again = (
        "select count(distinct r.task_id) from agent_actions r join agent_actions f using (task_id)"
        " where r.action_type = 'rescued' and f.action_type = 'finished' and f.action_id > r.action_id"
        " and r.executed_at > %s and f.fencing_token <> r.fencing_token"
    )
    since = fleet.bench.sql("select now()")[0][0]
    worker.kill(signal.SIGSTOP)
    bites: list[str] = []
    try:
        yield bites
        until(lambda: fleet.bench.sql(done_again, since)[0][0], 40, "one of its tasks is done by the other")
        bites.append(f"{fleet.bench.sql(done_again, since)[0][0]} of its tasks done by the other")
    finally:
        worker.kill(signal.SIGCONT)


@fault("a worker's event loop stands still", named="event loop")
def standstill(fleet: Fleet, seconds: float) -> Bites:
    """Until its watch has ended it, and another one has been started. Its task is closed before it does so again."""
    task = f"block{time.time_ns()}"
    fleet.bench.sql(
        "insert into agent_tasks (task_id, task_description, task_type, task_priority, input_data)"
        " values (%s, 'x', 'block', 1000, '{\"seconds\": 600}')",
        task,
    )
    close = "update agent_tasks set status = 'cancelled' where task_id = %s and status <> 'running' returning 1"
    bites: list[str] = []
    yield bites
    ended = until(
        lambda: [w for w in fleet.bench.workers if "ending this worker" in w.log and f"task={task}" in w.log],
        20,
        "the watch ends the worker",
    )
    until(lambda: fleet.bench.sql(close, task), 20, "its task is rescued, and closed", pause=0.002)
    bites.append(f"{len(ended)} worker ended by its watch, exit code {ended[0].process.wait(5)}")


@fault("database away, then its workers killed", at_least=2.0, named=UNREACHABLE)
def away_and_killed(fleet: Fleet, seconds: float) -> Bites:
    """What ended meanwhile is in the spool of a dead worker, and nowhere else."""
    with away(fleet, "fast") as bites:
        yield bites  # longer than a run: every program has ended
        for worker in list(fleet.workers):
            worker.kill()
            worker.process.wait()
            bites.append(f"pid {worker.pid} killed")


@fault("disk full", small_disk=True, named="claims nothing: ")
def disk_full(fleet: Fleet, seconds: float) -> Bites:
    fillers = []
    for n in range(len(fleet.workers)):
        filler = fleet.bench.path / f"state{n}" / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        fillers.append(filler)
    bites: list[str] = []
    yield bites
    warned = sum("spool is not writable" in worker.log for worker in fleet.workers)
    for filler in fillers:
        filler.unlink()
    if warned:
        bites.append(f"{warned} workers warned")


# ── what tasks depend on ────────────────────────────────────────────────────────────────────────────────────────────────


@fault("git host away", fetching=True, at_least=sized(2.0, 300.0), named="remotes of .* unavailable")
def git_host_away(fleet: Fleet, seconds: float) -> Bites:
    """Each run begins with a fetch. No attempt may be counted."""
    assert fleet.git is not None
    fleet.git.stop()
    bites: list[str] = []
    yield bites
    given_back = fleet.bench.sql("select count(*) from agent_actions where detail ->> 'outcome' = 'unavailable'")[0][0]
    fleet.git.start()
    resting = "select count(*) from agent_accounts where state <> 'open'"
    until(
        lambda: fleet.bench.sql(resting) == [(0,)], PROBE_SECONDS + 15, "each worker's probe has found it, in its turn"
    )
    if given_back:
        bites.append(f"{given_back} runs given back")
    ((counted, failed),) = fleet.bench.sql(
        "select count(*) filter (where retry_count > 0), count(*) filter (where status = 'failed') from agent_tasks"
    )
    assert (counted, failed) == (0, 0), f"git host away: {counted} tasks lost an attempt, {failed} failed"


# ── the network ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@fault("network delays 50 ms each way", through_proxy=True)
def delays(fleet: Fleet, seconds: float) -> Bites:
    assert fleet.proxy is not None
    fleet.proxy.delay, fleet.proxy.mode = 0.05, "delay"
    begun = time.monotonic()
    with psycopg.connect(fleet.dsn, autocommit=True) as db:
        db.execute("select 1")
    took = time.monotonic() - begun
    yield [f"connect and select took {took:.2f} s"] if took > 0.15 else []
    fleet.proxy.mode = "pass"


@fault("network drops everything", through_proxy=True, named="worker w.* (does not answer|is dead)")
def drops(fleet: Fleet, seconds: float) -> Bites:
    assert fleet.proxy is not None
    before, fleet.proxy.mode = fleet.proxy.lost_bytes, "drop"
    bites: list[str] = []
    yield bites
    fleet.proxy.mode = "pass"
    if fleet.proxy.lost_bytes > before:
        bites.append(f"{fleet.proxy.lost_bytes - before} bytes dropped")


@fault("connections half open", through_proxy=True)
def half_open(fleet: Fleet, seconds: float) -> Bites:
    assert fleet.proxy is not None
    forgotten = fleet.proxy.half_open()
    yield [f"{forgotten} connections half open"] if forgotten >= 4 else []


@fault("connections cut, twice a second", through_proxy=True)
def cuts(fleet: Fleet, seconds: float) -> Bites:
    assert fleet.proxy is not None
    bites: list[str] = []
    with again(0.5, fleet.proxy.cut) as counts:
        yield bites
    if sum(counts) > 4:
        bites.append(f"{sum(counts)} connections reset")


# ── tools ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

KILL = (
    "select pg_terminate_backend(pid) from pg_stat_activity"
    " where application_name like 'turbo %' and datname = current_database()"
)


def kill_sessions(fleet: Fleet) -> int:
    return len(fleet.bench.sql(KILL.replace("%", "%%")))


@contextlib.contextmanager
def again(every: float, work: Callable[[], int]) -> Iterator[list[int]]:
    """Do it now and every so many seconds, until the end of the block."""
    stop, counts = threading.Event(), []

    def loop() -> None:
        while not stop.is_set():
            with contextlib.suppress(psycopg.Error):
                counts.append(work())
            stop.wait(every)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join(30)


@contextlib.contextmanager
def small_disks(fleet_path: Any, count: int) -> Iterator[None]:
    """A tmpfs for each worker's state directory. Needs root."""
    mounted = []
    try:
        for n in range(count):
            disk = fleet_path / f"state{n}"
            disk.mkdir(mode=0o700)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", str(disk)], check=True)
            mounted.append(disk)
        yield
    finally:
        for disk in mounted:
            subprocess.run(["umount", "-l", str(disk)], check=True)


def possible(one: Fault) -> bool:
    return not one.small_disk or os.geteuid() == 0
