"""What every part of the model shares: the fleet as it stands, the truth beside it, and what must hold after every step."""

import copy
import time
from collections import Counter
from typing import Any, ClassVar

from hypothesis.stateful import RuleBasedStateMachine, invariant

from tests.model.fleet import HEARTBEAT, HOSTS, LEASE, OLDER, FakeWorker, Home, Op, Run
from tests.model.truth import QUEUED, Truth, look
from tests.model.world import Picture, Row, World
from turbo.domain.claim import ClaimRef
from turbo.domain.result import RunResult


class Base(RuleBasedStateMachine):
    world: ClassVar[World]
    seen: ClassVar["Counter[str]"] = Counter()
    """What happened, over all runs: a model in which a fault never bites shows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.world.reset()
        self.run = self.world.run
        self.passed = 0.0  # seconds that only the model saw passing
        self.truth = Truth()
        self.saved = copy.deepcopy(self.truth)
        self.slots: list[FakeWorker | None] = [None] * len(HOSTS)
        self.disks: dict[str, list[Home]] = {host: [] for host in HOSTS}
        self.tokens: dict[int, ClaimRef] = {}  # every token that was ever handed out, in any line of history
        self.results: dict[ClaimRef, RunResult] = {}  # every success anybody ever had
        self.heard: set[tuple[str, int]] = (
            set()
        )  # what agents were told, whatever became of the database: (message, token)
        self.counted: dict[str, tuple[int, float]] = {}  # silent beats, and when the last was counted
        self.numbers = 0
        self.before = self.world.picture()
        self.exact = True  # whether `before` is what the last statement saw

    @property
    def now(self) -> float:
        """The clock of stored moments: they are pushed into the past, and time goes by as it does."""
        return self.passed + time.monotonic()

    # ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def workers(self) -> list[FakeWorker]:
        return [w for w in self.slots if w is not None]

    def pick(self, items: list[Any], i: int) -> Any:
        return items[i % len(items)] if items else None

    def waiting(self) -> int:
        return sum(r["status"] == "pending" for r in self.before.tasks.values())

    def running(self) -> bool:
        return any(w.runs for w in self.workers)

    def polled(self) -> list[str]:
        rows = self.before.tasks.values()
        return sorted(r["task_id"] for r in rows if r["status"] == "running" and r["fencing_token"] is None)

    @invariant()
    def everything_holds(self) -> None:
        picture = self.world.picture()
        self.lives_hold(picture.workers)
        look(picture, self.truth)
        self._runs_are_ours(picture)
        self._wishes(picture)
        self.also_holds(picture)
        self.before = picture

    def also_holds(self, picture: Picture) -> None:
        """What else must: of graphs and conversations (tests/model/graphs.py)."""

    def run_begins(self, worker: FakeWorker, run: Run) -> None:
        """What it is told at its start (tests/model/messages.py)."""

    def lives_hold(self, rows: dict[str, Row]) -> None:
        """Nobody is declared dead before its time; whoever is, may lose its runs."""
        for worker in self.workers:
            row = rows.get(worker.id)
            silence = self.now - self.truth.beats.get(worker.id, float("-inf"))
            if row is None or row["state"] == "dead":
                self.seen["alive and declared dead"] += 1
                assert row is None or silence >= LEASE - 1, f"{worker.id} is dead after {silence} s of silence"
                for run in worker.runs.values():
                    run.excused = True
            else:
                count, at = self.counted.get(worker.id, (0, float("-inf")))
                if row["silent_beats"] > count:
                    assert row["silent_beats"] == count + 1, f"{worker.id}: several beats counted at once"
                    assert self.now - at >= 0.9 * HEARTBEAT - 1, f"{worker.id}: counted twice within {self.now - at} s"
                    assert silence >= 1.5 * HEARTBEAT - 1, f"{worker.id}: counted after {silence} s"
                if row["silent_beats"] != count:
                    self.counted[worker.id] = (row["silent_beats"], self.now)

    def _runs_are_ours(self, picture: Picture) -> None:
        """While a program lives, and until its result is recorded, the row and its key are its own."""
        for worker in self.workers:
            for held, run in worker.runs.items():
                if run.excused or run.in_doubt:
                    continue
                row = picture.tasks.get(held.task_id)
                assert row is not None, f"{held} is gone under {worker.id}"
                found = (row["status"], row["fencing_token"], row["assigned_worker_id"])
                assert found == ("running", held.token, worker.id), f"{worker.id} runs {held}, its row says {found}"

    def _wishes(self, picture: Picture) -> None:
        """What somebody asked of a running task is what it becomes."""
        for task_id, row in self.before.tasks.items():
            now = picture.tasks.get(task_id)
            wish = row["cancel_to"]
            if (
                now is None
                or not self.exact
                or row["status"] != "running"
                or wish is None
                or now["status"] == "running"
            ):
                continue
            done = now["status"] == "completed" and wish in ("cancelled", "completed")
            queued = now["status"] in (*QUEUED, "blocked") if OLDER in picture.workers else now["status"] in QUEUED
            assert now["status"] == wish or (queued and wish in QUEUED) or done, (
                f"{task_id} became {now['status']}, asked was {wish}"
            )
            early = wish in QUEUED and now["status"] in QUEUED and row["future"] and now["run_after"] < row["run_after"]
            assert not early, f"{task_id} is due {now['run_after']}, asked was {wish} at {row['run_after']}"

    def do(self, op: Op | None, *, lost: bool = False) -> None:
        if op is not None:
            self.exact = True
            op.take(self.run(op.send()), lost)
