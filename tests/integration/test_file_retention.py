"""Logs and working directories of finished tasks go when they are old; nothing of a task that is not over does."""

import contextlib
import os
import subprocess
import time

import pytest

from tests.support.requirements import missing
from tests.support.stores import Stores
from tests.support.waiting import until
from turbo.db.lane import Lane
from turbo.db.worker_registry import WorkerRegistry
from turbo.host.removal import TRASH_PREFIX
from turbo.host.state_dir import StateDir, safe_name
from turbo.maintenance.file_retention import FileRetention
from turbo.worker.slots import Slots

DAY = 86_400


@contextlib.asynccontextmanager
async def tidy(bench, **bounds):
    lane = Lane(bench.dsn, "tidy")
    stores = Stores("tidier", lane, lane)
    try:
        yield FileRetention(
            stores.registry, StateDir(bench.path / "state"), Slots(1), **{"days": 14, "gigabytes": None, **bounds}
        )
    finally:
        await lane.close()


def ran(bench, task_id: str, *, days: float, data: dict | None = None, status: str = "completed") -> None:
    """A task that was really run, and whose files look as if that had been so many days ago."""
    bench.insert(task_id, data)
    bench.wait(task_id, status)
    until(lambda: not bench.sql("select 1 from agent_tasks where status = 'running'"))
    age(bench, task_id, days)


def age(bench, task_id: str, days: float) -> None:
    at = time.time() - days * DAY
    for path in places(bench, task_id):
        for one in (*path.iterdir(), path):
            os.utime(one, (at, at))


def places(bench, task_id: str):
    return [bench.path / "state" / place / safe_name(task_id) for place in ("logs", "tasks")]


def there(bench, task_id: str) -> list[bool]:
    return [path.is_dir() for path in places(bench, task_id)]


async def test_old_files_of_finished_tasks_go_and_no_others(bench):
    config = bench.config(files_days=None)
    config["retry"] = {"base_seconds": 90_000, "max_seconds": 90_000}
    bench.start(config).listening()
    ran(bench, "old", days=15)
    ran(bench, "Old with a hashed name", days=15)
    ran(bench, "young", days=13)
    ran(bench, "to be tried again", days=15, data={"exit": 1}, status="scheduled")
    ran(bench, "held", days=15, data={"exit": 1}, status="scheduled")
    bench.sql("update agent_tasks set status = 'waiting' where task_id = 'held'")
    locked = bench.path / "state/tasks/old/module"
    locked.mkdir()
    (locked / "file").write_text("x")
    locked.chmod(0o500)
    age(bench, "old", 15)
    async with tidy(bench) as tidier:
        assert sorted(await tidier.once()) == sorted([safe_name("old"), safe_name("Old with a hashed name")])
        assert there(bench, "old") == there(bench, "Old with a hashed name") == [False, False]
        assert there(bench, "young") == there(bench, "to be tried again") == there(bench, "held") == [True, True]
        assert await tidier.once() == []
        bench.sql("update agent_tasks set status = 'cancelled' where task_id = 'to be tried again'")
        assert await tidier.once() == [safe_name("to be tried again")], "what kept it was that it was not over"


async def test_directory_entered_meanwhile_is_restored(bench, monkeypatch):
    bench.start(files_days=None).listening()
    ran(bench, "t", days=15)
    async with tidy(bench) as tidier:
        unfinished = WorkerRegistry.unfinished

        async def and_then_it_is_run_again(registry):
            answer = await unfinished(registry)
            bench.sql("update agent_tasks set status = 'pending' where task_id = 't'")
            until(lambda: bench.runs()["t"] == 2)
            return answer

        monkeypatch.setattr(WorkerRegistry, "unfinished", and_then_it_is_run_again)
        assert await tidier.once() == []
        assert there(bench, "t") == [True, True]
        assert not [p for p in (bench.path / "state/tasks").iterdir() if p.name.startswith(TRASH_PREFIX)]


async def test_directories_unused_longest_go_first_over_the_cap(bench):
    bench.start(files_days=None).listening()
    for n, name in enumerate(("a", "b", "c")):
        ran(bench, name, days=3 - n)
        (bench.path / "state/tasks" / name / "big").write_bytes(b"x" * 1_000_000)
        age(bench, name, 3 - n)
    ran(bench, "now", days=0)
    (bench.path / "state/tasks/now/big").write_bytes(b"x" * 3_000_000)
    async with tidy(bench, days=None, gigabytes=0.0052) as tidier:
        assert await tidier.once() == ["a"]
    async with tidy(bench, days=None, gigabytes=0.000001) as tidier:
        assert await tidier.once() == ["b", "c"], "what was touched within the hour stays"


@pytest.mark.parametrize("days", [14, None])
def test_worker_removes_old_files(bench, days):
    first = bench.start(files_days=None).listening()
    ran(bench, "old", days=15)
    first.stop()
    begun = bench.path / f"state/tasks/{TRASH_PREFIX}half"
    begun.mkdir()
    second = bench.start(files_days=days).listening()
    bench.insert("t")
    bench.wait("t")
    if days:
        second.said("deleted the logs and working directories of 1 tasks")
        assert there(bench, "old") == [False, False]
        assert not begun.exists()
    else:
        assert there(bench, "old") == [True, True]


async def test_immutable_file_is_reported_once_and_the_rest_goes(bench, caplog):
    bench.start(files_days=None).listening()
    ran(bench, "t", days=15)
    fixed = bench.path / "state/tasks/t/fixed"
    fixed.touch()
    if subprocess.run(["chattr", "+i", fixed], capture_output=True).returncode != 0:  # noqa: ASYNC221
        missing("chattr +i needs root and a file system that knows it")
    age_of_parents(bench, "t", 15)
    try:
        async with tidy(bench) as tidier:
            for _ in range(2):
                await tidier.once()
            assert there(bench, "t") == [False, False]
            assert len([r for r in caplog.records if "immutable?" in r.message]) == 1
            (left,) = (bench.path / "state/tasks").glob(f"{TRASH_PREFIX}*")
            subprocess.run(["chattr", "-i", left / "fixed"], check=True)  # noqa: ASYNC221
            await tidier.once()
            assert not left.exists()
    finally:
        for one in (bench.path / "state").rglob("fixed"):
            subprocess.run(["chattr", "-i", one], check=True)  # noqa: ASYNC221


def age_of_parents(bench, task_id: str, days: float) -> None:
    for path in places(bench, task_id):
        os.utime(path, (time.time() - days * DAY,) * 2)
