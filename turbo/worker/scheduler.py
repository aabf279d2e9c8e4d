"""The scheduler: inserts the tasks of schedules when their slots come. Every worker has one, and none leads.

    waits for the next slot ──it comes; a schedule changes; a poll sees one due──▶ looks ──▶ computes slots ──▶ fires ──▶ waits
          ▲ └── another worker fired it: waits for the one after that                                                       │
          └────────────────────────────────────────────────────────────────────────────────────────────────────────────────┘

Slots are moments of the database's clock: every answer brings it, and each poll corrects the timer. This host's clock is never
read. What is fired is fenced in the database (turbo_fire), so any number of workers may try; to spare it that, whoever fired
last fires first, and the others come a little later, if nobody has told them by then. Between slots nothing is asked.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from turbo import db
from turbo.db.schedule_store import DueSchedule, Fired, Firing, Look, ScheduleStore
from turbo.domain.schedule import ScheduleError, UnknownZone, time_zone, timetable
from turbo.observability.metrics import Metrics
from turbo.runtime.backoff import Backoff
from turbo.runtime.service import LoopService
from turbo.runtime.signal import Signal

log = logging.getLogger(__name__)

SPREAD_SECONDS = (0.015, 0.045)
"""How much later a worker looks that did not fire the last slot: one of them is first, and its notification stops the others."""

AGAIN_CAP = 5.0
"""Seconds at most until the next look at schedules that somebody has locked."""

DEFECT_SECONDS = 30.0
"""Until the next look after one that ended in an error of turbo's own."""

MOST_SLOTS = 100
"""That one statement fires: it is cut off after some seconds, and claims wait for it (turbo.worker.wiring). After one that failed, the
next ones fire fewer: tasks of megabytes take longer."""

OVERDUE_SECONDS = 0.5
"""A poll that saw a slot as late as this is believed, whatever notifications say: anybody may send those."""

JUDGE_SECONDS = 0.5
"""After a task has failed, until it is asked whether it was a schedule's: many fail at once in bad times."""


