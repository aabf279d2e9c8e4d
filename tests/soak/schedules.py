"""The schedules of the soak: people add, edit, pause and remove them while their slots fire; and what must be so of their slots."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg

from tests.support.waiting import until
from tests.support.workers import Bench
from turbo.domain.schedule import CatchUp, Overlap, timetable

KEY = "schedule "
"""How the keys of their tasks begin."""

NAMES = [f"s{n}" for n in range(4)]
CRONS = ("* * * * * *", "*/2 * * * * *", "1-59/3 * * * * *")
DATA = '{"seconds": "0", "fails": "0", "asks": "0"}'
AS_LEFT = "cron, enabled, since"
ADD = (
    "insert into agent_schedules (name, cron, catch_up, overlap, task_type, input_data, task_description)"
    " values (%s, %s, %s, %s, %s, %s, 'x')"
)
BEHIND = "select name from agent_schedules where enabled and (next_at is null or next_at <= %s)"


@dataclass
class Span:
    """Slots of one expression, without a break: those after `first` up to `last`. None: it goes on, or none came."""

    cron: str
    first: datetime
    last: datetime | None = None

    def slots(self) -> Iterator[datetime]:
        if self.last is not None:
            for slot in timetable(self.cron).from_here(self.first):
                if slot > self.last:
                    return
                yield slot


@dataclass
class Life:
    """One schedule, from its insert to its removal. `unsure`: somebody's change of it was lost, or nobody knows."""

    name: str
    catch_up: str
    overlap: str
    spans: list[Span] = field(default_factory=list)
    as_left: tuple[Any, ...] = ()  # by its last change: its expression, whether it is on, and since when slots count
    skipped: int = 0
    changed_at: float = 0.0  # on our clock
    removed: bool = False
    unsure: bool = False

    @property
    def enabled(self) -> bool:
        return bool(self.as_left[1])

    def changed(self, as_left: tuple[Any, ...], last_at: datetime | None, *, removed: bool) -> None:
        """A change of it was committed, when its last slot was `last_at`. Slots count anew, unless the change was none."""
        self.changed_at, self.removed = time.monotonic(), removed
        if not removed and as_left == self.as_left:
            return
        if self.spans and self.spans[-1].last is None:
            self.spans[-1].last = last_at
        self.as_left = as_left
        cron, enabled, since = as_left
        if enabled and not removed:
            self.spans.append(Span(cron, max(since, last_at or since)))


@dataclass
class Schedules:
    lives: list[Life] = field(default_factory=list)
    done: "Counter[str]" = field(default_factory=Counter)

    gone: list[str] = field(default_factory=list)
    slots: int = 0  # that were compared with their tasks, afterwards

    def act(self, bench: Bench, dice: random.Random) -> None:
        """One change of one schedule, chosen at random."""
        name = dice.choice(NAMES)
        life = self._living().get(name)
        if life is None:
            bench.sql("delete from agent_schedules where name = %s", name)
            life = Life(name, dice.choice([*CatchUp]), dice.choice([*Overlap]))
            columns = (name, dice.choice(CRONS), life.catch_up, life.overlap, dice.choice(("echo", "work")), DATA)
            self.lives.append(life)
            self._do(bench, life, "added", ADD, *columns)
        elif (kind := dice.random()) < 0.15:
            self._do(bench, life, "removed", "delete from agent_schedules where name = %s", name)
        elif kind < 0.5:
            edit = "update agent_schedules set cron = %s where name = %s"
            self._do(bench, life, "edited", edit, dice.choice(CRONS), name)
        else:
            self._switch(bench, life, on=not life.enabled)

    def failed_over(self, bench: Bench, received: float) -> None:
        """Changes may be lost: what is not as its last change left it is removed, and promises nothing. `received`: until when the
        standby had everything, on our clock."""
        rows = {name: tuple(row) for name, *row in bench.sql(f"select name, {AS_LEFT} from agent_schedules")}
        for life in self.lives:
            if life.removed and life.changed_at > received:
                life.unsure = True
            if not life.removed and rows.get(life.name) != life.as_left:
                life.unsure = life.removed = True
        self._tidy(bench)

    def end(self, bench: Bench) -> None:
        """All that is due by now is fired; then no more."""
        self._tidy(bench)
        now = bench.sql("select clock_timestamp()")[0][0]
        until(lambda: not bench.sql(BEHIND, now), 60, "every slot that was due is dealt with")
        for life in self._living().values():
            if life.enabled:
                self._switch(bench, life, on=False)

    def complaints(self, trail: list[dict[str, Any]]) -> Iterator[str]:
        """Each slot of each life has one task, or was passed over and counted; and no other slot has any."""
        fired: dict[str, Counter[datetime]] = {}
        for entry in trail:
            if entry["action_type"] == "fired":
                detail = entry["detail"]
                fired.setdefault(detail["schedule"], Counter())[datetime.fromisoformat(detail["slot"])] += 1
        for name, counts in fired.items():
            yield from (f"slot {slot} of {name} has {n} tasks" for slot, n in counts.items() if n > 1)
            lives = [life for life in self.lives if life.name == name]
            if not any(life.unsure for life in lives):
                other = set(counts) - {slot for life in lives for span in life.spans for slot in span.slots()}
                yield from (f"{slot} of {name} has a task, and is no slot of it" for slot in sorted(other))
        yield from (f"{name} is gone" for name in self.gone)
        for life in self.lives:
            if not life.unsure:
                yield from self._slots_of(life, fired.get(life.name, Counter()))

    def _slots_of(self, life: Life, fired: "Counter[datetime]") -> Iterator[str]:
        slots = [slot for span in life.spans for slot in span.slots()]
        self.slots += len(slots)
        without = [slot for slot in slots if slot not in fired]
        if len(without) != life.skipped:
            yield f"{life.name} passed over {life.skipped} slots, and has no task at {len(without)}: {without[:10]}; {life}"
        if without and life.catch_up == CatchUp.ALL and life.overlap == Overlap.QUEUE:
            yield f"{life.name} was to fire each slot, and did not at {without[:10]}; {life}"

    def _living(self) -> dict[str, Life]:
        return {life.name: life for life in self.lives if not life.removed}

    def _tidy(self, bench: Bench) -> None:
        bench.sql("delete from agent_schedules where name <> all(%s)", list(self._living()))

    def _switch(self, bench: Bench, life: Life, *, on: bool) -> None:
        switch = "update agent_schedules set enabled = %s where name = %s"
        self._do(bench, life, "resumed" if on else "paused", switch, on, life.name)

    def _do(self, bench: Bench, life: Life, what: str, statement: str, *parameters: object) -> None:
        try:
            rows = bench.sql(f"{statement} returning {AS_LEFT}, last_at, skipped", *parameters)
        except psycopg.Error:  # whether it was committed, nobody knows
            life.unsure = life.removed = True
            raise
        if not rows:
            self.gone.append(life.name)
            life.unsure = life.removed = True
            return
        self.done[what] += 1
        *as_left, last_at, life.skipped = rows[0]
        life.changed(tuple(as_left), last_at, removed=what == "removed")
