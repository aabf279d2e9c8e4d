"""What is kept of a conversation on a host's disk while one of its tasks is not over, and where its tasks work."""

from pathlib import Path
from typing import Any

import psycopg

from tests.support.repositories import repository
from tests.support.rig import finished
from tests.support.stores import Stores
from tests.support.work_rows import insert, place, released
from tests.support.workers import Bench

Connection = psycopg.Connection[Any]


async def ran(stores: Stores, task_id: str) -> None:
    (task,) = (await stores.claims.claim("default", 1, may_idle=False)).tasks
    assert task.task_id == task_id
    await stores.results.finish([finished(task, stores.worker_id, output={"output": None})])


async def test_files_of_a_conversation_are_needed_until_it_is_over(db: Connection, stores: Stores) -> None:
    registry = stores.registry
    insert(db, "t")
    await ran(stores, "t")
    assert (await registry.unfinished(), await registry.goes_on("t")) == ([], False)
    insert(db, "held", continues="t", status="waiting")
    db.execute("delete from agent_unsettled")
    assert (await registry.unfinished(), await registry.goes_on("t")) == (["t"], True), "a hold waits for its release"
    db.execute("delete from agent_tasks where task_id = 'held'")
    insert(db, "f1", continues="t")
    insert(db, "f2", continues="f1")
    assert set(await registry.unfinished()) == {"t", "f1"}, "neither has a place yet"
    assert await registry.goes_on("t")
    place(db, "t", "f1", "f2")
    assert await registry.unfinished() == ["t"]
    assert await registry.goes_on("t") is await registry.goes_on("f1") is True
    released(db, "f1")
    await ran(stores, "f1")
    assert (await registry.unfinished(), await registry.goes_on("f1")) == (["t"], True)
    db.execute("delete from agent_tasks where task_id = 't'")
    assert await registry.unfinished() == ["t"], "its directory goes on under its name"
    db.execute("update agent_tasks set status = 'cancelled' where task_id = 'f2'")
    assert (await registry.unfinished(), await registry.goes_on("f1")) == ([], False)


async def test_follow_up_let_run_by_hand_has_its_session(db: Connection, stores: Stores) -> None:
    insert(db, "t")
    (first,) = (await stores.claims.claim("default", 1, may_idle=False)).tasks
    insert(db, "f1", continues="t")
    insert(db, "f2", continues="f1")
    place(db, "t", "f1", "f2")
    db.execute("update agent_tasks set status = 'pending' where task_id = 'f2'")
    assert (await stores.claims.claim("default", 1, may_idle=False)).tasks == (), "one run at a time"
    await stores.results.finish([finished(first, stores.worker_id, agent_session_id="a session")])
    (second,) = (await stores.claims.claim("default", 1, may_idle=False)).tasks
    assert (second.task_id, second.agent_session_id) == ("f2", "a session")
    assert second.continued is not None
    assert second.continued.first_run
    assert second.directory_id == "t"


def test_worktree_waits_for_the_follow_ups_of_its_task(bench: Bench, tmp_path: Path) -> None:
    config = bench.config()
    config["executors"]["ls"] = {
        "kind": "command", "command": ["ls"], "workspace": {"kind": "worktree", "repo": str(repository(tmp_path / "project"))},
    }  # fmt: skip
    config["routes"]["default"] = "ls"
    bench.start(config).listening()
    bench.sql("insert into agent_tasks (task_id, task_description, continues) values ('t', 'x', null), ('f', 'x', 't')")
    last, first = bench.wait("f")["output_data"]["workspace"], bench.row("t")["output_data"]["workspace"]
    assert (first["kept"], last["continued"], last["path"]) == (True, True, first["path"])
    assert last["kept"] is False, "unchanged, it was kept for the follow-up alone"


def test_follow_up_of_a_program_runs_in_the_directory_before(bench: Bench, tmp_path: Path) -> None:
    config = bench.config(allowed_roots=[str(tmp_path)])
    script = "pwd; ls; cat >input.json; touch made-$TURBO_TASK_ID"
    config["executors"]["sh"] = {"kind": "command", "command": ["sh", "-c", script]}
    config["routes"]["default"] = "sh"
    bench.start(config).listening()
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    bench.insert("t")
    bench.insert("c", {"cwd": str(chosen)})
    bench.sql(
        "insert into agent_tasks (task_id, task_description, continues) values ('f', 'x', 't'), ('g', 'x', 'f'), ('d', 'x', 'c')"
    )
    place_of_all = bench.path / "state" / "tasks" / "t"
    assert bench.wait("g")["output_data"]["output"] == f"{place_of_all}\ninput.json\nmade-f\nmade-t\n"
    assert bench.wait("d")["output_data"]["output"] == f"{chosen}\ninput.json\nmade-c\n", "as the first task chose it"
    assert '"continues": {"task_id": "f"' in (place_of_all / "input.json").read_text()
