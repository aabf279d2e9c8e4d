"""`make cost`: count the instructions of each statement, and show them beside the recorded figures."""

import argparse
import sys
from pathlib import Path

from benchmarks.cost import record
from benchmarks.cost.backend import CostError, backend
from turbo.embedded import EmbeddedError

RECORDED = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"
STATEMENTS = tuple(record.LABELS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__)
    parser.add_argument("--only", default="", help=f"of {', '.join(STATEMENTS)}; several with commas")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks/cost.json and cost.md")
    parser.add_argument(
        "--check", action="store_true", help="exit code 1 if a figure is more than 2 %% above the recorded one"
    )
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name]
    if unknown := set(only) - set(STATEMENTS):
        parser.error(f"no statement {', '.join(sorted(unknown))}; there are {', '.join(STATEMENTS)}")
    if options.record and only:
        parser.error("--record needs all statements: leave out --only")

    recorded = record.read(RECORDED)
    thousands: dict[str, float] = {}
    try:
        with backend() as server:
            if note := record.unlike(server.versions, recorded):
                print(note, file=sys.stderr)
            print(record.header(), flush=True)
            for measure in server.measures:
                if not only or measure.statement in only:
                    thousands[measure.name] = server.cost(measure) / 1000
                    print(record.line(measure.name, thousands[measure.name], recorded), flush=True)
            versions = server.versions
    except (CostError, EmbeddedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    problems = record.too_dear(thousands, recorded) if options.check else []
    for problem in problems:
        print(problem, file=sys.stderr)
    if options.record:
        record.write(RECORDED, versions, thousands)
        print(f"recorded in {RECORDED / 'cost.json'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
