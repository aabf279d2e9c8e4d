"""What a worker writes into the ledger when a run does not end as runs do: given up, killed, broken, refused."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support.configs import config_of
from tests.support.waiting import until_async
from turbo.domain.outcome import FailureKind, ModelUsage, Outcome, OutcomeKind
from turbo.domain.run import Run
from turbo.host.spool import Spool
from turbo.worker import shutdown_deadline
from turbo.worker.worker import Worker

USED = (ModelUsage("mine", 10, 20, 30, 40), ModelUsage("paid", 1, cost_usd=0.5))


def broken() -> Outcome:
    raise RuntimeError("a defect")


def no_disk() -> Outcome:
    raise OSError("no space left")


ENDS: dict[str, Callable[[], Outcome]] = {
    "good": lambda: Outcome(OutcomeKind.SUCCEEDED, "done", usage=USED),
    "failed": lambda: Outcome(OutcomeKind.FAILED, error="x", failure_kind=FailureKind.ERROR, final=True, usage=USED),
    "broken": broken,
    "no-disk": no_disk,
    "odd": lambda: Outcome(OutcomeKind.SUCCEEDED, usage=(ModelUsage("o\0dd", 10, 20, 30, 40), USED[1])),
}


class Scripted:
    """An executor whose runs end as their tasks' ids say; `obeys-…` ends when it is asked to, `stubborn` when it is killed."""

    name = "scripted"
    account: str | None = "mine"
    durable = True

    def __init__(self) -> None:
        self.begun: asyncio.Queue[str] = asyncio.Queue()

    async def run(self, run: Run) -> Outcome:
        run.uses(lambda: USED)
        task_id = run.task.task_id
        if task_id in ENDS:
            return ENDS[task_id]()
        self.begun.put_nowait(task_id)
        if task_id.startswith("obeys"):
            await run.stop.wait()
            return Outcome(OutcomeKind.CANCELLED, error="asked to", usage=USED)
        await asyncio.Event().wait()
        raise AssertionError


async def test_every_end_of_a_run_reaches_the_ledger(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown_deadline, "END_SECONDS", 8.0)
    executor = Scripted()
    worker_settings = {"name": "alpha", "slots": 9, "state_dir": str(tmp_path / "state"), "drain_seconds": 0}
    config = config_of(
        tmp_path,
        worker={**worker_settings, "heartbeat_seconds": 0.2, "lease_seconds": 60},
        executors={"scripted": {"kind": "command", "command": ["true"]}},
        routes={"default": "scripted"},
        retry={"base_seconds": 1e6, "max_seconds": 1e6},
        prices={"mine": {"input": 1e6, "output": 1e6, "cache_read": 0}},
    )
    worker = Worker(config, dsn=dsn, executors={"scripted": executor})
    running = asyncio.create_task(worker.run())
    runs = [*ENDS, "obeys-shutdown", "obeys-loss", "stubborn"]
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as db:
        for task_id in runs:
            insert = "insert into agent_tasks (task_id, task_description, max_retries) values (%s, 'x', 0)"
            await db.execute(insert, [task_id])

        async def ledger(columns: str = "task_id") -> list[dict[str, object]]:
            query = f"select {columns} from agent_usage where model <> 'paid' order by task_id"
            return await (await db.execute(query.encode())).fetchall()

        async with asyncio.timeout(60):
            begun = {await executor.begun.get() for _ in range(3)}
            assert begun == set(runs) - set(ENDS)
            # Another worker has the claim: a failover took this one's.
            await db.execute("set session_replication_role = replica")
            await db.execute(
                "update agent_tasks set fencing_token = fencing_token + 1, assigned_worker_id = 'other'"
                " where task_id = 'obeys-loss'"
            )

        async def written() -> bool:
            return len(await ledger()) == len(ENDS) + 1

        await until_async(written)
        worker.stop()
        assert await running == 0
        found = await ledger("task_id, model, input_tokens, cost_usd::float as cost, account")
        rest = await (
            await db.execute(
                "select t.task_id from agent_tasks t join agent_actions a using (task_id)"
                " where a.action_type = 'released' and t.status = 'pending' order by 1"
            )
        ).fetchall()
        paid = await (
            await db.execute("select count(*), sum(cost_usd)::float as usd from agent_usage where model = 'paid'")
        ).fetchone()
    assert [row["task_id"] for row in found] == sorted(runs)
    assert {row["input_tokens"] for row in found} == {10}
    assert {row["task_id"]: row["cost"] for row in found} == {t: None if t == "odd" else 70.0 for t in runs}
    assert {row["account"] for row in found} == {"mine"}
    assert [row["model"] for row in found if row["task_id"] == "odd"] == ["o\N{REPLACEMENT CHARACTER}dd"]
    assert [row["task_id"] for row in rest] == ["obeys-shutdown", "stubborn"]
    assert paid == {"count": len(runs), "usd": 0.5 * len(runs)}
    (home,) = (tmp_path / "state" / "workers").iterdir()
    on_disk = {entry.result.task_id: len(entry.result.usage) for entry in Spool(home / "spool").recently_done()}
    assert on_disk == dict.fromkeys(ENDS, 2), "a replay after a failover has it, too"
