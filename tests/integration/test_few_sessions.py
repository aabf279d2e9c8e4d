"""A database that gives a worker few sessions, or none: needs before courtesies, results before claims, and status says so."""

import asyncio
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo
from psycopg import sql as compose

from tests.support.rig import Rig, finished
from tests.support.waiting import until, until_async
from tests.support.workers import Bench, WorkerProcess
from turbo.db.lane import Lane
from turbo.doctor import Level, examine
from turbo.domain.claim import ClaimRef
from turbo.domain.problem import ProblemKind
from turbo.host.spool import Spool
from turbo.worker.completer import HOLD_SECONDS

CHATTY = """
import json, os, sys, time
task = json.load(sys.stdin)
while not os.path.exists(task["input_data"]["gate"]):
    print("line", time.time(), flush=True)
    time.sleep(0.1)
"""


class Role:
    """A login of its own, with what the owner of turbo's tables may do."""

    def __init__(self, dsn: str) -> None:
        self.name = f"limited_{secrets.token_hex(4)}"
        self._owner = dsn
        self.run("create role {} login in role {}", compose.Identifier(self._as_owner()))
        self.dsn = conninfo.make_conninfo(dsn, user=self.name)

    def _as_owner(self) -> str:
        return str(conninfo.conninfo_to_dict(self._owner)["user"])

    def run(self, statement: str, *more: compose.Composable) -> None:
        with psycopg.connect(self._owner, autocommit=True) as db:
            db.execute(compose.SQL(statement).format(compose.Identifier(self.name), *more))

    def limit(self, sessions: int) -> None:
        self.run("alter role {} connection limit {}", compose.Literal(sessions))

    def end(self, what: str) -> int:
        """End its sessions whose name begins so. How many there were."""
        query = "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s and application_name like %s"
        with psycopg.connect(self._owner, autocommit=True) as db:
            return len(db.execute(query, [self.name, f"{what}%"]).fetchall())

    def sessions(self) -> list[str]:
        query = "select split_part(application_name, ' ', 2) from pg_stat_activity where usename = %s order by 1"
        with psycopg.connect(self._owner, autocommit=True) as db:
            return [name for (name,) in db.execute(query, [self.name]).fetchall()]


@pytest.fixture
def role(dsn: str) -> Iterator[Role]:
    one = Role(dsn)
    yield one
    one.end("")
    one.run("drop role {}")


@pytest.fixture
def start(bench: Bench, role: Role) -> Callable[..., WorkerProcess]:
    program = bench.path / "chatty.py"
    program.write_text(CHATTY)

    def start(**worker: Any) -> WorkerProcess:
        config = bench.config(**({"slots": 4, "name": "w"} | worker))
        config["executors"]["chatty"] = {"kind": "command", "command": [sys.executable, str(program)]}
        config["routes"]["chatty"] = "chatty"
        return bench.start(config, dsn=role.dsn)

    return start


def problems(bench: Bench) -> dict[str, str]:
    found = bench.sql("select problems from agent_workers where state <> 'dead'")
    return {problem["kind"]: problem["what"] for (some,) in found for problem in some}


def test_progress_gives_its_session_to_results(bench: Bench, role: Role, start: Callable[..., WorkerProcess]) -> None:
    role.limit(4)
    start().listening()
    gate = bench.path / "gate"
    bench.insert("talks", {"gate": str(gate)}, task_type="chatty")
    until(lambda: bench.sql("select 1 from agent_progress"), what="progress took a session")
    if "results" in role.sessions():
        role.end("turbo results")
    bench.sql("insert into agent_tasks (task_id, task_description, task_type) values ('short', 'x', 'noop')")
    bench.wait("short", seconds=15)
    assert role.sessions() == ["claims", "heartbeat", "listener", "results"]
    gate.touch()
    bench.wait("talks")


def test_nothing_is_claimed_while_results_cannot_be_recorded(
    bench: Bench, role: Role, start: Callable[..., WorkerProcess]
) -> None:
    role.limit(3)  # the listener, the heartbeat, the claims
    worker = start().listening()
    many = "insert into agent_tasks (task_id, task_description, task_type) select 'n' || i, 'x', 'noop' from generate_series(1, 40) i"
    bench.sql(many)
    most = 0

    def named() -> bool:
        nonlocal most
        most = max(most, bench.sql("select count(*) from agent_tasks where status = 'running'")[0][0])
        return {"results_wait", "sessions"} <= problems(bench).keys()

    until(named, 30, lambda: f"status names it: {problems(bench)}\n{worker.log}")
    assert problems(bench)["results_wait"].startswith("claims nothing: results cannot be recorded: ")
    assert "no session for results" in problems(bench)["sessions"]
    assert most == 4, "running and unrecorded: never more than slots"
    assert worker.metric(bench.dsn, "turbo_slots", state="busy") == 4
    role.limit(10)
    until(lambda: bench.sql("select count(*) from agent_tasks where status = 'completed'") == [(40,)], 30)
    until(lambda: problems(bench) == {}, 10)


@pytest.fixture
def locks(bench: Bench) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(bench.dsn) as db:
        yield db


