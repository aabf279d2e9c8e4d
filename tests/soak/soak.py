"""The soak: faults are injected as long as there is work, spread over all of it."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.soak.faults import failed_over, inject
from tests.soak.fleet import Fleet, fleet

SETTLE_SECONDS = 120.0
SAY_SECONDS = 15.0
LOOK_SECONDS = 0.5


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
    failovers: int
    inserted_again: int
    looks: int
    messages: "Counter[str]"
    schedules: "Counter[str]"
    slots: int
    actions: "Counter[str]"
    complaints: list[str]

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {self.tasks} tasks, {sum(self.bites.values())} faults in {self.seconds:.0f} s",
            "faults: " + ", ".join(f"{name} {n}" for name, n in self.bites.most_common()),
            f"{self.runs} runs of programs, {self.touched} tasks edited by hand, {self.restarts} workers started again",
            f"{self.failovers} failovers, after which {self.inserted_again} tasks were inserted again; {self.looks} looks at all"
            " counts of tasks that wait",
            "messages: " + ", ".join(f"{name} {n}" for name, n in self.messages.most_common()),
            "schedules: "
            + ", ".join(f"{name} {n}" for name, n in self.schedules.most_common())
            + f"; {self.actions['fired']} slots fired, {self.slots} compared with their tasks",
            "trail: " + ", ".join(f"{name} {n}" for name, n in self.actions.most_common()),
            f"not as promised: {len(self.complaints)}",
            *self.complaints[:40],
        ]
        return "\n".join(lines)


def soak(
    path: Path, *, tasks: int | None, faults: int, seed: int, say: Callable[[str], None], seconds: float = 0.0
) -> Report:
    """`tasks`, or as many as come in `seconds`."""
    say(f"seed {seed}")
    with fleet(path, tasks, seed) as one:
        began = time.monotonic()
        bites = _break(one, faults, seconds, say)
        one.enough()
        one.finish(SETTLE_SECONDS)
        took = time.monotonic() - began
        actions = Counter(dict(one.bench.sql("select action_type, count(*) from agent_actions group by 1")))
        complaints = one.complaints()
        return Report(
            seed, len(one.accepted), took, bites, sum(one.ledger("begin").values()), one.restarts, one.crashes, len(one.touched),
            one.failovers, one.inserted_again, one.looks, one.became, one.schedules.done, one.schedules.slots,
            actions, complaints,
        )  # fmt: skip


def _break(one: Fleet, faults: int, seconds: float, say: Callable[[str], None]) -> "Counter[str]":
    """All faults, in step with the work, or with the time: the last ones hit the last tasks."""
    bites: Counter[str] = Counter()
    began = said = time.monotonic()
    while sum(bites.values()) < faults:
        number, over = (
            sum(bites.values()),
            len(one.accepted) - one.open() if one.tasks is None else one.tasks - one.open(),
        )
        past = time.monotonic() - began
        share = (over + 1) / one.tasks if one.tasks is not None else past / seconds
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            say(f"{past:.0f} s: {over} tasks are over, {number} faults, {one.failovers} failovers")
        if over == one.tasks or (one.tasks is None and past > seconds):
            break
        if past > one.looks * LOOK_SECONDS:
            one.look()
        if number > faults * share + 3:
            time.sleep(0.05)
        elif bitten := inject(one, failed_over if number == faults // 2 and not one.failovers else None):
            bites[bitten] += 1
    while one.tasks is None and time.monotonic() - began < seconds:
        time.sleep(0.5)
    return bites
