"""`make prove`: what `make test` runs at a small size, at full size. Nightly, and before a release; it takes hours.

    python -m tests.prove [--only STEP]… [--quick] [--out docs/benchmarks]

Writes prove.json and prove.md; a step that was not run keeps its last figures. Exit 1 when a step failed.
"""

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import turbo

ROOT = Path(__file__).parents[1]
PYTEST = (sys.executable, "-m", "pytest", "-q", "-s")


@dataclass(frozen=True)
class Step:
    """`shown` picks the lines of the output that are figures. `quick` is added with --quick: to try the machinery."""

    name: str
    proves: str
    command: Sequence[str]
    shown: str
    quick: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    quick_environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    proves: str
    passed: bool
    seconds: float
    version: str
    at: str
    machine: str
    figures: list[str]


SUMMARY = r"\d+ (passed|failed)"
OF_SCHEDULES = ("tests/integration/test_schedule_year.py", "tests/chaos/test_schedules.py")

STEPS = (
    Step("model", "no order of events loses or repeats a task, in 2,000 histories",
         (*PYTEST, "tests/model/test_model.py", "tests/model/test_schedules.py", "-m", "not mutations", "--timeout", "7200"), SUMMARY,
         environment={"TURBO_MODEL_EXAMPLES": "2000"}, quick_environment={"TURBO_MODEL_EXAMPLES": "5"}),
    Step("mutations", "the model notices the absence of every guard",
         (*PYTEST, "tests/model/test_mutations.py", "tests/model/test_schedules.py"), rf": after \d+ histories|{SUMMARY}",
         environment={"TURBO_MODEL_ALL": "1"}, quick=("-k", "page_lists or every_edit")),
    Step("sized", "the tests with small sizes hold at full size: a million rows, long outages",
         (*PYTEST, "-m", "sized", "--timeout", "1800", *(f"--ignore={path}" for path in OF_SCHEDULES)),
         rf"checked agents in|first paint of|are on the page after|{SUMMARY}",
         environment={"TURBO_PROVE": "1"}, quick=("--collect-only",)),
    Step("schedules", "every slot has one task: a year in three time zones, with both changes of the clock, crashes and failovers",
         (*PYTEST, *OF_SCHEDULES, "--timeout", "3600"), rf"one task each|{SUMMARY}",
         environment={"TURBO_PROVE": "1"}, quick=("--collect-only",)),
    Step("soak", "twenty minutes of random faults lose nothing, record nothing twice, and let nobody wait for nothing",
         (sys.executable, "-m", "tests.soak", "--seconds", "1200", "--faults", "1200"),
         r"^(seed|faults:|messages:|schedules:|not as promised)|runs of programs|failovers,",
         quick=("--seconds", "20", "--faults", "5")),
    Step("chaos", "a fleet recovers from every fault, as fast as before it",
         (sys.executable, "-m", "tests.chaos"), r"^\||^\d+ rounds|^not as promised",
         environment={"TURBO_PROVE": "1"},
         quick=("--only", "backends killed, once", "--rounds", "1", "--window", "1", "--seconds", "1")),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.prove")
    parser.add_argument("--only", action="append", default=[], choices=[step.name for step in STEPS])
    parser.add_argument("--quick", action="store_true", help="try the steps themselves in a minute; proves nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    given = parser.parse_args()
    file = given.out / "prove.json"
    results = {k: Result(**v) for k, v in (json.loads(file.read_text()) if file.exists() else {}).items()}
    ran = [step for step in STEPS if not given.only or step.name in given.only]
    for step in ran:
        print(f"== {step.name}: {step.proves}", flush=True)
        results[step.name] = run(step, quick=given.quick)
        file.write_text(json.dumps({name: asdict(one) for name, one in results.items()}, indent=1) + "\n")
        (given.out / "prove.md").write_text(page(results))
    return 0 if all(results[step.name].passed for step in ran) else 1


def run(step: Step, *, quick: bool) -> Result:
    environment = {**os.environ, **step.environment, **(step.quick_environment if quick else {})}
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            [*step.command, *(step.quick if quick else ())],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            out.write(line)
        code = process.wait()
        out.seek(0)
        figures = list(dict.fromkeys(line.rstrip() for line in out if re.search(step.shown, line)))
    return Result(
        step.proves + (" (tried at the smallest size)" if quick else ""), code == 0, round(time.monotonic() - began, 1),
        turbo.__version__, datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        f"{platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}", figures,
    )  # fmt: skip


def page(results: Mapping[str, Result]) -> str:
    lines = [
        "# Proofs at full size", "",
        "`make prove` writes this page: the tests of `make test`, at full size. It runs nightly and before a release.", "",
        "| step | proves that | result | took | turbo | when |", "| --- | --- | --- | ---: | --- | --- |",
    ]  # fmt: skip
    known = [(step.name, results[step.name]) for step in STEPS if step.name in results]
    for name, one in known:
        result = "passed" if one.passed else "**failed**"
        lines.append(f"| {name} | {one.proves} | {result} | {one.seconds:.0f} s | {one.version} | {one.at} |")
    for name, one in known:
        table = [line for line in one.figures if line.startswith("|")]
        text = [line for line in one.figures if line not in table]
        lines += ["", f"## {name}", "", f"{one.machine}.", ""]
        lines += ["```text", *text, "```", *([""] if table else []), *table]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
