"""What people see of placement: `turbo submit --requires`, `show`, `tasks`, `status`, `doctor`, the metric."""

import json
from pathlib import Path

import psycopg
import pytest

from tests.support.places import at, older, pinned, portable
from tests.support.shell import Shell
from turbo import Client
from turbo.client.new_task import BadField, NewTask
from turbo.db.worker_registry import WorkerRegistry
from turbo.observability.fleet_gauges import FleetGauges


async def test_submit_says_at_once_what_can_run_nowhere(dsn: str, shell: Shell) -> None:
    async with at(dsn, "a", os="linux", xcode="15"):
        ran = shell("submit", "Sign it", "--id", "t", "--requires", "os=macos,xcode=16", "--requires", "gpu=true")
        assert ran.out == "t\n"
        assert ran.err == (
            "t waits: no live worker of queue default has these labels; a-1-abc lacks gpu=true, os=macos (it has os=linux),"
            " xcode=16 (it has xcode=15)\n"
        )
        shown = " ".join(shell("show", "t").out.split())
        assert (
            "requires gpu=true, os=macos, xcode=16; no live worker of queue default has these labels; a-1-abc" in shown
        )
        assert "requires gpu=true, os=macos, xcode=16: Sign it" in " ".join(shell("tasks").out.split())
        status = " ".join(shell("status").out.split())
        assert "queue default: 1 task can run nowhere: no live worker of it has gpu=true, os=macos, xcode=16." in status
        assert "a-1-abc comes closest, and lacks gpu=true, os=macos (it has os=linux)" in status
        (line,) = json.loads(shell("status", "--json").out)["unplaceable"]
        assert (line["task_id"], line["lacks"]) == ("t", {"gpu": None, "os": "linux", "xcode": "15"})
        assert "1 task can run nowhere" in " ".join(shell("doctor").out.split())
        async with at(dsn, "b", os="macos", xcode="16", gpu="true"):
            assert "can run nowhere" not in shell("status").out
            assert shell("submit", "Sign it", "--requires", "os=macos").err == ""


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("macos", "'macos' is not label=value: write os=macos"),
        ("=macos", "'=macos' is not label=value"),
        ("os=macos,os=linux", "names 'os' twice, with two values"),
        (",".join(f"l{n}=1" for n in range(21)), "is more than 20 labels or 2000 bytes"),
    ],
    ids=["no value", "no name", "twice", "many"],
)
def test_bad_labels_are_refused(shell: Shell, given: str, what: str) -> None:
    ran = shell("submit", "x", "--requires", given)
    assert ran.code == 2
    assert what in " ".join(ran.err.replace("│", "").split())


@pytest.mark.parametrize(
    ("requires", "what"),
    [
        (["os"], "must be an object of labels"),
        ({"os": {"name": "macos"}}, "label 'os' must be a text, not an object"),
        ({"os": None}, "label 'os' must be a text"),
        ({" ": "x"}, "has a label without a name"),
        ({"os": "a\0"}, "contains a NUL character"),
    ],
    ids=["a list", "nested", "null", "no name", "NUL"],
)
def test_new_task_refuses_bad_labels(requires: object, what: str) -> None:
    with pytest.raises(BadField, match=what):
        NewTask("x", requires=requires)  # type: ignore[arg-type]


def test_labels_come_from_files_and_the_client(dsn: str, shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": "j", "text": "x", "requires": {"xcode": 16, "gpu": true}}\n')
    (tmp_path / "t.csv").write_text('id,text,requires\nc,x,"os=macos,xcode=16"\nd,x,"{""os"": ""linux""}"\n')
    for name in ("t.jsonl", "t.csv"):
        shell("submit", "--file", str(tmp_path / name))
    with Client(dsn) as client:
        client.submit("x", task_id="p", requires={"xcode": 16})
        found = {task_id: client.get(task_id).requires for task_id in "jcdp"}
    assert found == {
        "j": {"xcode": "16", "gpu": "true"},
        "c": {"os": "macos", "xcode": "16"},
        "d": {"os": "linux"},
        "p": {"xcode": "16"},
    }
    (tmp_path / "bad.csv").write_text("text,requires\nx,macos\n")
    ran = shell("submit", "--file", str(tmp_path / "bad.csv"))
    assert "line 2: column requires: 'macos' is not label=value" in ran.err


def test_older_worker_is_named(dsn: str, db: psycopg.Connection, shell: Shell, tmp_path: Path) -> None:
    older(db)
    (tmp_path / "t.jsonl").write_text('{"text": "x", "requires": {"os": "macos"}}\n')
    for words in (("x", "--requires", "os=macos"), ("--file", str(tmp_path / "t.jsonl"))):
        ran = shell("submit", *words)
        assert ran.code in (1, 2), ran
        assert "worker old-2-abc of queue default is older" in " ".join(ran.err.replace("│", "").split())


async def test_pin_and_preference_are_told_apart(dsn: str, db: psycopg.Connection, shell: Shell) -> None:
    pinned(db, "t", "gone")
    async with at(dsn, "a"):
        assert "1 task can run only on gone" in " ".join(shell("status").out.split())
        assert "gone, which has its conversation; no live worker there" in " ".join(shell("show", "t").out.split())
        portable(db, "t")
        assert "can run only on" not in shell("status").out
        assert "others can have it, too, and may take the task after a while" in " ".join(
            shell("show", "t").out.split()
        )


async def test_metric_counts_what_can_run_nowhere(dsn: str, db: psycopg.Connection) -> None:
    async with at(dsn, "a", os="linux") as stores:
        registry: WorkerRegistry = stores.registry
        for task_id, requires in (("t", '{"os": "macos"}'), ("u", '{"os": "macos"}'), ("v", '{"os": "linux"}')):
            db.execute(
                "insert into agent_tasks (task_id, task_description, requires) values (%s, 'x', %s)",
                [task_id, requires],
            )
        gauges = FleetGauges()
        gauges.replace(await registry.gauges())
        (family,) = (one for one in gauges.collect() if one.name == "turbo_unplaceable_tasks")
        assert [(s.labels, s.value) for s in family.samples] == [({"queue": "default"}, 2.0)]
