"""The executor protocol: everything turbo asks of a way to run tasks.

An executor is built once per worker from its section of worker.yaml, then runs many tasks at once. A second agent
CLI is one more file beside this one (docs/executors.md).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from turbo.domain.outcome import Outcome
from turbo.domain.task import Task


class StopReason:
    """Why a run is asked to end. Set once, by the worker; awaited by the executor."""

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None  # made when somebody waits: most light runs end before
        self.reason: str | None = None

    def set(self, reason: str) -> None:
        """`reason`: cancel (a person's wish), drain (the worker stops), lost (the lease is somebody else's)."""
        if self.reason is None:
            self.reason = reason
            if self._event is not None:
                self._event.set()

    def is_set(self) -> bool:
        return self.reason is not None

    async def wait(self) -> None:
        if self.reason is None:
            if self._event is None:
                self._event = asyncio.Event()
            await self._event.wait()


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is: its last line of text and the tokens so far, as `agent_progress` shows them."""

    text: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


class NotNow(Exception):
    """The task could run here, but not at this moment. It is given back without a try, due again in `seconds`."""

    def __init__(self, why: str, seconds: float) -> None:
        super().__init__(why)
        self.seconds = seconds


def _ignore_pid(_pid: int) -> None: ...
def _ignore_progress(_progress: Progress) -> None: ...
def _ignore_session(_session_id: str) -> None: ...


class Run:
    """One run of one task: where its files go, and how it speaks to the worker meanwhile.

    `work_dir` is the default working directory, one per task, made on demand by who uses it. `log_path` is this
    attempt's log. `started(pid)` is called once, when the agent's program really runs (0 where there is no program).
    `progress` may be called as often as the executor likes; the worker throttles. `session_started(id)` tells the
    agent's session as soon as it is known, so that a run that is cut short can be resumed; '' says that none may be.

    The paths may be given as functions, asked when somebody wants them: building both costs a light run a tenth of its time.
    """

    __slots__ = ("_log_path", "_work_dir", "progress", "session_started", "started", "stop", "task")

    def __init__(
        self,
        task: Task,
        work_dir: Path | Callable[[], Path],
        log_path: Path | Callable[[], Path],
        stop: StopReason | None = None,
        started: Callable[[int], None] = _ignore_pid,
        progress: Callable[[Progress], None] = _ignore_progress,
        session_started: Callable[[str], None] = _ignore_session,
    ) -> None:
        self.task = task
        self._work_dir = work_dir
        self._log_path = log_path
        self.stop = StopReason() if stop is None else stop
        self.started = started
        self.progress = progress
        self.session_started = session_started

    @property
    def work_dir(self) -> Path:
        return self._work_dir if isinstance(self._work_dir, Path) else self._work_dir()

    @property
    def log_path(self) -> Path:
        return self._log_path if isinstance(self._log_path, Path) else self._log_path()


class Executor(Protocol):
    """What the worker needs to know of an executor."""

    name: str  # its key in worker.yaml; a metric label
    account: str | None  # whose login and limits it uses, if any
    durable: bool  # its result is worth an fsync before it is sent (programs yes, python handlers no)

    async def run(self, run: Run) -> Outcome:
        """Run the task to its end and say what became of it.

        Never raises for what the task or its program did: that is an Outcome. When `run.stop` is set it ends what it
        started, waits until that is gone, and returns `OutcomeKind.CANCELLED` (or the true end, if that came first).
        Raises NotNow before it has started anything, when the task has to wait.
        """
        ...


@runtime_checkable
class NeedsProgram(Protocol):
    """An executor that can say beforehand that no task of its could be started on this host."""

    def missing(self) -> str | None:
        """What is missing, where it was looked for and what to do; or None. Cheap: no process, no request."""
        ...


@runtime_checkable
class Versioned(Protocol):
    """An executor whose program can be asked for its version."""

    async def version(self) -> str | None:
        """Asked once, logged once; None when it cannot be run."""
        ...
