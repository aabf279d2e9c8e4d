"""One scenario: baseline, fault, baseline, fault …, then the count of what was lost, recorded twice, run again.

before ──window──▶ fault ──its seconds──▶ recovering ──▶ after (= before of the next round) ──▶ … ──▶ drained
"""

import contextlib
import itertools
import re
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.chaos.faults import Fault, small_disks
from tests.chaos.fleet import RUN_SECONDS, SLOTS, WORKERS, Fleet, fleet
from tests.support.waiting import until

RECOVERED = 0.8
"""Of the rate before, over one second: the first such second ends the recovery. A window's rate then is compared whole."""

LIMIT_SECONDS = 90.0
NAMED_SECONDS = 60.0
"""`turbo status` and `turbo doctor` promise that nothing is silently wrong for longer."""

LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Measured:
    """Rates are recorded results per second; `recovery`: the longest of the rounds, seconds from the fault's end."""

    fault: str
    bites: str
    before: float
    during: float
    after: float
    recovery: float
    tasks: int
    lost: int
    recorded_twice: int
    runs_per_task: float
    repeated: int  # tasks whose program ran to its end more than once

    @property
    def ratio(self) -> float:
        return self.after / self.before

    def complaints(self, *, ratio: float | None) -> list[str]:
        """What is not as promised. `ratio`: the least of after / before."""
        found = []
        if self.lost:
            found.append(f"{self.lost} tasks lost")
        if self.recorded_twice:
            found.append(f"{self.recorded_twice} tasks recorded twice")
        if ratio is not None and self.ratio < ratio:
            found.append(f"throughput after is {self.ratio:.0%} of that before")
        return found

    def json(self) -> dict[str, object]:
        return asdict(self)


def measure(
    name: str, faults: Sequence[Fault], path: Path, *, window: float, seconds: float, without: Sequence[str] = ()
) -> Measured:
    """One fleet, and a round for each of `faults`. Raises AssertionError when one did not bite, or the fleet does not come
    back."""
    windows: list[tuple[float, float]] = []
    broken: list[tuple[float, float]] = []
    bites: dict[str, list[str]] = {}
    disks = small_disks(path, WORKERS) if any(f.small_disk for f in faults) else contextlib.nullcontext()
    through_proxy = any(f.through_proxy for f in faults)
    fetching = any(f.fetching for f in faults)
    with disks, fleet(path, through_proxy=through_proxy, fetching=fetching, without=without) as one:
        until(lambda: len(one.finished_at()) > 2 * WORKERS * SLOTS, 60, "warm", pause=LOOK_SECONDS)
        windows.append(quiet_window(window))
        for fault in faults:
            begun = time.time()
            with fault.inject(one, max(seconds, fault.at_least)) as bit:
                if fault.named and not without:
                    until(
                        lambda fault=fault: re.search(fault.named, one.status()),  # type: ignore[misc]
                        NAMED_SECONDS,
                        lambda fault=fault: f"status names {fault.name} as {fault.named!r}: {one.status()}",  # type: ignore[misc]
                        pause=LOOK_SECONDS,
                    )
                time.sleep(max(0.0, max(seconds, fault.at_least) - (time.time() - begun)))
            broken.append((begun, time.time()))
            assert bit, f"{fault.name}: the fault did not bite"
            bites[fault.name] = bit
            until(
                lambda: recovered(one, windows[0], broken[-1][1]),
                LIMIT_SECONDS,
                lambda fault=fault: f"recovered from: {fault.name}\n{one.bench.logs()[-8000:]}",  # type: ignore[misc]
                pause=LOOK_SECONDS,
            )
            windows.append(quiet_window(window))
        one.drained()
        at = one.finished_at()
        begun_runs, ended_runs = one.ledger("begin"), one.ledger("end")
        return Measured(
            fault=name,
            bites="; ".join(itertools.chain.from_iterable(bites.values())),
            before=mean_rate(at, windows[:-1]),
            during=mean_rate(at, broken),
            after=mean_rate(at, windows[1:]),
            recovery=max(recovery(at, windows[0], end) or 0.0 for _, end in broken),
            tasks=len(one.accepted),
            lost=one.lost(),
            recorded_twice=one.recorded_twice(),
            runs_per_task=begun_runs.total() / max(1, len(begun_runs)),
            repeated=sum(n > 1 for n in ended_runs.values()),
        )


def quiet_window(seconds: float) -> tuple[float, float]:
    begun = time.time()
    time.sleep(seconds)
    return begun, time.time()


def count(at: Sequence[float], begin: float, end: float) -> int:
    return bisect_left(at, end) - bisect_left(at, begin)


def mean_rate(at: Sequence[float], windows: Sequence[tuple[float, float]]) -> float:
    return sum(count(at, *w) for w in windows) / sum(end - begin for begin, end in windows)


def recovery(at: Sequence[float], baseline: tuple[float, float], end: float) -> float | None:
    """Seconds from `end` to the first second whose rate is that of the baseline again, and none of what piled up: the
    second after the first result counts. None: not yet."""
    wanted = RECOVERED * mean_rate(at, [baseline])
    for i in range(bisect_left(at, end), len(at)):
        start = at[i] + RUN_SECONDS
        if at[-1] < start + 1:
            return None
        if count(at, start, start + 1) >= wanted:
            return at[i] - end
    return None


def recovered(one: Fleet, baseline: tuple[float, float], end: float) -> bool:
    return recovery(one.finished_at(), baseline, end) is not None
