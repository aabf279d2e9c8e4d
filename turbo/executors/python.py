"""The `python` executor: an async callable in the worker's process, for light work and benchmarks.

    handler(task) ──returns──▶ output          ──raises──▶ failed, the traceback in the log; Ask: a person is asked
        └── wall clock or stop: cancelled ──▶ timed out / cancelled; a handler that resists is dropped

The handler runs in the caller's own asyncio task. If it returns without waiting, it costs no task, no timer and no
file (the aim is 20,000 per second). The limits are watched only from its first wait on.

A handler that blocks the event loop (`time.sleep`, a long computation) blocks the worker's other runs, and no limit
can end it; in the end the loop watch ends the worker (turbo.worker.loop_watch). Such a handler belongs in a thread or a
process (turbo.executors.python_thread, turbo.executors.python_process).
"""

import asyncio
import contextlib
import importlib
import inspect
import json
import traceback
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any

from turbo.domain.asking import ask_of
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.domain.question import AskPolicy
from turbo.domain.run import Run
from turbo.domain.task import Task
from turbo.executors import asking
from turbo.process.attempt_log import AttemptLog

Handler = Callable[[Task], Coroutine[Any, Any, object]]


def load_handler(reference: str, where: str, *, sync: bool = False) -> Callable[[Task], Any]:
    """Find `module:function` on sys.path. `sync`: it need not be async. Raises ValueError, naming `where` and what was
    found instead."""
    module_name, colon, function_name = reference.partition(":")
    if not colon or not module_name or not function_name:
        raise ValueError(f"{where}: handler {reference!r} must have the form module:function")
    try:
        handler: object = importlib.import_module(module_name)
    except Exception as error:  # importing runs the module, so anything may be raised
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{where}: no module named {error.name!r} (handler {reference!r}); is its directory on PYTHONPATH?"
            ) from error
        raise ValueError(f"{where}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    for part in function_name.split("."):
        if not hasattr(handler, part):
            raise ValueError(f"{where}: module {module_name} has no {function_name!r} (handler {reference!r})")
        handler = getattr(handler, part)
    if not callable(handler):
        raise ValueError(f"{where}: {reference} is a {type(handler).__name__}; write `async def {function_name}(task)`")
    if not sync and not _is_async(handler):
        raise ValueError(
            f"{where}: {reference} is a function that is not async; write `async def {function_name}(task)`, "
            "or set isolation: thread or process"
        )
    return handler


def _is_async(handler: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


class PythonExecutor:
    """Runs one handler for many tasks. `durable` is False: an fsync per result would cap these at 2,200 per second.

    `grace_seconds`: how long a cancelled handler may take to clean up. `ask`: its handler may ask a person. Raises
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
        self._handler: Handler = load_handler(handler, f"executor {name}")
        self._grace_seconds = grace_seconds

    async def run(self, run: Run) -> Outcome:
        """See `Executor.run`."""
        if run.stop.is_set():
            return Outcome(OutcomeKind.CANCELLED, error=f"ended on request: {run.stop.cause}")
        run.started(0)
        watched: _Watched | None = None
        try:
            work = self._handler(run.task)
            try:
                awaited = work.send(None)
            except StopIteration as returned:
                return self._on_return(returned.value)
            watched = _Watched(run, work, self._grace_seconds)
            output = await watched.finish(awaited)
        except asyncio.CancelledError:
            if watched is not None and watched.ended_by is not None:
                return self._on_end(run, watched)
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return self._on_raise(run, "the handler cancelled itself")
        except (Exception, SystemExit) as error:
            if watched is not None and watched.ended_by is not None:
                return self._on_end(run, watched)
            if (ask := ask_of(error)) is not None:
                return asking.asks(ask.question, self._reference, self._ask, run)
            return self._on_raise(run, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
        if watched.ended_by is not None:
            return self._on_end(run, watched)
        return self._on_return(output)

    def _on_return(self, output: object) -> Outcome:
        if output is not None and type(output) not in (str, int, bool):
            try:
                json.dumps(output)
            except (TypeError, ValueError, RecursionError) as error:
                return Outcome.failed(f"{self._reference} returned a value that is not JSON: {error}")
        return Outcome.succeeded(output)

    def _on_raise(self, run: Run, what: str) -> Outcome:
        log = AttemptLog(run.log_path)
        log.write_text(traceback.format_exc())
        log.close()
        failed = Outcome.failed(what)
        return Outcome(
            failed.kind, error=what, failure_kind=failed.failure_kind, log=str(log.path) if log.created else None
        )

    def _on_end(self, run: Run, watched: "_Watched") -> Outcome:
        dropped = (
            f"; it ignored the cancellation, and was dropped after {self._grace_seconds:g} s" if watched.dropped else ""
        )
        if watched.ended_by is OutcomeKind.CANCELLED:
            return Outcome(OutcomeKind.CANCELLED, error=f"ended on request: {run.stop.cause}{dropped}")
        why = f"{self._reference} was ended after {run.task.timeout_seconds:g} s (timeout_seconds){dropped}"
        return Outcome(OutcomeKind.TIMED_OUT, error=why, failure_kind=FailureKind.TIMED_OUT)


class _Watched:
    """A handler after its first wait, driven step by step in the caller's task, under the wall clock and the stop.

    To end it, the caller's task is cancelled, which reaches the handler at its wait. If it ignores that and waits
    again, it is closed after the grace and not driven any further: nothing of it is left running.
    """

    def __init__(self, run: Run, work: Coroutine[Any, Any, object], grace_seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._work = work
        self._run = run
        self._grace_seconds = grace_seconds
        self._loop = asyncio.get_running_loop()
        self._cancels = 0
        self._drop_timer: asyncio.TimerHandle | None = None
        self.ended_by: OutcomeKind | None = None
        self.dropped = False

    async def finish(self, awaited: object) -> object:
        """The handler's return value, or the exception it raised."""
        wall = self._loop.call_later(self._run.task.timeout_seconds, self._end, OutcomeKind.TIMED_OUT)
        stopped = self._loop.create_task(self._run.stop.wait())
        stopped.add_done_callback(lambda done: None if done.cancelled() else self._end(OutcomeKind.CANCELLED))
        try:
            return await self._drive(awaited)
        finally:
            wall.cancel()
            stopped.cancel()
            if self._drop_timer is not None:
                self._drop_timer.cancel()
            for _ in range(self._cancels):
                self._task.uncancel()

    @coroutine
    def _drive(self, awaited: object) -> Generator[object, object, object]:
        try:
            while True:
                try:
                    answer = yield awaited
                except asyncio.CancelledError as cancelled:
                    if self.dropped:
                        self._close()
                        raise
                    if self._drop_timer is None:  # cancelled from outside: the same grace applies
                        self._drop_timer = self._loop.call_later(self._grace_seconds, self._drop)
                    awaited = self._work.throw(cancelled)
                    if self._task.cancelling() == 0:  # the handler's own `asyncio.timeout`, which took it back
                        self._drop_timer.cancel()
                        self._drop_timer = None
                except BaseException as error:
                    awaited = self._work.throw(error)
                else:
                    awaited = self._work.send(answer)
        except StopIteration as returned:
            return returned.value

    def _end(self, why: OutcomeKind) -> None:
        if self.ended_by is None:
            self.ended_by = why
            self._cancel()

    def _drop(self) -> None:
        self.dropped = True
        self._cancel()

    def _cancel(self) -> None:
        self._cancels += 1
        self._task.cancel()

    def _close(self) -> None:
        with contextlib.suppress(BaseException):  # it ignores even its closing, but is not driven any further
            self._work.close()
