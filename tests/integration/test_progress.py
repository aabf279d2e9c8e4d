"""What a run says of itself is seen in the database while it runs, and costs nobody anything.

Writes are counted by a trigger of the test's own; the programs' own times by themselves, outside turbo.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support import messages_api, workers
from tests.support.claude import a_bench, bash, the_cli
from tests.support.rig import Rig
from tests.support.waiting import until
from tests.support.workers import Bench
from turbo.db.lane import Lane
from turbo.db.progress_store import ProgressStore
from turbo.domain.claim import ClaimRef
from turbo.domain.run import Progress, Running
from turbo.worker.progress import ProgressWriter

SPEAKER = """
import json, pathlib, sys, time
data = json.load(sys.stdin)["input_data"]
begun = time.monotonic()
for number in range(data["lines"]):
    print(data.get("say", "line"), number, flush=True)
    time.sleep(data.get("pause", 0))
spoken = time.monotonic() - begun
sys.stdout.buffer.write(bytes.fromhex(data.get("bytes", "")))
sys.stdout.flush()
while data.get("gate") and not pathlib.Path(data["gate"]).exists():
    time.sleep(0.01)
pathlib.Path(data["times"]).write_text(str(spoken))
"""

COUNT = """
create table writes (what text, task_id text, line text);
create function count_write() returns trigger language plpgsql as $$
begin
  insert into writes values (tg_op, coalesce(new.task_id, old.task_id), new.text);
  return null;
