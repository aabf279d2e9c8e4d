"""The transcript service: bounded, never in the way of a run, and honest about what is missing."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg
import pytest

from tests.support.proxy import Proxy, proxy
from tests.support.stores import Stores
from turbo.db.lane import Lane
from turbo.domain.run import Running
from turbo.domain.task import Task
from turbo.domain.transcript import TranscriptSink
from turbo.observability.metrics import Metrics
from turbo.runtime.problems import Problems
from turbo.worker import transcripts
from turbo.worker.transcripts import TranscriptWriter


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "WRITE_SECONDS", 0.1)
    monkeypatch.setattr(transcripts, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(transcripts, "RETRY_SECONDS", 0.2)


@asynccontextmanager
async def writing(dsn: str, **limits: int) -> AsyncIterator[tuple[TranscriptWriter, Metrics]]:
    metrics = Metrics()
    one = TranscriptWriter(Lane(dsn, "turbo transcripts"), ["claude"], metrics, Problems(), **limits)  # type: ignore[arg-type]
    crashed: list[BaseException] = []
    one.start(lambda _name, error: crashed.append(error))
    yield one, metrics
    await one.stop()
    assert not crashed


async def claimed(stores: Stores, db: psycopg.Connection, task_id: str = "t") -> Running:
    db.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [task_id])
    (task,) = (await stores.claims.claim("default", 1, may_idle=False)).tasks
    return Running(task, "claude", None)


def lines(db: psycopg.Connection, task_id: str = "t") -> list[str]:
    query = "select lines from agent_transcripts where task_id = %s order by batch"
    return [line for (text,) in db.execute(query, [task_id]) for line in text.splitlines()]


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not what():
            await asyncio.sleep(0.02)


def ended(db: psycopg.Connection, task_id: str = "t") -> bool:
    return any('"turbo_end"' in line for line in lines(db, task_id))


async def test_lines_come_in_order_with_an_end(stores: Stores, db: psycopg.Connection, dsn: str) -> None:
    run = await claimed(stores, db)
    async with writing(dsn) as (writer, metrics):
        sink = writer.open(run)
        sink.conceal(["a-secret-value"])
        for number in range(500):
            sink.line(b"line %d a-secret-value" % number)
        sink.session("s.jsonl", [{"type": "user", "n": 1}])
        writer.run_ended(run.claim)
        await until(lambda: ended(db))
        assert lines(db)[1:-1] == [*(f"line {n} [redacted]" for n in range(500)), '{"type":"user","n":1}']
        assert json.loads(lines(db)[-1]) == {"type": "turbo_end", "complete": True}
        await until(lambda: metrics.transcript_batches._value.get() >= 3)  # counted after the commit


async def test_run_without_a_line_leaves_nothing(stores: Stores, db: psycopg.Connection, dsn: str) -> None:
    run = await claimed(stores, db)
    async with writing(dsn) as (writer, _):
        writer.open(run)
        writer.run_ended(run.claim)
        light = writer.open(Running(Task("l", "x", "x"), "noop", None))
        assert not light.wanted
    assert lines(db) == []


async def test_more_than_a_run_may_have_is_noted(stores: Stores, db: psycopg.Connection, dsn: str) -> None:
    run = await claimed(stores, db)
    async with writing(dsn, most_of_a_run=10_000) as (writer, _):
        sink = writer.open(run)
        for _ in range(100):
            sink.line(b"x" * 1000)
        writer.run_ended(run.claim)
        await until(lambda: ended(db))
    stored = lines(db)
    assert sum(map(len, stored)) < 11_000
    assert "longer than 10,000 bytes" in stored[-2]
    assert json.loads(stored[-1])["complete"] is False


async def test_too_deep_and_unreadable_rows_are_noted(stores: Stores, db: psycopg.Connection, dsn: str) -> None:
    run = await claimed(stores, db)
    async with writing(dsn) as (writer, _):
        sink = writer.open(run)
        sink.later(b"[" * 200_000, lambda _line: None)
        sink.line(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
        sink.line(b"after \xff \x00")
        writer.run_ended(run.claim)
        await until(lambda: ended(db))
    stored = lines(db)
    assert "could not be read" in stored[0]
    assert stored[-2] == "after \ufffd \\x00"
    assert json.loads(stored[-1])["complete"] is False


def _talk(sink: TranscriptSink, seconds_of_it: int) -> None:
    for number in range(seconds_of_it):
        sink.line(b"said %d " % number + b"x" * 1000)


async def test_database_away_holds_up_nobody_and_is_noted(stores: Stores, db: psycopg.Connection, dsn: str) -> None:
    run, other = await claimed(stores, db), await claimed(stores, db, "o")
    address = psycopg.conninfo.conninfo_to_dict(dsn)
    with proxy(str(address["host"]), int(str(address["port"]))) as between:
        through = psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=_port(between))
        async with writing(through, most_waiting=50_000) as (writer, metrics):
            sink = writer.open(run)
            sink.line(b"before")
            await until(lambda: lines(db) == ["before"])
            between.turn_to(1)  # nobody is there
            between.cut()
            begun = asyncio.get_running_loop().time()
            _talk(sink, 100)
            writer.run_ended(run.claim)
            late = writer.open(other)
            late.line(b"of another")
            writer.run_ended(other.claim)
            assert asyncio.get_running_loop().time() - begun < 1, "the run never waits"
            await asyncio.sleep(0.3)
            assert lines(db) == ["before"], "the fault bit"
            assert metrics.transcript_dropped._value.get() > 40_000
            between.turn_to(int(str(address["port"])))
            await until(lambda: ended(db) and ended(db, "o"))
    stored = lines(db)
    assert stored[1].startswith("said 0 ")
    assert any("lines were dropped" in line for line in stored)
    assert json.loads(stored[-1])["complete"] is False
    assert sum(map(len, stored)) < 60_000


def _port(between: Proxy) -> int:
    return int(between.port)


async def test_deleted_task_ends_its_transcript(stores: Stores, db: psycopg.Connection, dsn: str) -> None:
    run, other = await claimed(stores, db), await claimed(stores, db, "o")
    async with writing(dsn) as (writer, _):
        sink = writer.open(run)
        sink.line(b"one")
        await until(lambda: lines(db) == ["one"])
        db.execute("set session_replication_role = replica")
        db.execute("delete from agent_tasks where task_id = 't'")
        sink.line(b"two")
        writer.run_ended(run.claim)
        writer.open(other).line(b"others go on")
        await until(lambda: lines(db, "o") == ["others go on"])
        assert lines(db) == ["one"]
