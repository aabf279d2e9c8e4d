"""`from turbo import Client, AsyncClient`, as a program uses them. The same tests for both."""

import asyncio
import inspect
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

import turbo
from tests.support.waiting import until
from tests.support.workers import Bench
from turbo import AsyncClient, BadField, Client, NewTask, UnknownTask, embedded
from turbo.client.schedules import AsyncSchedules, Schedules

TALKER = """
import json, pathlib, sys, time
data = json.load(sys.stdin)["input_data"]
for number, gate in enumerate(data["gates"]):
    print("line", number, flush=True)
    while not pathlib.Path(gate).exists():
        time.sleep(0.01)
print("the end", flush=True)
"""


class Blocking:
    """AsyncClient, driven from a test that blocks: every coroutine and every stream of it run to its end."""

    def __init__(self, dsn: str = "", connection: Any = None, runner: asyncio.Runner | None = None) -> None:
        self.runner = runner or asyncio.Runner()
        self.client = AsyncClient(dsn, connection)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        if not callable(method):  # a part of the client, as `schedules`
            part = Blocking(runner=self.runner)
            part.client = method
            return part

        def call(*arguments: Any, **named: Any) -> Any:
            found = method(*arguments, **named)
            return self.runner.run(found) if inspect.iscoroutine(found) else self._stream(found)

        return call

    def _stream(self, stream: Any) -> Iterator[Any]:
        while True:
            try:
                yield self.runner.run(anext(stream))
            except StopAsyncIteration:
                return


KINDS = ["sync", "async"]


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, dsn: str) -> Iterator[Any]:
    one = Client(dsn) if request.param == "sync" else Blocking(dsn)
    yield one
    one.close()


@pytest.fixture(params=KINDS)
def borrowed(request: pytest.FixtureRequest, dsn: str) -> Iterator[tuple[Any, Any]]:
    """A client on the caller's connection, and that connection's execute, commit and rollback."""
    if request.param == "sync":
        with psycopg.connect(dsn) as connection:
            yield Client(connection=connection), connection
    else:
        with asyncio.Runner() as runner:
            away = runner.run(psycopg.AsyncConnection.connect(dsn))

            class Connection:
                def __getattr__(self, name: str) -> Any:
                    found = getattr(away, name)
                    return (lambda *a: runner.run(found(*a))) if inspect.iscoroutinefunction(found) else found

            yield Blocking(connection=away, runner=runner), Connection()
            runner.run(away.close())


def test_task_is_submitted_awaited_and_read(client: Any, bench: Bench) -> None:
    bench.start().listening()
    one = client.submit("say it", task_type="echo", input_data={"a": [1, None]}, priority=9)
    assert one.created
    done = client.wait(one.task_id, timeout=30)
    assert (done.status, done.task_priority, done.finished) == ("completed", 9, True)
    assert done.output == done.output_data["output"]
    assert [a.action_type for a in client.trail(one.task_id)] == ["claimed", "finished"]
    assert client.resolve(one.task_id[:8]) == one.task_id
    assert [t.task_id for t in client.tasks(status="completed")] == [one.task_id]
    fleet = client.fleet()
    assert [w.state for w in fleet.workers] == ["up"]
    assert sum(f.tasks for f in fleet.finished) == 1


def test_many_tasks_submit_at_once_and_one_key_is_one_task(client: Any) -> None:
    first, second, third, fourth = client.submit_many(
        [
            NewTask("a"),
            NewTask("b", idempotency_key="k"),
            NewTask("c", task_id="mine"),
            NewTask("d", idempotency_key="k"),
        ]
    )
    assert (first.created, second.created, third, fourth.created) == (True, True, turbo.Submitted("mine", True), False)
    assert fourth.task_id == second.task_id
    assert client.submit("b again", idempotency_key="k") == turbo.Submitted(second.task_id, False)
    assert len(client.tasks()) == 3
    assert client.submit_many([]) == []


def test_cancel_and_retry_take_one_id_or_several(client: Any) -> None:
    names = [client.submit("x", task_id=name).task_id for name in ("a", "b", "c")]
    assert client.cancel("a") == [turbo.Changed("a", "cancelled")]
    assert {c.task_id for c in client.cancel(["a", "b", "nobody"])} == {"b"}
    assert client.retry("a") == [turbo.Changed("a", "pending")]
    assert client.get("b").status == "cancelled"
    assert client.retry(names[2:]) == []


def test_queues_and_accounts_are_paused_and_resumed(client: Any) -> None:
    assert client.pause_queue("night", "the backup runs")
    assert not client.pause_queue("night")
    assert client.served("night") == (False, True)
    assert client.resume_queue("night")
    assert not client.resume_queue("night")
    client.pause_account("max")
    assert client.resume_account("max")
    assert not client.account_used("max")


