"""Rows and output of every size: work on them stays short on the event loop, and what is too long fails with one clear line.

The CPU time of the loop's thread is counted between two turns of the loop, so a busy machine changes nothing.
"""

import asyncio
import gc
import io
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.rig import Rig
from turbo.domain.outcome import FailureKind, Outcome
from turbo.domain.run import Run
from turbo.domain.task import Task
from turbo.executors.claude.stream import StreamLine, Transcript
from turbo.executors.command import CommandExecutor
from turbo.executors.directories import Directories
from turbo.observability.log import LineFormatter
from turbo.process.journal import Journal
from turbo.process.output import Lines

STANDSTILL = 1.0
"""Seconds of computing in one turn of the loop: far below what the loop watch reports, far above what a limit allows."""


@pytest.fixture(autouse=True)
def only_own_objects() -> Iterator[None]:
    """The collector leaves what other tests left in this process: walking it costs a second, and a worker has none of it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@dataclass
class Lag:
    worst: float = 0.0


@asynccontextmanager
async def lag() -> AsyncIterator[Lag]:
    """The longest turn of the loop, in seconds of this thread's CPU time."""
    found = Lag()

    async def measure() -> None:
        while True:
            at = time.thread_time()
            await asyncio.sleep(0)
            found.worst = max(found.worst, time.thread_time() - at)
            await asyncio.sleep(0.002)

    ticking = asyncio.create_task(measure())
    await asyncio.sleep(0.01)
    yield found
    await asyncio.sleep(0.01)
    ticking.cancel()


@dataclass(frozen=True)
class Hostile:
    """`sql` is the row's columns; `kind` and `text` of its failure, None where it may run."""

    columns: dict[str, str]
    kind: FailureKind | None = None
    text: str = ""


def cwd(path: str) -> dict[str, str]:
    return {"input_data": f"jsonb_build_object('cwd', {path})"}


ROWS = {
    "a path of 4 MB": Hostile(
        cwd("repeat('/a', 2097152)"), FailureKind.REFUSED, "input_data.cwd is 4,194,304 bytes long; at most 4,096"
    ),
    "a path up and down": Hostile(cwd("'/tmp' || repeat('/../tmp', 500000)"), FailureKind.REFUSED, "at most 4,096"),
    "a word of 1 MB": Hostile(cwd("'/' || repeat('x', 1048576)"), FailureKind.REFUSED, "1,048,577 bytes"),
    "a relative word of 4 MB": Hostile(cwd("repeat('x', 4194304)"), FailureKind.REFUSED, "must be an absolute path"),
    "a path of 4,096": Hostile(cwd("'/' || repeat('x', 4095)"), FailureKind.REFUSED, ""),
    "input of 60 MB": Hostile(
        {"input_data": "jsonb_build_object('x', repeat('y', 60000000))"},
        FailureKind.BAD_REQUEST,
        "input_data is longer than 16,000,000 characters; worker.max_input_mb",
    ),
    "a million lists": Hostile(
        {"input_data": "('[' || repeat('[],', 1000000) || '[]]')::jsonb"}, FailureKind.BAD_REQUEST, "at most 500,000"
    ),
    "a table as one text": Hostile({"input_data": "jsonb_build_object('csv', repeat('1,2,3,', 1000000))"}),
    "a million short texts": Hostile(
        {"input_data": "('[' || repeat('\"\",', 1000000) || '1]')::jsonb"}, FailureKind.BAD_REQUEST, "at most 500,000"
    ),
    "lists as many as may be": Hostile({"input_data": "('[' || repeat('[],', 240000) || '[]]')::jsonb"}),
    "integers of 4,000 digits": Hostile(
        {"input_data": "('[' || repeat(repeat('9', 4000) || ',', 1900) || '1]')::jsonb"}
    ),
    "a number out of range": Hostile({"input_data": "'{\"path\": 1e400}'"}),
    "a fraction out of range": Hostile(
        {"input_data": "('{\"path\": ' || repeat('9', 400) || '.5}')::jsonb"}, FailureKind.BAD_REQUEST, "out of range"
    ),
    "a number of 5,000 digits": Hostile(
        {"input_data": "'{\"path\": 1e5000}'"}, FailureKind.BAD_REQUEST, "cannot be read"
    ),
    "nested too deep": Hostile(
        {"input_data": "(repeat('[', 5000) || repeat(']', 5000))::jsonb"}, FailureKind.BAD_REQUEST, "cannot be read"
    ),
    "nested deep": Hostile({"input_data": "(repeat('[', 500) || repeat(']', 500))::jsonb"}, None),
    "a type of 3 MB": Hostile(
        {"task_type": "repeat('t', 3000000)"}, FailureKind.BAD_REQUEST, "task_type is longer than 1,000 characters"
    ),
    "a description of 30 MB": Hostile(
        {"task_description": "repeat('password=''x ', 2500000)"},
        FailureKind.BAD_REQUEST,
        "task_description is longer than",
    ),
    "a value of 5 MB": Hostile({"input_data": "jsonb_build_object('path', repeat('z', 5000000))"}),
}


