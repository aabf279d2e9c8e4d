"""docs/benchmarks/cost.json, the recorded figures; cost.md, the page for people; and the table that `make cost` prints."""

import datetime
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

TOLERANCE = 1.02
"""`--check`: a figure may be this many times the recorded one."""

LABELS = {"claim": "claim of", "finish": "finish of", "poll": "poll, due:", "insert": "insert of"}

PAGE = """# What a statement costs

`make cost` writes this page. It counts the instructions of the PostgreSQL backend for each statement of the engine. A
clock on a shared machine is too coarse for a change of one per cent. A count of instructions repeats to 0.1 %, for
inserts to 0.3 %, because their ids are random.

    make cost                          # measure, and compare with the figures below
    make cost COST='--only claim'      # some statements
    make cost COST=--check             # exit code 1 if a figure is more than 2 % above the recorded one
    make cost COST=--record            # measure all, and write the figures below

It needs valgrind (`apt-get install valgrind`). A run takes two minutes on two idle cores.

## Figures

{table}

{when}, commit {commit}, {versions}.

## How it is measured

- Each statement runs in a single-user server (`postgres --single`) under valgrind's callgrind. It runs twice, with
  different numbers of calls, on copies of the same database. The figure is the difference, divided by the additional
  calls. Start, warm-up, planning and the reading of the text are in both runs and cancel out. The checkpoint at the end
  is not counted.
- A worker's statements are prepared with generic plans, as workers prepare them. An insert is plain SQL and is parsed
  and planned by each call. Each statement is a transaction. No worker is idle, so no insert notifies.
- A claim of 100 takes 100 of the 150 tasks that wait in its queue. A finish of 100 records 100 running tasks in one
  batch. A poll promotes the tasks that fell due since the last one. An insert of 100 is one `INSERT … SELECT`.
- The table holds about 30,000 tasks, all in memory. No task uses a key, a retry or another option.
- The server keeps no statistics (`track_counts = off`). It would write them once a second, by the clock.
- Some costs come in lumps: when a page of an index is full, the backend cleans or splits it. A change that moves such a
  lump into or out of the measured calls can move a figure by half a per cent.
- The rows that the calls wrote are counted after each run. A statement that did not do its work ends the measurement.

Compare figures only with those of the same PostgreSQL and the same valgrind.
"""


@dataclass(frozen=True, slots=True)
class Record:
    """Recorded figures: thousand instructions of a call, by the name of the measure."""

    when: str
    commit: str
    versions: dict[str, str]
    thousands: dict[str, float]


def read(directory: Path) -> Record | None:
    """What is recorded there, None if nothing is."""
    file = directory / "cost.json"
    return Record(**json.loads(file.read_text())) if file.exists() else None


def write(directory: Path, versions: dict[str, str], thousands: Mapping[str, float]) -> None:
    """Record these figures in cost.json, and write cost.md."""
    figures = {name: round(value, 1) for name, value in thousands.items()}
    record = Record(datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"), _commit(), versions, figures)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cost.json").write_text(json.dumps(asdict(record), indent=1) + "\n")
    rows = [
        f"| {label(name)} | {value:,.0f} | {value / int(name.split()[1]):,.1f} |" for name, value in figures.items()
    ]
    table = "\n".join(["| statement | thousand instructions | per row |", "| --- | ---: | ---: |", *rows])
    page = PAGE.format(table=table, when=record.when, commit=record.commit, versions=_said(versions))
    (directory / "cost.md").write_text(page)


def label(name: str) -> str:
    """`claim 100` as the table shows it: claim of 100."""
    statement, rows = name.split()
    return f"{LABELS[statement]} {rows}"


def header() -> str:
    return f"{'thousand instructions a call':30}{'now':>10}{'recorded':>10}{'ratio':>8}"


def line(name: str, thousand: float, record: Record | None) -> str:
    before = record and record.thousands.get(name)
    compared = f"{before:10,.1f}{thousand / before:8.3f}" if before else f"{'–':>10}{'–':>8}"
    return f"{label(name):30}{thousand:10,.1f}{compared}"


def too_dear(thousands: Mapping[str, float], record: Record | None) -> list[str]:
    """What `--check` finds: a sentence for each figure that is more than TOLERANCE above its recorded one, or has none."""
    found = []
    for name, thousand in thousands.items():
        before = record and record.thousands.get(name)
        if not before:
            found.append(f"{label(name)}: no figure is recorded (make cost COST=--record)")
        elif thousand > TOLERANCE * before:
            found.append(
                f"{label(name)}: {thousand / before - 1:.1%} dearer than recorded; {TOLERANCE - 1:.0%} are allowed"
            )
    return found


def unlike(versions: dict[str, str], record: Record | None) -> str | None:
    """A note when the recorded figures come from other programs, and so do not compare."""
    if record is None or record.versions == versions:
        return None
    return f"note: recorded with {_said(record.versions)}, measured with {_said(versions)}: the figures do not compare"


def _said(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{program} {version}" for program, version in versions.items())


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", ":/turbo", ":/migrations"], capture_output=True, text=True
    ).stdout.strip()
    return f"{commit or 'unknown'}{' with changes' if changed else ''}"