def test_progress_streams_until_the_end(client: Any, bench: Bench) -> None:
    program = bench.path / "talker.py"
    program.write_text(TALKER)
    config = bench.config()
    config["executors"]["talker"] = {"kind": "command", "command": [sys.executable, str(program)]}
    config["routes"]["default"] = "talker"
    bench.start(config).listening()
    gates = [bench.path / "gate0", bench.path / "gate1"]
    task_id = client.submit("x", input_data={"gates": [str(g) for g in gates]}).task_id
    lines, seen = [], []
    for view in client.progress(task_id, timeout=60):
        seen.append(view)
        if view.line is not None and view.line not in lines:
            lines.append(view.line)
            gates[len(lines) - 1].touch()
    assert lines == ["line 0", "line 1"]
    assert seen[-1].status == "completed"
    assert all(a != b for a, b in pairwise(seen)), "only what is new"


def test_invalid_calls_raise_clear_errors(client: Any) -> None:
    with pytest.raises(UnknownTask, match="no task 'nobody'"):
        client.wait("nobody")
    with pytest.raises(UnknownTask):
        list(client.progress("nobody"))
    with pytest.raises(BadField, match="queue"):
        client.submit("x", queue="No Queue")
    task_id = client.submit("x").task_id
    with pytest.raises(TimeoutError, match=r"is still pending after 0\.1 s"):
        client.wait(task_id, timeout=0.1)
    with pytest.raises(TimeoutError, match=r"is still pending after 0\.1 s"):
        list(client.progress(task_id, timeout=0.1))
    looks = client.progress(task_id, timeout=1.2)  # three of them
    assert next(looks).status == "pending"
    with pytest.raises(TimeoutError):
        next(looks)  # what has nothing new to say is not repeated
    with pytest.raises(psycopg.errors.DatetimeFieldOverflow):
        client.submit("x", run_after="2026-13-99")
    assert client.get(task_id).status == "pending", "an error of the database leaves the client usable"


# ── on the caller's connection ──────────────────────────────────────────────────────────────────────────────────────


def test_submit_joins_the_callers_transaction(borrowed: tuple[Any, Any], bench: Bench) -> None:
    client, connection = borrowed
    bench.start().listening()
    bench.sql("create table orders (id int primary key)")
    connection.execute("insert into orders values (1)")
    client.submit("ship order 1", task_id="gone", task_type="noop")
    connection.rollback()
    connection.execute("insert into orders values (2)")
    client.submit("ship order 2", task_id="kept", task_type="noop")
    assert client.get("kept").status == "pending", "seen inside"
    assert bench.row("kept") == {}, "and nowhere else before the commit"
    connection.commit()
    bench.wait("kept")
    assert bench.row("gone") == {}
    assert bench.sql("select id from orders") == [(2,)]
    client.close()
    assert not connection.closed, "it is the caller's"


def test_wait_inside_a_transaction_is_refused(borrowed: tuple[Any, Any]) -> None:
    client, connection = borrowed
    task_id = client.submit("x").task_id
    for wait in (client.wait, client.follow, client.progress):
        with pytest.raises(RuntimeError, match="a task is claimed only after its commit"):
            wait(task_id)
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


def test_connection_of_the_caller_is_left_unchanged(dsn: str) -> None:
    with psycopg.connect(
        dsn, row_factory=psycopg.rows.dict_row, cursor_factory=psycopg.RawCursor, autocommit=True
    ) as db:
        client = Client(connection=db)
        client.submit("x", task_id="t", input_data={"a": 1})
        db.execute("update agent_tasks set run_after = '4000-01-01 BC', output_data = $1", [json.dumps({"n": 1})])
        assert client.get("t").run_after.year == 1, "what no datetime can say is shown at its edge"
        with pytest.raises(psycopg.DataError):
            db.execute("select run_after from agent_tasks").fetchone()
        assert db.execute("select $1::int as n", [1]).fetchone() == {"n": 1}


# ── outages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
def test_wait_survives_a_database_outage(kind: str, own_server: embedded.Server) -> None:
    client: Any = Client(own_server.dsn) if kind == "sync" else Blocking(own_server.dsn)
    task_id = client.submit("x").task_id
    told: list[BaseException | None] = []
    looks = client.follow(task_id, away=told.append, timeout=60)
    assert next(looks)[0].status == "pending"
    own_server.stop("immediate")
    again = threading.Thread(target=lambda: until(lambda: told) and own_server.start_again())
    again.start()
    assert next(looks)[0].status == "pending"
    again.join()
    assert [error is None for error in told] == [False, True]
    with psycopg.connect(own_server.dsn, autocommit=True) as db:
        db.execute("update agent_tasks set status = 'cancelled'")
        assert [look[0].status for look in looks][-1] == "cancelled"
        db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name = 'turbo client' and datname = current_database()"
        )
    with pytest.raises(psycopg.OperationalError):
        client.get(task_id)
    assert client.get(task_id).status == "cancelled", "the next call has a new connection"
    own_server.stop("immediate")
    with pytest.raises(TimeoutError, match="the database is away"):
        client.wait(task_id, timeout=0.2)
    client.close()


# ── the interface ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def locked(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Another session holds agent_tasks; its rollback lets everybody in."""
    with psycopg.connect(dsn) as holder:
        holder.execute("lock table agent_tasks in access exclusive mode")
        yield holder


