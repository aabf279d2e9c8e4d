"""`python -m benchmarks`: run measures, print their tables, write docs/benchmarks. See `make bench`."""

import argparse
import shlex
import sys
from pathlib import Path

from benchmarks import guard, report
from benchmarks.bench import SERVER_SETTINGS, Bench
from benchmarks.contender import ROOT
from benchmarks.contenders import contenders
from benchmarks.measures import MEASURES
from turbo import embedded

RECORDED = ROOT / "docs" / "benchmarks"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help=f"of {', '.join(MEASURES)}; several with commas")
    parser.add_argument("--contenders", default="", help="names or files of contenders, with commas; default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: does the runner work?")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a ratio is worse than the recorded one")
    parser.add_argument("--out", type=Path, default=RECORDED, help="'-' writes nothing")
    options = parser.parse_args()
    wanted = [name for name in options.only.split(",") if name] or list(MEASURES)
    if unknown := set(wanted) - set(MEASURES):
        parser.error(f"no measure {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    left_out = {c.name: reason for c in contenders() if (reason := c.unavailable()) is not None}
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    said = (("--rounds", options.rounds), ("--only", options.only), ("--contenders", options.contenders))
    command = shlex.join(["python", "-m", "benchmarks", *(str(word) for pair in said if pair[1] for word in pair)])
    with embedded.temporary(trust=True, settings=SERVER_SETTINGS) as server:
        bench = Bench(
            server,
            1 if options.quick else options.rounds,
            options.quick,
            [name for name in options.contenders.split(",") if name],
        )
        problems: list[str] = []
        recorded = report.recorded(RECORDED if str(options.out) == "-" else options.out)
        for name in wanted:
            bench.say(f"{name}:")
            table = MEASURES[name](bench)
            print(report.text(table), flush=True)
            problems += guard.worse(recorded.get(name), table)
            if str(options.out) != "-":
                report.save(options.out, name, table, command, left_out)
    if str(options.out) != "-":
        report.write(options.out)
    for problem in problems:
        print(f"worse: {problem}", file=sys.stderr)
    return 1 if problems and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
