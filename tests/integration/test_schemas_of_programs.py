"""output_schema of `command` and `python`: the first answer decides, and the task's row has the value."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.schemas import VERDICT, schema_file
from tests.support.workers import Bench, bench

GOOD = {"pass": True, "why": "it is"}


@pytest.fixture
def work(dsn: str, tmp_path: Path) -> Iterator[Bench]:
    with bench(dsn, tmp_path) as one:
        yield one


def configured(work: Bench) -> dict[str, Any]:
    config = work.config(slots=6)
    schema = str(schema_file(work.path / "schemas", VERDICT))
    slow = work.path / "slow.json"
    slow.write_text(json.dumps({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}))
    ledger = config["executors"]["ledger"]
    config["executors"] |= {
        "judged": {**ledger, "output_schema": schema},
        "counted": {**ledger, "output_schema": str(slow)},
        "free": ledger,
    }
    for isolation in ("loop", "thread", "process"):
        config["executors"][isolation] = {
            "kind": "python",
            "handler": "turbo.testing:echo",
            "isolation": isolation,
            "output_schema": schema,
        }
    config["routes"] |= {name: name for name in ("judged", "counted", "free", "loop", "thread", "process")}
    return config


def printed(value: object) -> dict[str, str]:
    """The data of a task whose program prints this."""
    return {"raw": repr(value)}


def test_answer_of_a_program_is_judged_once(work: Bench) -> None:
    one = work.start(configured(work))
    work.insert("good", printed(json.dumps(GOOD)), task_type="judged")
    work.insert("list", printed("[3, 1, 2]\n"), task_type="counted")
    bad = {
        "text": "all is well",
        "twice": "[1, 1]",
        "nan": '{"pass": NaN}',
        "keys": '{"pass": true, "pass": false, "why": "no"}',
        "typed": '{"pass": null, "why": "no"}',
        "cut": "x" * 1_100_000,
        "deep": "[" * 10_000,
    }
    for name, text in bad.items():
        work.insert(name, printed(text), task_type="counted" if name == "twice" else "judged", max_retries=3)
    work.insert("free", printed("all is well"), task_type="free")
    assert work.wait("good")["output_data"]["output"] == GOOD
    assert work.row("good")["output_data"]["check"]["passed"] is True
    assert work.wait("list")["output_data"]["output"] == [3, 1, 2]
    assert work.wait("free")["output_data"]["output"].strip() == "all is well", "the control: nothing judges it"
    assert "check" not in work.row("free")["output_data"]
    for name in bad:
        row = work.wait(name, "failed")
        assert (row["failure_kind"], row["retry_count"]) == ("unverified", 0), name
        assert row["error_message"].startswith("not verified: check 1: the answer "), row["error_message"]
        assert work.runs()[name] == 1, "no retry by itself"
    assert "too long" in work.row("cut")["error_message"]
    assert "nested deeper than 100 levels" in work.row("deep")["error_message"]
    assert 'the key "pass" twice' in work.row("keys")["error_message"]
    assert '$.pass: null is not of type "boolean"' in work.row("typed")["error_message"]
    assert work.row("typed")["output_data"]["output"] == {"pass": None, "why": "no"}, (
        "the object, although it does not fit"
    )
    assert "non-unique" in work.row("twice")["error_message"]
    assert work.row("text")["output_data"]["output"].strip() == "all is well", "what it printed is kept"
    assert work.trail("text")[-2:] == ["checked", "finished"]
    assert one.metric(work.dsn, "turbo_checks_total", executor="judged", result="unfit") == 6
    assert one.metric(work.dsn, "turbo_checks_total", executor="judged", result="passed") == 1


def test_value_of_a_handler_is_judged_as_it_is(work: Bench) -> None:
    work.start(configured(work))
    for isolation in ("loop", "thread", "process"):
        work.insert(f"{isolation}-good", GOOD, task_type=isolation)
        work.insert(f"{isolation}-bad", {"pass": "perhaps"}, task_type=isolation, max_retries=3)
    for isolation in ("loop", "thread", "process"):
        assert work.wait(f"{isolation}-good")["output_data"]["output"] == GOOD
        row = work.wait(f"{isolation}-bad", "failed")
        assert row["failure_kind"] == "unverified"
        assert '$.pass: "perhaps" is not of type "boolean"' in row["error_message"]
        assert row["output_data"]["output"] == {"pass": "perhaps"}
        assert work.trail(f"{isolation}-bad")[-2:] == ["checked", "finished"]