@pytest.fixture
def log_text() -> Any:
    """The worker's log, formatted as a worker formats it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("w"))
    logger = logging.getLogger("turbo")
    level, logger.level = logger.level, logging.DEBUG
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


async def execute(executor: CommandExecutor, task: Task, where: Path) -> Outcome:
    """As turbo.worker.runner does it."""
    if task.input_error is not None:
        return Outcome.failed(task.input_error, FailureKind.BAD_REQUEST, final=True)
    return await executor.run(Run(task, where / "work", where / "log"))


async def test_hostile_rows_never_hold_up_the_loop(dsn: str, tmp_path: Path, log_text: io.StringIO) -> None:
    executor = CommandExecutor(
        "argv",
        [sys.executable, "-c", "import sys; sys.stdin.read()", "{task_type}"],
        journal=Journal(tmp_path / "journal"),
        allowed_roots=[Path("/tmp")],
    )
    with psycopg.connect(dsn, autocommit=True) as db:
        for name, row in ROWS.items():
            columns = {"task_id": f"'{name}'", "task_description": "'x'", **row.columns}
            statement = f"insert into agent_tasks ({', '.join(columns)}) values ({', '.join(columns.values())})"
            db.execute(statement.encode())
    log, turns = logging.getLogger("turbo.worker.runner"), {}
    async with Rig(dsn, slots_size=len(ROWS)) as rig:
        async with lag() as claiming:
            tasks = [(await rig.claimed(60))[0] for _ in ROWS]
        turns["the claim"] = claiming.worst
        for task in tasks:
            async with lag() as running:
                outcome = await execute(executor, task, tmp_path)
                log.info("%s in %.1f s: %s", outcome.kind, 1.0, outcome.error)
            turns[task.task_id] = running.worst
            row = ROWS[task.task_id]
            assert outcome.failure_kind == row.kind, (task.task_id, str(outcome.error)[:300])
            assert row.text in (outcome.error or ""), task.task_id
            assert len(outcome.error or "") < 5000
            assert outcome.final or row.kind is None, "a retry would change nothing"
    assert max(turns.values()) < STANDSTILL, turns
    assert len(log_text.getvalue()) < 100_000


def computing(work: Callable[[], object]) -> float:
    at = time.process_time()
    work()
    return time.process_time() - at


OUTPUT = {
    "a line of 100 MB": lambda: [b"x" * 65536] * 1600,
    "empty lines": lambda: [b"\n" * 65536] * 16,
    "one document of empty lists": lambda: [b'{"type":"assistant","x":[' + b"[]," * 5_000_000 + b"[]]}\n"],
    "nested without end": lambda: [b"[" * 1_000_000 + b"\n"],
    "answers with ids of their own": lambda: [
        b"".join(
            json.dumps(
                {"type": "assistant", "message": {"id": f"m{n}", "content": "x", "usage": {"input_tokens": 1}}}
            ).encode()
            + b"\n"
            for n in range(first, first + 500)
        )
        for first in range(0, 40_000, 500)
    ],
    "a long text, then many short lines": lambda: [
        json.dumps({"type": "assistant", "message": {"content": "y " * 500_000}}).encode() + b"\n",
        *[b'{"type":"assistant","message":{}}\n' * 500] * 20,
    ],
    "a model for each result": lambda: [
        b"".join(
            json.dumps(
                {
                    "type": "result",
                    "model_usage_since_last_result": {f"m{n}": {"inputTokens": 10**17, "costUSD": 1e17}},
                }
            ).encode()
            + b"\n"
            for n in range(first, first + 100)
        )
        for first in range(0, 3000, 100)
    ],
}


@pytest.mark.parametrize("name", OUTPUT)
def test_output_of_an_agent_never_holds_up_the_loop(name: str) -> None:
    """One chunk is one turn of the loop (turbo.process.running)."""
    transcript = Transcript()

    def on_line(line: bytes, cut: bool) -> None:
        if transcript.read(line, cut) is StreamLine.ASSISTANT:
            assert transcript.input_tokens >= 0
            assert len(transcript.last_line) <= 500

    lines = Lines(on_line, 16 * 1024 * 1024)
    worst = max(computing(lambda chunk=chunk: lines.feed(chunk)) for chunk in OUTPUT[name]())
    lines.close()
    assert worst < STANDSTILL / 2
    assert len(transcript.usage) <= 20


async def test_directory_check_does_not_depend_on_the_rest(tmp_path: Path) -> None:
    """A path within its limit, of the shapes that take longest to resolve."""
    (tmp_path / "a").symlink_to("b/" + "../b/" * 700)
    (tmp_path / "b").mkdir()
    area = Directories(None, (tmp_path,))
    for path in (f"{tmp_path}/" + "a/../" * 700 + "b", f"{tmp_path}/" + "../" * 1300, "/" * 4000):
        run = Run(Task("t", "x", "x", input_data={"cwd": path}), tmp_path, tmp_path / "log")

        async def program(_directory: Path, _workspace: object) -> Outcome:
            return Outcome.succeeded()

        async with lag() as found:
            await area.run(run, {}, program)
        assert found.worst < STANDSTILL
