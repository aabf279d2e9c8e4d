"""`make cost` counts what it claims to count: figures repeat, a dearer statement is noticed, idle ones are refused."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cost import record
from benchmarks.cost.backend import CostError, backend
from benchmarks.cost.statements import insert
from tests.support import requirements

ROOT = Path(__file__).parents[2]
FEW = {1: (20, 220), 100: (1, 2)}


def test_cost_repeats_and_notices_a_dearer_statement():
    requirements.require("valgrind")
    with backend(FEW) as server:
        first = server.cost(insert())
        assert server.cost(insert()) == pytest.approx(first, rel=0.005)
        dearer = server.cost(insert("task_description, error_message", "'Analyze module 7', md5(repeat('x', 3000))"))
        found = record.too_dear({"insert 1": dearer}, recorded({"insert 1": first}))
        assert len(found) == 1
        assert "insert of 1: " in found[0]

        does_nothing = dataclasses.replace(insert(), call=lambda _: "select 1")
        with pytest.raises(CostError, match="20 calls wrote 0 rows, not 20:"):
            server.cost(does_nothing)


def test_check_allows_two_per_cent():
    before = recorded({"claim 1": 1000.0})
    assert record.too_dear({"claim 1": 1019.0}, before) == []
    assert record.too_dear({"claim 1": 1030.0}, before) == ["claim of 1: 3.0% dearer than recorded; 2% are allowed"]
    assert record.too_dear({"claim 100": 1.0}, before) == [
        "claim of 100: no figure is recorded (make cost COST=--record)"
    ]


def test_record_is_read_back(tmp_path):
    versions = {"PostgreSQL": "18.4", "valgrind": "3.19.0"}
    record.write(tmp_path, versions, {"claim 100": 17_731.14})
    found = record.read(tmp_path)
    assert found is not None
    assert found.thousands == {"claim 100": 17_731.1}
    assert record.unlike(versions, found) is None
    assert "recorded with PostgreSQL 18.4" in str(record.unlike({**versions, "PostgreSQL": "18.5"}, found))
    assert "| claim of 100 | 17,731 | 177.3 |" in (tmp_path / "cost.md").read_text()


def test_cost_without_valgrind_says_what_to_install(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cost"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == "error: valgrind is not installed: apt-get install valgrind\n"


def recorded(thousands: dict[str, float]) -> record.Record:
    return record.Record("2026-11-26", "abc", {}, thousands)
