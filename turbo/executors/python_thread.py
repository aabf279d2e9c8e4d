"""The `python` executor with `isolation: thread`: each run in a thread of its own, so that a handler may block.

    handler(task) ──returns──▶ output          ──raises──▶ failed, the traceback in the log; Ask: a person is asked
        └── wall clock or stop: an async handler is cancelled ──grace──▶ timed out / cancelled
                                └── the thread goes on: given up all the same, and its slot stays taken until it ends

Python cannot end a thread. So a run's limits hold for the *task*: it is recorded in time, and may be tried again, while
the old thread still works. Where that must not be, `isolation: process` ends what it started. Code that holds the
interpreter's lock blocks the worker from a thread, too.

The threads are no pool's: a handler that hangs must not keep others, or the worker's own disk access, from a thread.
"""

import asyncio
import inspect
import json
import threading
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from turbo.domain.asking import ask_of
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.domain.question import AskPolicy, Question
from turbo.domain.run import Run
from turbo.domain.task import Task
from turbo.executors import asking
from turbo.executors.python import load_handler
from turbo.process.attempt_log import AttemptLog


class PythonThread:
    """Runs one handler, async or not, for many tasks. `durable` is False: see PythonExecutor.

    `grace_seconds`: how long a handler may go on after its end was asked for. `ask`: its handler may ask a person. Raises
    ValueError if the handler cannot be used.
    """

    durable = False

    def __init__(
        self,
        name: str,
        handler: str,
        *,
        grace_seconds: float = 5.0,
        account: str | None = None,
        ask: AskPolicy | None = None,
    ) -> None:
        self.name = name
        self.account = account
        self._ask = ask
        self._reference = handler
        self._handler = load_handler(handler, f"executor {name}", sync=True)
        self._grace_seconds = grace_seconds

    async def run(self, run: Run) -> Outcome:
        """See `Executor.run`."""
        if run.stop.is_set():
            return Outcome(OutcomeKind.CANCELLED, error=f"ended on request: {run.stop.cause}")
        call = _Call(self._handler, run.task)
        try:
            call.start()
        except RuntimeError as error:  # no thread is to be had
            return Outcome.infrastructure(f"executor {self.name}: {error}")
        run.started(0)
        try:
            ended_by = await self._wait(call, run)
            if ended_by is None:
                return self._outcome(call.answer, run)
            call.ask_to_end()
            await asyncio.wait({call.gone}, timeout=self._grace_seconds)
        finally:
            if not call.gone.done():  # cancelled from outside, too
                call.ask_to_end()
                run.goes_on(call.gone)
        rest = "" if call.gone.done() else "; its thread goes on, and keeps a slot of this worker until it ends"
        if ended_by is OutcomeKind.CANCELLED:
            return Outcome(OutcomeKind.CANCELLED, error=f"ended on request: {run.stop.cause}{rest}")
        why = f"{self._reference} was given up after {run.task.timeout_seconds:g} s (timeout_seconds){rest}"
        return Outcome(OutcomeKind.TIMED_OUT, error=why, failure_kind=FailureKind.TIMED_OUT)

    async def _wait(self, call: "_Call", run: Run) -> OutcomeKind | None:
        """Why the run is to be ended; None: it has ended by itself."""
        stopped = asyncio.ensure_future(run.stop.wait())
        try:
            await asyncio.wait(
                {call.gone, stopped}, timeout=run.task.timeout_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stopped.cancel()
        if call.gone.done():
            return None
        return OutcomeKind.CANCELLED if run.stop.is_set() else OutcomeKind.TIMED_OUT

    def _outcome(self, answer: "_Answer", run: Run) -> Outcome:
        if answer.asks is not None:
            return asking.asks(answer.asks, self._reference, self._ask, run)
        if answer.error is None:
            return Outcome.succeeded(answer.output)
        if answer.trace is None:
            return Outcome.failed(f"{self._reference} {answer.error}")
        log = AttemptLog(run.log_path)
        log.write_text(answer.trace)
        log.close()
        return Outcome(
            OutcomeKind.FAILED,
            error=answer.error,
            failure_kind=FailureKind.ERROR,
            log=str(log.path) if log.created else None,
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a handler returned or asks, or why it failed. `trace`: of an exception it raised."""

    output: object = None
    asks: Question | None = None
    error: str | None = None
    trace: str | None = None


class _Call:
    """One call of a handler in a new thread. `gone` is done once the thread has nothing more to do; `answer` is then set."""

    def __init__(self, handler: Callable[[Task], Any], task: Task) -> None:
        self._handler = handler
        self._task = task
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self.answer = _Answer(error="has not answered")
        self._changing = threading.Lock()
        self._asked = False
        self._cancel: Callable[[], object] | None = None

    def start(self) -> None:
        """Raises RuntimeError if the system has no thread left."""
        # A daemon: a handler that hangs must not hold up the end of the process.
        threading.Thread(target=self._run, name=f"run of task {self._task.task_id}", daemon=True).start()

    def ask_to_end(self) -> None:
        """Cancel an async handler at its next wait. Nothing else can be ended."""
        with self._changing:
            asked, self._asked = self._asked, True
            if not asked and self._cancel is not None:
                with suppress(RuntimeError):  # its loop has ended
                    self._cancel()

    # ── the thread ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            self.answer = self._call()
        except BaseException as error:  # whatever it raises is its own failure
            ask = ask_of(error)
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self.answer = _Answer(asks=ask.question) if ask else _Answer(error=what, trace=traceback.format_exc())
        with suppress(RuntimeError):  # the worker's loop has ended
            self._loop.call_soon_threadsafe(self._over)

    def _over(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)

    def _call(self) -> _Answer:
        output = self._handler(self._task)
        if inspect.isawaitable(output):
            output = asyncio.run(self._await(output))
        try:
            json.dumps(output)
        except (TypeError, ValueError, RecursionError) as error:
            return _Answer(error=f"returned a value that is not JSON: {error}")
        return _Answer(output)

    async def _await(self, work: Awaitable[object]) -> object:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        with self._changing:
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            if self._asked:
                task.cancel()
        try:
            return await work
        finally:
            with self._changing:
                self._cancel = None