class Scheduler(LoopService):
    """`looked` is emitted after each look, with what was fired."""

    name = "scheduler"

    def __init__(self, store: ScheduleStore, metrics: Metrics, *, spread: tuple[float, float] = SPREAD_SECONDS) -> None:
        """`spread`: the least and the greatest delay of a worker that did not fire the last slot, in seconds."""
        super().__init__()
        self._store = store
        self._metrics = metrics
        self._spread = spread
        self._event = asyncio.Event()
        self._clock = 0.0  # the database's, in seconds since 1970, when the monotonic clock was 0
        self._at: float | None = None  # the next slot, in seconds since 1970; 0 for now
        self._known_at = float("-inf")  # monotonic: what was asked before that is older than what is known
        self._look_at: float | None = 0.0  # monotonic: a look because of a change, or because something was left
        self._first = False  # this worker fired the last slot
        self._mine: tuple[float, float | None] | None = None  # what it told the others then
        self._delay = 0.0
        self._watched = False
        self._judge_at: float | None = None  # monotonic
        self._again = Backoff(cap=AGAIN_CAP)
        self._most = MOST_SLOTS
        self._lacking: set[str] = set()  # time zones that this host does not know
        self.looked: Signal[tuple[Fired, ...]] = Signal()

    # ── what other parts tell ───────────────────────────────────────────────────────────────────────────────────────

    def heard(self, words: str) -> None:
        """A notification: nothing, because somebody changed a schedule; or `<upto> <next>`, because a worker fired what was due
        up to that slot, in seconds since 1970."""
        told = _told(words)
        if told is None:
            self._look_soon(self._draw())
            return
        if told == self._mine:
            return
        self._first, self._mine = False, None
        upto, next_at = told
        if self._at is None or self._at <= upto or (next_at is not None and next_at < self._at):
            self._wait_for(next_at)

    def polled(self, slot_in: float | None, clock: float, asked_at: float) -> None:
        """What a poll saw: the next slot, and the database's clock. The poll may be older than what is known."""
        self._clock = clock - asked_at
        if slot_in is not None and slot_in <= 0 and self._look_at is not None:
            return
        if asked_at >= self._known_at:
            self._wait_for(None if slot_in is None else clock + slot_in)
        elif slot_in is not None and slot_in <= -OVERDUE_SECONDS:
            self._look_soon(self._draw())

    def task_failed(self) -> None:
        """A task has failed for good. It may be one of a schedule that pauses itself."""
        if self._watched and self._judge_at is None:
            self._judge_at = time.monotonic() + JUDGE_SECONDS
            self._event.set()

    # ── looks ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        outage = db.outage(log, "cannot fire schedules", "firing schedules again")
        self._look_soon(self._draw())
        self.started.set()
        while True:
            await self._wait()
            try:
                if self._judge_at is not None and self._judge_at <= time.monotonic():
                    self._say_paused(await self._store.judge())
                    self._judge_at = None
                if self._is_due():
                    self.looked.emit(await self.once())
            except db.DATABASE_ERRORS as error:
                self._try_again(outage.failed(error))
            except Exception:
                # Whatever a row says must not stop every worker of the fleet.
                log.exception("a defect: cannot fire schedules; trying again in %d s", DEFECT_SECONDS)
                self._try_again(DEFECT_SECONDS)
            else:
                outage.over()

    async def once(self) -> tuple[Fired, ...]:
        """Fire what is due, until nothing is. Raises `db.DATABASE_ERRORS`."""
        done: list[Fired] = []
        aside: list[str] = []
        self._look_at = None
        while True:
            self._known_at = time.monotonic()
            look = await self._store.look(aside)
            self._clock, self._watched = look.clock - look.asked_at, look.watched
            next_at = look.next_at
            moved = 0
            unknown = [one for one in look.due if self._lacks_zone(one)]
            aside += [one.name for one in unknown]
            firings = [firing_of(one, look, self._most) for one in look.due if one not in unknown]
            for part in _portions(firings, self._most):
                fired = await self._fire(part)
                self._note(fired)
                done.append(fired)
                aside += fired.left
                next_at = fired.next_at
                moved += fired.moved
            # What a statement of fire() says is next may be a schedule that an earlier one has left. A look leaves out all of them.
            overdue = next_at is not None and next_at <= self._now()
            if not look.more and not (overdue and look.due and (moved or aside)):
                break
        self._wait_for(next_at)
        if aside:
            self._look_soon(self._again.next())
        else:
            self._again.reset()
        return tuple(done)

    async def _fire(self, firings: Sequence[Firing]) -> Fired:
        try:
            fired = await self._store.fire(firings)
        except db.DATABASE_ERRORS:
            self._most = max(1, self._most // 4)
            raise
        self._most = min(MOST_SLOTS, self._most + 1)
        return fired

    def _lacks_zone(self, schedule: DueSchedule) -> bool:
        """Whether this host cannot compute it. It is left to workers on other hosts, and the log says so once for each zone."""
        try:
            time_zone(schedule.timezone)
        except UnknownZone as error:
            if schedule.timezone not in self._lacking:
                self._lacking.add(schedule.timezone)
                log.error(
                    "schedule %s is left to other workers: %s on this host; update tzdata here", schedule.name,
                    str(error).partition(";")[0],
                )  # fmt: skip
            return True
        return False

    def _note(self, fired: Fired) -> None:
        """Log and count what was fired. Whoever moved something is the first next time."""
        if fired.moved:
            self._first, self._mine = True, (fired.upto, fired.next_at)
        for slot in fired.fired:
            log.info("schedule %s: inserted its task for %s", slot.name, slot.slot, extra={"task": slot.task_id})
            self._metrics.schedule_delay.observe(max(0.0, slot.late))
        for name, error in fired.refused:
            log.warning("schedule %s: %s", name, error)
        self._say_paused(fired.paused)
        self._metrics.schedule_slots.labels("fired").inc(len(fired.fired))
        self._metrics.schedule_slots.labels("skipped").inc(fired.skipped)
        self._metrics.schedule_slots.labels("refused").inc(len(fired.refused))

    def _say_paused(self, names: Sequence[str]) -> None:
        for name in names:
            log.warning("schedule %s has paused itself: too many of its tasks failed in a row", name)

    # ── the timer ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _now(self) -> float:
        """The database's clock, in seconds since 1970."""
        return time.monotonic() + self._clock

    def _draw(self) -> float:
        return 0.0 if self._first else random.uniform(*self._spread)

    def _wait_for(self, slot_at: float | None) -> None:
        self._at = slot_at
        self._known_at = max(self._known_at, time.monotonic())
        self._delay = self._draw()
        self._event.set()

    def _look_soon(self, seconds: float) -> None:
        at = time.monotonic() + seconds
        if self._look_at is None or at < self._look_at:
            self._look_at = at
            self._event.set()

    def _try_again(self, seconds: float) -> None:
        self._at = None
        if self._judge_at is not None:
            self._judge_at = time.monotonic() + seconds
        self._look_soon(seconds)

    def _due_in(self) -> float | None:
        """Seconds until a look is due. None: at no time that is known."""
        times = []
        if self._look_at is not None:
            times.append(self._look_at - time.monotonic())
        if self._at is not None:
            times.append(self._at + self._delay - self._now())
        return min(times, default=None)

    def _is_due(self) -> bool:
        due_in = self._due_in()
        return due_in is not None and due_in <= 0

    async def _wait(self) -> None:
        """Until there is something to do."""
        while True:
            self._event.clear()
            due_in = self._due_in()
            if self._judge_at is not None:
                judge_in = self._judge_at - time.monotonic()
                due_in = judge_in if due_in is None else min(due_in, judge_in)
            if due_in is not None and due_in <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(due_in):
                    await self._event.wait()


def _portions(firings: Sequence[Firing], most: int) -> Iterator[list[Firing]]:
    """As many as one statement takes: `most` slots, or a single schedule's."""
    part: list[Firing] = []
    for firing in firings:
        if part and sum(len(one.slots) for one in (*part, firing)) > most:
            yield part
            part = []
        part.append(firing)
    if part:
        yield part


def _told(words: str) -> tuple[float, float | None] | None:
    """What a notification says: `<upto> <next>`, or `<upto> -`. None: nothing that can be used. Anybody may send one, so what it
    says is taken for no longer than until the next poll."""
    upto, _, following = words.partition(" ")
    try:
        told = float(upto), None if following == "-" else float(following)
    except ValueError:
        return None
    return told if all(math.isfinite(one) for one in told if one is not None) else None


def firing_of(schedule: DueSchedule, look: Look, most: int = MOST_SLOTS) -> Firing:
    """What is to be done about a schedule at the moment of `look`, `most` slots at most."""
    try:
        table = timetable(schedule.cron, schedule.timezone)
    except ScheduleError as error:
        return Firing(schedule, error=str(error))
    first = schedule.next_at
    if first is None:
        first = table.after(max(schedule.since, schedule.last_at or schedule.since))
        if first is None or first > look.now:
            return Firing(schedule, later=first)
    due = table.due(first, look.now, schedule.catch_up)
    if len(due.slots) > most:  # the rest stays due, and the next look finds it
        return Firing(schedule, due.slots[:most], due.missed, due.slots[most - 1], due.slots[most])
    return Firing(schedule, due.slots, due.missed, due.upto, due.later)
