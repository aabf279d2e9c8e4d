"""The executor protocol: everything turbo asks of a way to run tasks.

An executor is built once per worker from its section of worker.yaml, then runs many tasks at once. A second agent
CLI is one more file beside this one (docs/executors.md).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from turbo.outcome import Outcome
from turbo.task import Task


class StopReason:
    """Why a run is asked to end. Set once, by the worker; awaited by the executor."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reason: str | None = None

    def set(self, reason: str) -> None:
        """`reason`: cancel (a person's wish), drain (the worker stops), lost (the lease is somebody else's)."""
        if self.reason is None:
            self.reason = reason
            self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
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


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one task: where its files go, and how it speaks to the worker meanwhile.

    `work_dir` is the default working directory, one per task, made on demand by who uses it. `log_path` is this
    attempt's log. `started(pid)` is called once, when the agent's program really runs (0 where there is no program).
    `progress` may be called as often as the executor likes; the worker throttles. `session_started(id)` tells the
    agent's session as soon as it is known, so that a run that is cut short can be resumed; '' says that none may be.
    """

    task: Task
    work_dir: Path
    log_path: Path
    stop: StopReason = field(default_factory=StopReason)
    started: Callable[[int], None] = _ignore_pid
    progress: Callable[[Progress], None] = _ignore_progress
    session_started: Callable[[str], None] = lambda _session_id: None


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