end $$;
create trigger count_write after insert or update or delete on agent_progress for each row execute function count_write();
"""


def speakers(bench: Bench, **worker: object) -> dict[str, object]:
    program = bench.path / "speaker.py"
    program.write_text(SPEAKER)
    config = bench.config(**worker)
    config["executors"]["speaker"] = {"kind": "command", "command": [sys.executable, str(program)]}
    config["routes"]["speaker"] = "speaker"
    return config


def speak(bench: Bench, task_id: str, **data: object) -> Path:
    """Insert it; the file that ends it once it exists."""
    gate = bench.path / f"{task_id}.gate"
    data = {"lines": 1, "gate": str(gate), "times": str(bench.path / f"{task_id}.times"), **data}
    bench.insert(task_id, data, task_type="speaker")
    return gate


def line(bench: Bench, task_id: str) -> str | None:
    """As a person asks: the line of the run that is going on."""
    found = bench.sql(
        "select p.text from agent_progress p join agent_tasks t using (task_id, fencing_token)"
        " where t.status = 'running' and task_id = %s",
        task_id,
    )
    return found[0][0] if found else None


def writes(bench: Bench, *what: str) -> list[str]:
    return [r[0] for r in bench.sql("select task_id from writes where what = any (%s)", list(what))]


def test_chatty_program_is_written_once_a_second(bench: Bench) -> None:
    bench.sql(COUNT)
    bench.start(speakers(bench)).listening()
    begun = time.monotonic()
    gate = speak(bench, "t", lines=300, pause=0.01)
    until(lambda: (line(bench, "t") or "").startswith("line"))
    until(lambda: line(bench, "t") == "line 299")
    seconds = time.monotonic() - begun
    written = len(writes(bench, "INSERT", "UPDATE"))
    assert 3 <= written <= seconds + 2, f"300 lines in {seconds:.1f} s"
    time.sleep(1.5)  # nothing new is said, so nothing is written: there is no event to wait for
    assert len(writes(bench, "INSERT", "UPDATE")) == written
    gate.touch()
    bench.wait("t")
    until(lambda: writes(bench, "DELETE") == ["t"], what="the row of a run that is over goes")
    assert bench.sql("select 1 from agent_progress") == []


def test_silent_tasks_write_nothing(bench: Bench) -> None:
    bench.sql(COUNT)
    bench.start(slots=8).listening()
    bench.sql(
        "insert into agent_tasks (task_id, task_type, task_description) select 'n' || i, 'noop', 'x'"
        " from generate_series(1, 200) i"
    )
    until(lambda: bench.sql("select count(*) from agent_tasks where status = 'completed'") == [(200,)])
    assert bench.sql("select 1 from writes") == []
    sessions = [
        r[0] for r in bench.sql("select application_name from pg_stat_activity where datname = current_database()")
    ]
    assert any(s.startswith("turbo claims") for s in sessions)
    assert not any(s.startswith("turbo progress") for s in sessions)


def test_several_runs_share_a_statement_with_changes_only(bench: Bench) -> None:
    bench.sql(COUNT)
    bench.start(speakers(bench, slots=4)).listening()
    loud = speak(bench, "loud", lines=100000, pause=0.005)
    quiet = speak(bench, "quiet", lines=1, say="only")
    until(lambda: line(bench, "quiet") == "only 0")
    until(lambda: writes(bench, "INSERT", "UPDATE").count("loud") >= 4)
    assert writes(bench, "INSERT", "UPDATE").count("quiet") == 1
    quiet.touch()
    bench.wait("quiet")
    bench.sql("update agent_tasks set status = 'cancelled' where task_id = 'loud'")
    bench.wait("loud", "cancelled")
    until(lambda: bench.sql("select 1 from agent_progress") == [])
    assert not loud.exists()


def test_unstorable_text_is_replaced_and_long_lines_are_cut(bench: Bench) -> None:
    bench.start(speakers(bench)).listening()
    gate = speak(bench, "t", say="a\x1b\u00fc" + "x" * 3000)
    odd = speak(bench, "odd", lines=0, bytes=b"\x00nul \xed\xa0\x80\n\r".hex())
    until(lambda: line(bench, "t"))
    until(lambda: line(bench, "odd"))
    assert line(bench, "t") == ("a\x1bü" + "x" * 3000)[:500]
    assert line(bench, "odd") == "\ufffdnul \ufffd\ufffd\ufffd"
    gate.touch()
    odd.touch()
    bench.wait("t")


def test_blocked_progress_table_delays_no_claim_or_result(bench: Bench) -> None:
    bench.start(speakers(bench, slots=4)).listening()
    with psycopg.connect(bench.dsn) as blocker:
        blocker.execute("lock table agent_progress in access exclusive mode")
        first = speak(bench, "first")
        until(
            lambda: bench.sql(
                "select 1 from pg_stat_activity where application_name ~ '^turbo progress' and wait_event_type = 'Lock'"
            ),
            what="the fault bites: a progress statement waits",
        )
        begun = time.monotonic()
        for number in range(10):
            speak(bench, f"t{number}").touch()
        first.touch()
        for task in ("first", *(f"t{n}" for n in range(10))):
            bench.wait(task)
        assert time.monotonic() - begun < 10 - 2, "less than the deadline of a progress statement"
    until(lambda: bench.sql("select 1 from agent_progress") == [])


def test_outage_costs_only_progress(own_server, tmp_path: Path) -> None:
    with workers.bench(own_server.dsn, tmp_path) as bench:
        bench.start(speakers(bench)).listening()
        gate = speak(bench, "t", lines=300, pause=0.01)
        until(lambda: line(bench, "t"))
        own_server.stop("fast")
        times = bench.path / "t.times"
        gate.touch()
        until(times.exists)
        assert float(times.read_text()) < 10, "the program's own 3 s: nobody held up its pipe"
        own_server.start_again()
        row = bench.wait("t")
        assert row["output_data"]["output"].endswith("line 299\n")
        assert row["retry_count"] == 0
        gate = speak(bench, "again")
        until(lambda: line(bench, "again") == "line 0", what="progress is back by itself")
        gate.touch()
        until(lambda: bench.sql("select 1 from agent_progress") == [])


async def test_one_line_per_run_is_kept_during_an_outage(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turbo.worker.progress.WRITE_SECONDS", 0.1)
    write = ProgressStore.write
    sent: asyncio.Queue[dict[ClaimRef, Progress]] = asyncio.Queue()

    async def watched(store: ProgressStore, latest: dict[ClaimRef, Progress], *more: Any) -> None:
        sent.put_nowait(dict(latest))
        await write(store, latest, *more)

    monkeypatch.setattr(ProgressStore, "write", watched)
    async with Rig(dsn) as rig:
        loop = ProgressWriter(
            Lane("postgresql://127.0.0.1:1/nowhere", "progress"), rig.worker_id, rig.slots, rig.stores.refusals
        )
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
        task, _ = await rig.claimed()
        run = Running(task, "x", None)
        loop.start(lambda _name, error: pytest.fail(str(error)))
        loop.progress(run, Progress("the first"))
        assert await asyncio.wait_for(sent.get(), 10) == {run.claim: Progress("the first")}
        for number in range(10_000):
            loop.progress(run, Progress(f"line {number}"))
        assert await asyncio.wait_for(sent.get(), 10) == {run.claim: Progress("line 9999")}, "the fault bites: again"
        await loop.stop()


async def test_refused_line_keeps_back_no_other(dsn: str) -> None:
    async with Rig(dsn, slots_size=3) as rig:
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute("alter table agent_progress add check (text <> 'bad')")
            for name in ("t1", "t2", "t3"):
                db.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [name])
            claims = [ClaimRef(task.task_id, task.fencing_token) for task, _ in [await rig.claimed() for _ in range(3)]]
            lane = Lane(dsn, "writer")
            texts = ("one", "bad", "three")
            lines = {claim: Progress(text) for claim, text in zip(claims, texts, strict=True)}
            await ProgressStore(lane, rig.worker_id, rig.stores.refusals).write(lines, [], 10)
            assert sorted(r[0] for r in db.execute("select text from agent_progress")) == ["one", "three"]
            await lane.close()


async def test_late_writer_changes_nothing(dsn: str) -> None:
    """Its claim is over, whether somebody else has the task or nobody; and if only its statement is late, the newer
    claim's line stays."""
    async with Rig(dsn) as rig:
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
            task, _ = await rig.claimed()
            lane = Lane(dsn, "writer")
            store = ProgressStore(lane, rig.worker_id, rig.stores.refusals)
            first, second = task.fencing_token, task.fencing_token + 1000

            def claim(token: int, status: str = "running") -> None:
                change = "fencing_token = %s, status = %s, turbo_rev = turbo_rev + 1"
                db.execute(f"update agent_tasks set {change} where task_id = 't'", [token, status])

            def lines() -> list[str]:
                return [r[0] for r in db.execute("select text from agent_progress").fetchall()]

            async def write(token: int, text: str) -> list[str]:
                await store.write({ClaimRef("t", token): Progress(text)}, [], 10)
                return lines()

            assert await write(first, "first") == ["first"], "the control: a live claim writes"
            claim(second)
            assert await write(first, "late") == ["first"]
            assert await write(second, "second") == ["second"]
            claim(first)  # as the snapshot of a statement sees it that began before the second claim
            assert await write(first, "late") == ["second"]
            claim(second, "scheduled")
            assert await write(second, "rescued meanwhile") == ["second"]
            await store.write({}, [ClaimRef("t", first)], 10)
            assert lines() == ["second"], "nor does it take it away"
            await store.write({}, [ClaimRef("t", second)], 10)
            assert lines() == []
            await lane.close()


