"""The soak: faults are injected as long as there is work, spread over all of it."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.soak.faults import inject
from tests.soak.fleet import Fleet, fleet

SETTLE_SECONDS = 120.0
SAY_SECONDS = 15.0


@dataclass(frozen=True)
class Report:
    seed: int
    tasks: int
    seconds: float
    bites: "Counter[str]"
    runs: int
    restarts: int
    crashes: int
    touched: int
    actions: "Counter[str]"
    complaints: list[str]

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {self.tasks} tasks, {sum(self.bites.values())} faults in {self.seconds:.0f} s",
            "faults: " + ", ".join(f"{name} {n}" for name, n in self.bites.most_common()),
            f"{self.runs} runs of programs, {self.touched} tasks edited by hand, {self.restarts} workers started again",
            "trail: " + ", ".join(f"{name} {n}" for name, n in self.actions.most_common()),
            f"not as promised: {len(self.complaints)}",
            *self.complaints[:40],
        ]
        return "\n".join(lines)


def soak(path: Path, *, tasks: int, faults: int, seed: int, say: Callable[[str], None]) -> Report:
    say(f"seed {seed}")
    with fleet(path, tasks, seed) as one:
        began = time.monotonic()
        bites = _break(one, faults, say)
        one.finish(SETTLE_SECONDS)
        seconds = time.monotonic() - began
        actions = Counter(dict(one.bench.sql("select action_type, count(*) from agent_actions group by 1")))
        return Report(
            seed, tasks, seconds, bites, sum(one.ledger("begin").values()), one.restarts, one.crashes, len(one.touched),
            actions, one.complaints(),
        )  # fmt: skip


def _break(one: Fleet, faults: int, say: Callable[[str], None]) -> "Counter[str]":
    """All faults, in step with the work: the last ones hit the last tasks."""
    bites: Counter[str] = Counter()
    said = time.monotonic()
    while sum(bites.values()) < faults:
        done = one.tasks - one.open()
        if sum(bites.values()) > faults * (done + 1) / one.tasks + 3:
            time.sleep(0.05)
            continue
        if bitten := inject(one):
            bites[bitten] += 1
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            say(f"{done} of {one.tasks} tasks are over, {sum(bites.values())} faults")
        if done == one.tasks:
            break
    return bites