async def blocked(holder: psycopg.Connection[Any]) -> int:
    """The pid of the client's session, once its statement waits for the lock."""
    query = (
        "select pid from pg_stat_activity"
        " where wait_event_type = 'Lock' and application_name = 'turbo client' and datname = current_database()"
    )
    for _ in range(500):
        holder.execute("select pg_stat_clear_snapshot()")
        if row := holder.execute(query).fetchone():
            return int(row[0])
        await asyncio.sleep(0.01)
    raise AssertionError("no statement waits for the lock")


async def test_a_cancelled_task_leaves_the_others_working(dsn: str, locked: psycopg.Connection[Any]) -> None:
    async with AsyncClient(dsn) as client:
        dropped = asyncio.create_task(client.wait("one"))
        await blocked(locked)
        other = asyncio.create_task(client.submit("two"))
        await asyncio.sleep(0.05)
        for _ in range(2):  # as asyncio.timeout inside a TaskGroup that is cancelled
            dropped.cancel()
            await asyncio.sleep(0)
        locked.rollback()
        assert (await other).created
        with pytest.raises(asyncio.CancelledError):
            await dropped


async def test_a_cancelled_task_lets_the_next_one_in_at_once(dsn: str, locked: psycopg.Connection[Any]) -> None:
    async with AsyncClient(dsn) as client:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.wait("one")
        locked.rollback()
        assert (await client.submit("two")).created


async def test_one_tasks_outage_leaves_the_others_connected(dsn: str, locked: psycopg.Connection[Any]) -> None:
    async with AsyncClient(dsn) as client:
        patient = asyncio.create_task(client.wait("one", timeout=30))
        pid = await blocked(locked)
        other = asyncio.create_task(client.submit("two", task_id="one"))
        await asyncio.sleep(0.05)
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute("select pg_cancel_backend(%s)", [pid])
        await asyncio.sleep(0.2)
        locked.rollback()
        assert (await other).created
        await client.cancel("one")
        assert (await patient).status == "cancelled"


async def test_a_cancelled_task_spares_a_borrowed_connection(dsn: str, locked: psycopg.Connection[Any]) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, application_name="turbo client") as mine:
        client = AsyncClient(connection=mine)
        dropped = asyncio.create_task(client.get("one"))
        await blocked(locked)
        for _ in range(2):
            dropped.cancel()
            await asyncio.sleep(0)
        locked.rollback()
        with pytest.raises(asyncio.CancelledError):
            await dropped
        assert (await client.submit("two")).created
        assert not mine.closed


@pytest.mark.parametrize(("blocking", "awaiting"), [(Client, AsyncClient), (Schedules, AsyncSchedules)])
def test_both_clients_have_the_same_methods(blocking: type, awaiting: type) -> None:
    own = {"refused", "read", "backend_pid", "transcript_bell"}  # the commands' own
    sync = {n: m for n, m in vars(blocking).items() if not n.startswith("_") and n not in own}
    twin = {n: m for n, m in vars(awaiting).items() if not n.startswith("_")}
    assert sync.keys() == twin.keys()
    for name, method in sync.items():
        if isinstance(method, property):
            continue
        one, other = inspect.signature(method), inspect.signature(twin[name])
        assert one.parameters == other.parameters, name
        expected = str(one.return_annotation).replace("Iterator[", "AsyncIterator[")
        assert str(other.return_annotation) == expected, name
        assert inspect.iscoroutinefunction(twin[name]) != ("Iterator" in expected), name


def test_importing_turbo_is_light() -> None:
    program = "import sys; before = set(sys.modules); import turbo; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['turbo']"
    program = "import turbo\nfor name in turbo.__all__: getattr(turbo, name)\nfrom turbo import *\nClient, NewTask"
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="module 'turbo' has no attribute 'Clinet'"):
        turbo.Clinet  # noqa: B018


PROGRAM = """
import asyncio
from turbo import AsyncClient, Client, NewTask, TaskRow, UnknownTask

def main() -> list[str]:
    with Client("postgresql://localhost/x") as client:
        one = client.submit("Review src/auth.py", task_type="review", priority=8)
        done: TaskRow = client.wait(one.task_id, timeout=60.0)
        for view in client.progress(one.task_id):
            print(view.line, view.input_tokens + view.output_tokens)
        for standings in client.follow([one.task_id]):
            print([s.status for s in standings])
        return [c.task_id for c in client.cancel(done.task_id)]

async def twin() -> int | None:
    async with AsyncClient() as client:
        many = await client.submit_many([NewTask("a"), NewTask("b", queue="night")])
        async for view in client.progress(many[0].task_id):
            print(view.status)
        return (await client.get(many[1].task_id)).execution_time_ms

asyncio.run(twin())
"""
WRONG = """
from turbo import Client
Client().submit("x", priority="high")
number: int = Client().wait("t").status
"""


def test_user_program_passes_mypy(tmp_path: Path) -> None:
    program, wrong = tmp_path / "program.py", tmp_path / "wrong.py"
    program.write_text(PROGRAM)
    wrong.write_text(WRONG)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), program, wrong],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert [line.partition(":")[0] for line in errors] == ["wrong.py", "wrong.py"], done.stdout + done.stderr