async def test_leader_prunes_progress_of_dead_workers(dsn: str) -> None:
    async with Rig(dsn) as rig:
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
            task, _ = await rig.claimed()
            columns = "task_id, fencing_token, worker_id, updated_at"
            row = f"insert into agent_progress ({columns}) values (%s, %s, 'w', now() - %s::interval)"
            db.execute(row, ["t", task.fencing_token, "1 hour"])
            db.execute(row, ["dead", 5, "1 hour"])
            db.execute(row, ["fresh", 5, "1 second"])
            await rig.stores.registry.prune()
            assert {r[0] for r in db.execute("select task_id from agent_progress").fetchall()} == {"t", "fresh"}


def test_token_counts_of_an_agent_grow_while_it_runs(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The real CLI; it waits in its tools for the test."""

    def seen() -> tuple[str, int, int]:
        found = bench.sql("select text, input_tokens, output_tokens from agent_progress")
        return found[0] if found else ("", 0, 0)

    with a_bench(tmp_path_factory) as agents:
        gates = [agents.home / "go1", agents.home / "go2"]
        turns = [bash(f"while [ ! -e {gate} ]; do sleep 0.05; done") for gate in gates]
        agents.api.answer(*turns, messages_api.text("all done"))
        config = bench.config()
        config["accounts"] = {"a": {"env_file": str(agents.login())}}
        config["executors"]["claude"] = {
            "kind": "claude",
            "account": "a",
            "command": [the_cli()],
            "allowed_tools": ["Bash"],
            "env": agents.scrubbed(),
        }
        config["routes"]["agent"] = "claude"
        bench.start(config).listening()
        bench.insert("t", task_type="agent")
        until(lambda: seen()[1], 40)
        first = seen()
        assert first[0] == "I will look."
        assert first[2] > 0
        gates[0].touch()
        until(lambda: seen()[1] > first[1], 20)
        second = seen()
        assert second[2] > first[2]
        gates[1].touch()
        usage = bench.wait("t")["output_data"]["usage"]
        assert sum(u["input_tokens"] for u in usage) > 0
        until(lambda: bench.sql("select 1 from agent_progress") == [])
