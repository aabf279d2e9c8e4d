"""`make soak`: many tasks, many random faults, from a seed; then everything is checked.

    python -m tests.soak [--tasks 10000 | --seconds 1200] [--faults 1000] [--seed N]

Exit 1 when anything was lost, recorded twice, left over, or not as its program said.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.soak.soak import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, help="as many tasks as come in that time")
    parser.add_argument("--faults", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="turbo-soak-") as path:
        report = soak(
            Path(path), tasks=None if given.seconds else given.tasks, faults=given.faults, seed=given.seed,
            seconds=given.seconds or 0.0, say=lambda s: print(s, flush=True),
        )  # fmt: skip
    print(report)
    return 1 if report.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
