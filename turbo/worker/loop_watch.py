"""The loop watch: a thread that sees the event loop stand still, says who holds it up, and ends the worker in time.

    asked ──answered──▶ (a second) ──▶ asked ──no answer for a while──▶ standing: log with the stack, problem, /healthz
                                         ▲──────────answers again───────────┘ └──limit, or a second TERM──▶ exit 1

While the loop stands still, no timeout, no cancel and no TERM is kept, and no result is recorded, but the heartbeat's thread
goes on: without the watch, the fleet would take this worker for healthy. What holds up the loop is a `python` handler that
blocks, or any other synchronous call in it: a slow disk, a name server, a huge JSON document.

The process ends without a drain, as if it were killed. Its watcher ends its programs (turbo.process.reaper), its supervisor
starts it again, and the next worker of the host records its results and gives back its tasks.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from turbo.domain.problem import ProblemKind
from turbo.domain.run import Running
from turbo.executors import python as python_executor
from turbo.runtime.interpreter_alarm import InterpreterAlarm
from turbo.runtime.problems import Problems
from turbo.runtime.service import Crashed
from turbo.runtime.signal_relay import SignalRelay
from turbo.worker.loop_health import LoopHealth
from turbo.worker.signals import DRAINING_NUMBERS

log = logging.getLogger(__name__)

ASK_SECONDS = 1.0
SAY_SECONDS = 5.0
"""A loop that has not answered for so long stands still."""

LEASE_SHARE = 2 / 3
"""Of the lease: the watch ends the worker before a frozen one would be counted out, and leaves time for its successor."""

LEAST_LIMIT = 2.0
SECOND_SIGNAL_SECONDS = 1.0
"""A second TERM ends a worker whose loop has not answered for so long."""

LOG_SECONDS = 2.0
"""What holds up the loop may be the log itself (a full pipe, a dead disk), with its lock held: nothing waits longer for it."""

EXIT_CODE = 1


class LoopBlocked(Exception):
    """For the log: its traceback is the loop's stack."""


