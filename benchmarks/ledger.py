"""What a benchmark's handlers do: say that they ran, and when. Every Python contender's job calls `ran()`.

A line `ran <count> <ns>` on stdout; ns is CLOCK_MONOTONIC, which all processes of a machine share (graphile.mjs writes the
same). With BENCH_JOBS=n only the first and the n-th run are written, so that saying it costs a throughput nothing.
"""

import os
import time


class Ledger:
    def __init__(self) -> None:
        self._jobs = int(os.environ.get("BENCH_JOBS", "0"))
        self._count = 0

    def ran(self) -> None:
        self._count += 1
        if self._jobs == 0 or self._count == 1 or self._count == self._jobs:
            os.write(1, b"ran %d %d\n" % (self._count, time.monotonic_ns()))


ledger = Ledger()


async def noop(_task: object) -> None:
    """turbo's handler: `benchmarks.ledger:noop`."""
    ledger.ran()
