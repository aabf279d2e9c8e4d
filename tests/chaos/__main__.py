"""`make chaos`: every scenario in its long form, and the table of docs/reliability.md.

    python -m tests.chaos [--only WORD]… [--rounds 3] [--window 6] [--seconds 4] [--json FILE]

With --json, results are kept by scenario, and the table shows all that are there: scenarios can be run in portions.
Exit 1 when something was lost, recorded twice, or the throughput after is less than 95 % of that before.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from tests.chaos.faults import FAULTS, possible
from tests.chaos.fleet import RUN_SECONDS, SLOTS, WORKERS, say
from tests.chaos.scenario import Measured, measure

HEAD = (
    "| fault | before | during | after | after / before | recovery | tasks | lost | recorded twice | runs per task | shown by |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
)


def row(m: Measured) -> str:
    return (
        f"| {m.fault} | {m.before:.1f}/s | {m.during:.1f}/s | {m.after:.1f}/s | {m.ratio:.0%} | {m.recovery:.1f} s"
        f" | {m.tasks} | {m.lost} | {m.recorded_twice} | {m.runs_per_task:.3f} | {m.bites} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--only", action="append", default=[], help="scenarios whose name has this word")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window", type=float, default=6.0, help="seconds of baseline before and after each fault")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each fault")
    parser.add_argument("--json", type=Path, help="keep results here")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    chosen = [f for f in FAULTS if not given.only or any(word in f.name for word in given.only)]
    if given.list:
        print("\n".join(f.name for f in chosen))
        return 0
    kept: dict[str, dict[str, object]] = {}
    if given.json and given.json.exists():
        kept = json.loads(given.json.read_text())
    complaints = []
    for fault in chosen:
        if not possible(fault):
            say(f"{fault.name}: left out, it needs root")
            continue
        with tempfile.TemporaryDirectory(prefix="turbo-chaos-") as path:
            try:
                measured = measure(
                    fault.name, [fault] * given.rounds, Path(path), window=given.window, seconds=given.seconds
                )
            except AssertionError as error:
                complaints.append(f"{fault.name}: {error}")
                say(complaints[-1])
                continue
        say(row(measured))
        complaints += [f"{fault.name}: {what}" for what in measured.complaints(ratio=0.95)]
        kept[fault.name] = measured.json()
        if given.json:
            given.json.write_text(json.dumps(kept, indent=1))
    print(
        f"{platform.system()}, {os.cpu_count()} cores; {WORKERS} workers, {SLOTS} slots each, runs of {RUN_SECONDS} s;"
    )
    print(f"{given.rounds} rounds, windows of {given.window:g} s, faults of {given.seconds:g} s and more\n")
    print("\n".join([*HEAD, *(row(Measured(**kept[f.name])) for f in FAULTS if f.name in kept)]))  # type: ignore[arg-type]
    for complaint in complaints:
        print(f"\nnot as promised: {complaint}")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