class LoopWatch:
    """A Service (turbo.runtime.service) whose code runs in a thread. Started in the main thread, on the loop it watches."""

    name = "loop watch"

    def __init__(
        self,
        health: LoopHealth,
        problems: Problems,
        run_in: Callable[["asyncio.Task[Any] | None"], Running | None],
        *,
        lease_seconds: float,
    ) -> None:
        """`run_in`: the run that an asyncio task drives."""
        self._health = health
        self._problems = problems
        self._run_in = run_in
        self._limit = max(LEAST_LIMIT, LEASE_SHARE * lease_seconds)
        self._say_after = min(SAY_SECONDS, self._limit / 3)
        self._every = min(ASK_SECONDS, self._limit / 8)
        self._relay = SignalRelay()
        self._alarm = InterpreterAlarm(self._limit)
        self._stopping = threading.Event()
        self._answered = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._signals = 0
        self._asked_at = 0.0  # monotonic
        self.started = asyncio.Event()

    def start(self, _crashed: Crashed) -> None:
        """See Service. After the loop's signal handlers are set."""
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._relay.install()
        self._alarm.install()
        self._thread = threading.Thread(target=self._watch, name=self.name, daemon=True)
        self._thread.start()
        self.started.set()

    async def stop(self) -> None:
        """See Service."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            self._relay.interrupt()
            thread.join(LOG_SECONDS)
            self._alarm.remove()
            self._relay.remove()

    # ── the thread ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _watch(self) -> None:
        looked = time.monotonic()
        self._ask()
        while not self._stopping.is_set():
            self._alarm.set()
            numbers = self._relay.read(self._every)
            self._signals += sum(number in DRAINING_NUMBERS for number in numbers)
            now = time.monotonic()
            # A suspended process or machine stops this thread, too: that time does not count.
            self._look(min(now - looked, 2 * self._every))
            looked = now

    def _ask(self) -> None:
        assert self._loop is not None
        self._answered.clear()
        self._asked_at = time.monotonic()
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # the loop has ended
            self._stopping.set()

    def _answer(self) -> None:
        """On the loop."""
        if self._health.waiting == 0.0:
            self._health.answered(min(time.monotonic() - self._asked_at, 2 * self._every))
        self._answered.set()

    def _look(self, seconds: float) -> None:
        if self._answered.is_set():
            self._over()
            self._ask()
            return
        self._health.waiting += seconds
        if self._health.waiting >= self._limit:
            self._end(f"its limit is {self._limit:.0f} s")
        elif self._signals >= 2 and self._health.waiting >= SECOND_SIGNAL_SECONDS:
            self._end("a second signal asks for it")
        elif self._health.waiting >= self._say_after and self._health.standstill is None:
            self._report()

    def _over(self) -> None:
        stood = self._health.waiting
        if stood:
            self._health.answered(stood)
        if self._health.standstill is not None:
            self._health.standstill = None
            self._problems.clear(ProblemKind.LOOP_BLOCKED, "")
            _say(logging.WARNING, f"the event loop answers again after {stood:.1f} s")

    # ── who it is ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _report(self) -> None:
        who, frame, run = self._culprit()
        self._health.standstill = f"the event loop has not answered for {self._health.waiting:.0f} s or more: {who}"
        self._problems.report(
            ProblemKind.LOOP_BLOCKED,
            "",
            f"its event loop stands still: {who}",
            "let the handler wait with await, or set isolation: thread or process for its executor; "
            f"a worker that stands still for {self._limit:.0f} s ends itself, and is to be restarted by its supervisor",
        )
        text = (
            f"the event loop has not answered for {self._health.waiting:.1f} s: {who}; no timeout, cancel or TERM is kept "
            f"meanwhile, and the worker is ended at {self._limit:.0f} s"
        )
        _say(logging.ERROR, text, run, LoopBlocked(who).with_traceback(_traceback(frame)))

    def _end(self, why: str) -> None:
        who, frame, run = self._culprit()
        blocked = LoopBlocked(who).with_traceback(_traceback(frame))
        _say(logging.ERROR, "what the event loop does now", run, blocked)
        stood = self._health.waiting
        _say(
            logging.CRITICAL,
            f"ending this worker: its event loop has stood still for {stood:.1f} s, and {why}: {who}; "
            "its programs are ended, its supervisor starts it again",
            run,
        )
        os._exit(EXIT_CODE)

    def _culprit(self) -> tuple[str, FrameType | None, Running | None]:
        """What the loop does now: in words, its innermost frame, and the run it belongs to."""
        frame = sys._current_frames().get(self._loop_thread)
        run = self._run_in(asyncio.current_task(self._loop))
        where = _where(frame)
        return (f"executor {run.executor}, in {where}" if run is not None else where), frame, run


def _where(frame: FrameType | None) -> str:
    """The handler that a `python` executor runs, and the place it has come to; without one, the place only."""
    frames: list[FrameType] = []
    while frame is not None:
        frames.insert(0, frame)
        frame = frame.f_back
    if not frames:
        return "an unknown place"
    within = [f.f_code.co_filename for f in frames]
    begins = len(within) - within[::-1].index(python_executor.__file__) if python_executor.__file__ in within else 0
    places = [_place(f) for f in frames[begins:]] or [_place(frames[-1])]
    return f"{places[0]}, at {places[-1]}" if begins and len(places) > 1 else places[-1]


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"


def _traceback(frame: FrameType | None) -> TracebackType | None:
    """The stack down to `frame`, as an exception has it."""
    trace: TracebackType | None = None
    while frame is not None:
        trace = TracebackType(trace, frame, frame.f_lasti, frame.f_lineno or 0)
        frame = frame.f_back
    return trace


def _say(level: int, text: str, run: Running | None = None, error: LoopBlocked | None = None) -> None:
    """Log it, but wait only so long for the log."""
    extra = {} if run is None else {"task": run.task.task_id, "attempt": run.task.attempt}
    speaker = threading.Thread(target=lambda: log.log(level, "%s", text, exc_info=error, extra=extra), daemon=True)
    speaker.start()
    speaker.join(LOG_SECONDS)
