"""The runner of the benchmarks works: a smoke of seconds, without peers. What it measures here means nothing."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_runner_measures_and_writes_its_page(tmp_path):
    measures = ["--only", "pickup,throughput100", "--contenders", "floor,turbo"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", *measures, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert {who for who, _ in found["pickup"]["rows"]} == {"floor", "turbo"}
    assert all(figures["jobs/s"] > 100 for _, figures in found["throughput100"]["rows"])
    page = (tmp_path / "README.md").read_text()
    assert "| turbo |" in page
    assert "procrastinate is left out: the package procrastinate is not installed" in page, "an absent peer is named"


def test_turbo_does_not_import_the_benchmarks():
    imports = re.compile(r"^\s*(from|import) benchmarks\b", re.MULTILINE)
    assert [p.name for p in (ROOT / "turbo").rglob("*.py") if imports.search(p.read_text())] == []