def test_locked_row_holds_up_no_other_result(bench: Bench, locks: psycopg.Connection[Any]) -> None:
    bench.start(slots=2).listening()
    bench.insert("locked", {"gate": str(bench.path / "gate")})
    bench.wait("locked", "running")
    locks.execute("select 1 from agent_tasks where task_id = 'locked' for update")
    (bench.path / "gate").touch()
    for number in range(6):
        bench.insert(f"other{number}")
    for number in range(6):
        bench.wait(f"other{number}", seconds=15)
    until(lambda: "is locked by another transaction" in problems(bench).get("refused_result", ""), 20)
    locks.rollback()
    bench.wait("locked", seconds=15)
    until(lambda: problems(bench) == {}, 10)


async def test_locked_rows_hold_back_no_claim_and_lose_no_result(dsn: str, tmp_path: Path) -> None:
    """Three of six rows. Each answer is a refusal for a lock, and the database answers all the same."""
    held: list[str | None] = []
    async with Rig(dsn, slots_size=6) as rig:
        lane = Lane(dsn, "results", lock_seconds=1.0)
        lane.prepare_statements(True)
        spool = Spool(tmp_path / "spool")
        completer = rig.completer(spool, lane=lane, hold_claims=held.append)
        for _ in range(6):
            await asyncio.to_thread(insert_one, dsn)
        tasks = [(await rig.claimed())[0] for _ in range(6)]
        completer.start(lambda _name, error: pytest.fail(str(error)))
        with psycopg.connect(dsn) as locks, completer.recorded.watch() as recorded:
            ids = [task.task_id for task in tasks[::2]]
            locks.execute("select from agent_tasks where task_id = any(%s) for update", [ids])
            for task in tasks:
                await completer.submit(finished(task, rig.worker_id), durable=False)
            for _ in range(3):
                await asyncio.wait_for(recorded.get(), 30)
            await until_async(lambda: rig.problems.count() == {ProblemKind.REFUSED_RESULT: 3}, 30)
            assert len(list(spool.pending())) == 3, "a drain or a crash loses none of them"
            assert held == []
            locks.rollback()
            for _ in range(3):
                await asyncio.wait_for(recorded.get(), 30)
        await completer.stop()
        await lane.close()


async def test_short_outage_holds_no_claim_back_and_a_long_one_does(dsn: str, role: Role, tmp_path: Path) -> None:
    """A switchover must not write presence rows; an outage that lasts must not pile up results."""
    held: list[str | None] = []
    async with Rig(dsn, slots_size=2) as rig:
        lane = Lane(role.dsn, "few results")
        completer = rig.completer(Spool(tmp_path / "spool"), lane=lane, hold_claims=held.append)
        completer.start(lambda _name, error: pytest.fail(str(error)))
        try:
            for seconds, expected in ((1.0, False), (HOLD_SECONDS + 1, True)):
                await rig.stores.notifier.wake_all("default")
                await asyncio.to_thread(insert_one, dsn)
                task, _ = await rig.claimed()
                await lane.close()
                role.run("alter role {} nologin")
                held.clear()
                begun = time.monotonic()
                claim = ClaimRef(task.task_id, task.fencing_token)
                rig.slots.give_back(claim, unrecorded=True)
                assert rig.slots.free == 1, "it keeps its slot"
                await completer.submit(finished(task, rig.worker_id), durable=True)
                await until_async(lambda begun=begun, seconds=seconds: time.monotonic() > begun + seconds)
                assert bool(held) == expected, held
                role.run("alter role {} login")
                await until_async(lambda: rig.slots.free == 2)
                # The slot is free with the answer, the claims when the whole batch has one.
                await until_async(lambda expected=expected: held[-1:] == ([None] if expected else []))
        finally:
            await completer.stop()
            await lane.close()


def insert_one(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("insert into agent_tasks (task_description) values ('x')")


@pytest.mark.parametrize(
    ("statement", "level", "what"),
    [
        ("alter role {} connection limit 3", Level.FAIL, "(CONNECTION LIMIT) allows 3 sessions; 0 live workers"),
        ("alter role {} connection limit 6", Level.WARN, "(CONNECTION LIMIT) allows 6 sessions"),
        ("alter role {} connection limit 50", Level.OK, "allows 50, and "),
        ("alter role {} connection limit -1", Level.OK, "may need 10 sessions; the server"),
    ],
)
def test_doctor_counts_sessions(dsn: str, role: Role, statement: str, level: Level, what: str) -> None:
    role.run(statement)
    (finding,) = [found for found in examine(role.dsn) if found.subject == "sessions"]
    assert finding.level is level, finding
    assert what in finding.what
    assert bool(finding.do) == (level is not Level.OK)


def test_doctor_counts_the_limit_of_the_database(dsn: str, role: Role) -> None:
    name = compose.Identifier(str(conninfo.conninfo_to_dict(dsn)["dbname"]))
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(compose.SQL("alter database {} connection limit 5").format(name))
    (finding,) = [found for found in examine(role.dsn) if found.subject == "sessions"]
    assert finding.level is Level.WARN
    assert "the database (CONNECTION LIMIT) allows 5 sessions" in finding.what


def test_kinds_that_stop_claims_come_first() -> None:
    kinds = list(ProblemKind)
    assert kinds.index(ProblemKind.RESULTS_WAIT) < kinds.index(ProblemKind.SESSIONS) < kinds.index(ProblemKind.DISK)
