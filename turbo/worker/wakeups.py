"""Wake-ups: which queues the claimer should claim from, and when it should poll. Other parts write, the claimer reads.

    a notification, a freed slot, a poll that saw a runnable task ──▶ a queue to claim from
    the next scheduled task, a recheck, a turn on standby ──────────▶ a time to poll

**Rechecks** close the notify gate's one race. A trigger that looked before this worker's idle flag was committed sends no
NOTIFY, and its row may become visible only after the worker's last claim. So a worker that has just become idle polls once
more. If transactions that may hold such a row were open then, it polls again after 5 ms, 10 ms, 20 ms … until all of them
have ended, or the fallback poll is due sooner. Such a row waits about as long as its own transaction stayed open. A worker
that was idle all along has no such race.

**Standby**: of many idle workers the trigger wakes as many as it inserted rows (rank 0), and puts three on standby (rank 1
and up). Those poll a little later, in turn, to see whether the row is still there. It is gone by then, unless the woken
worker is dead or has just become busy. A worker on standby that sees a row polls a second time before it claims.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from turbo.db.polls import PollResult

RECHECK_FIRST_SECONDS = 0.005
RECHECK_GROWTH = 2.0
DUE_SLACK_SECONDS = 0.001

STANDBY_SECONDS = 0.02
STANDBY_GROWTH = 5.0
SECOND_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class DuePoll:
    """Why a poll is due now."""

    standby: bool
    recheck: bool


@dataclass(frozen=True, slots=True)
class WokenQueues:
    """Queues to claim from, which of them a notification named, and for which this worker has rank 0. `key_freed`: a run of its
    own that had a key, or was of a conversation, has ended."""

    queues: tuple[str, ...]
    by_notify: frozenset[str]
    called: frozenset[str]
    key_freed: bool = False


class WakeUps:
    """For one worker, on its event loop. `idle`: the idle flag in the database, as far as this worker knows. `at_rest`: the
    claimer is waiting in `wait`."""

    def __init__(self, queues: Sequence[str], *, poll_seconds: float, recheck: bool = True) -> None:
        """`poll_seconds`: between the listener's fallback polls. `recheck` False is for tests of what rechecks are for."""
        self._queues = list(queues)
        self._poll_seconds = poll_seconds
        self._rechecks = recheck
        self._event = asyncio.Event()
        self._claim_from: set[str] = set()
        self._by_notify: set[str] = set()
        self._called: set[str] = set()
        self._key_freed = False
        self._poll_soon = False
        self._poll_every: float | None = None  # seconds
        self._timers: dict[str, asyncio.TimerHandle] = {}
        # Timers, in monotonic seconds.
        self._next_due: float | None = None
        self._standby_at: float | None = None
        self._recheck_at: float | None = None
        self._recheck_delay = 0.0  # seconds
        self._saw_row = False  # on standby, by its first poll
        self._slipped_below = 0  # transactions with lower ids, open at the first poll, may hold a missed row
        self.idle = False
        self.at_rest = False

    # ── what other parts write ──────────────────────────────────────────────────────────────────────────────────────

    def set_idle(self, idle: bool) -> None:
        """What the idle flag in the database was just set to."""
        self.idle = idle

    def wake(self, queue: str, *, by_notify: bool = False) -> None:
        """`queue` may have a runnable task."""
        if queue in self._queues:
            self._claim_from.add(queue)
            if by_notify:
                self._by_notify.add(queue)
            self._event.set()

    def call(self, queue: str, rank: int) -> None:
        """This worker was picked among the idle ones: to claim (`rank` 0), or to check later that another one did (1 and up)."""
        if queue not in self._queues:
            return
        if rank == 0:
            self._called.add(queue)
            self.wake(queue, by_notify=True)
            return
        seconds = STANDBY_SECONDS * STANDBY_GROWTH ** (rank - 1) * random.uniform(0.9, 1.1)
        at = time.monotonic() + seconds
        if self._standby_at is None or at < self._standby_at:
            self._standby_at = at
            self._event.set()

    def wake_in(self, queue: str, seconds: float) -> None:
        """Claim from `queue` in `seconds`, in place of an earlier call's time."""
        if (timer := self._timers.pop(queue, None)) is not None:
            timer.cancel()
        self._timers[queue] = asyncio.get_running_loop().call_later(seconds, self.wake, queue)

    def wake_all(self) -> None:
        """Every queue may have a runnable task."""
        self._claim_from.update(self._queues)
        self._event.set()

    def poll_soon(self) -> None:
        """Something may have changed that only the database knows."""
        self._poll_soon = True
        self._event.set()

    def poll_every(self, seconds: float | None) -> None:
        """Poll so often from now on, because wake-ups are not sent; None: only when there is a reason."""
        self._poll_every = seconds
        self.poll_soon()

    def due_in(self, seconds: float) -> None:
        """A scheduled task is due in `seconds`; the earliest one sets the timer."""
        at = time.monotonic() + seconds + DUE_SLACK_SECONDS
        if self._next_due is None or at < self._next_due:
            self._next_due = at
            self._event.set()

    def slot_freed(self, *, key: bool) -> None:
        """A run ended; `key`: its task had a concurrency key. An idle worker will be notified of what others insert, so
        it claims only if a key came free."""
        self._key_freed |= key
        if key or not self.idle:
            self._claim_from.update(self._queues)
        self._event.set()

    def polled(self, result: PollResult) -> None:
        """What a poll saw, the claimer's or the listener's."""
        self._next_due = None
        if result.next_in is not None:
            self.due_in(result.next_in)
        if result.again_in is not None:
            self.due_in(result.again_in)
        if self._poll_every is not None:
            self.due_in(self._poll_every)
        self._event.set()
        if result.ended_below >= self._slipped_below:
            self._recheck_at = None
        for queue in result.runnable:
            self.wake(queue)

    # ── the claimer's side ──────────────────────────────────────────────────────────────────────────────────────────

    async def wait(self, able: Callable[[], bool]) -> None:
        """Until a poll is due, or there is a queue to claim from and the claimer is `able` to."""
        while True:
            now = time.monotonic()
            timers = [at for at in (self._next_due, self._recheck_at, self._standby_at) if at is not None]
            if self._poll_soon or (self._claim_from and able()) or any(at <= now for at in timers):
                return
            self._event.clear()
            timer = asyncio.get_running_loop().call_later(min(timers) - now, self._event.set) if timers else None
            self.at_rest = True
            try:  # this is between a notification and its claim: a plain timer costs less than asyncio.timeout
                await self._event.wait()
            finally:
                self.at_rest = False
                if timer is not None:
                    timer.cancel()

    def take_due_poll(self) -> DuePoll | None:
        """Whether a poll is due, and why. Its timers are reset."""
        now = time.monotonic()
        due = self._next_due is not None and self._next_due <= now
        recheck = self._recheck_at is not None and self._recheck_at <= now
        standby = self._standby_at is not None and self._standby_at <= now
        if not (due or recheck or standby or self._poll_soon):
            return None
        self._poll_soon = False
        if standby:
            self._standby_at = None
        if due:
            self._next_due = None
        return DuePoll(standby, recheck)

    def stood_by(self, result: PollResult) -> PollResult:
        """What to act on, of a poll made on standby. A row that is seen once may be a later one, which
        another worker was woken for and has not claimed yet: only a second poll counts."""
        if result.runnable and not self._saw_row:
            self._saw_row = True
            self._standby_at = time.monotonic() + SECOND_POLL_SECONDS
            return replace(result, runnable=())
        self._saw_row = False
        self._called.update(result.runnable)
        return result

    def rechecked(self) -> None:
        """A recheck was made, and is still needed: the next one comes later, unless the fallback poll is due sooner."""
        if self._recheck_at is None:
            return
        self._recheck_delay *= RECHECK_GROWTH
        if self._recheck_delay >= self._poll_seconds:
            self._recheck_at = None  # from here on the listener's poll does it
        else:
            self._recheck_at = time.monotonic() + self._recheck_delay * random.uniform(0.9, 1.1)

    @property
    def rechecking(self) -> bool:
        """Whether a recheck is still to come."""
        return self._recheck_at is not None

    def went_idle(self, result: PollResult) -> None:
        """The idle flag was just set. `result`: the first poll that was sent after that."""
        if self._rechecks:
            self._slipped_below = result.begun_below
            self._recheck_delay = RECHECK_FIRST_SECONDS
            self._recheck_at = time.monotonic() + self._recheck_delay

    def take_queues(self) -> WokenQueues:
        """The queues to claim from now, in random order: no queue of several comes first for ever."""
        random.shuffle(self._queues)
        woken = WokenQueues(
            tuple(queue for queue in self._queues if queue in self._claim_from),
            frozenset(self._by_notify),
            frozenset(self._called),
            self._key_freed,
        )
        self._claim_from, self._by_notify, self._called, self._key_freed = set(), set(), set(), False
        return woken

    def put_back(self, queues: Sequence[str]) -> None:
        """Claim from them later, when a slot comes free or after an outage."""
        self._claim_from.update(queues)

    def retry(self) -> None:
        """After a failed turn: poll, and claim from every queue."""
        self._poll_soon = True
        self._claim_from.update(self._queues)
