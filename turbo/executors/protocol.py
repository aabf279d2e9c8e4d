"""The executor protocol: everything turbo asks of a way to run tasks.

An executor is built once per worker from its section of worker.yaml, then runs many tasks at once. A second agent
CLI is one more file beside this one (docs/executors.md).
"""

from typing import Protocol, runtime_checkable

from turbo.domain.outcome import Outcome
from turbo.domain.run import Run


class Executor(Protocol):
    """What the worker needs to know of an executor."""

    name: str  # its key in worker.yaml; a metric label
    account: str | None  # whose login and limits it uses, if any
    durable: bool  # its result is worth an fsync before it is sent (programs yes, python handlers no)

    async def run(self, run: Run) -> Outcome:
        """Run the task to its end and say what became of it.

        Never raises for what the task or its program did: that is an Outcome. When `run.stop` is set it ends what it
        started, waits until that is gone, and returns `OutcomeKind.CANCELLED` (or the true end, if that came first).
        Raises Snooze before it has started anything, when the task has to wait.
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


@runtime_checkable
class Probes(Protocol):
    """An executor whose account can be tried out."""

    async def probe(self) -> Outcome:
        """One minimal real call: succeeded, auth_failed, usage_limited, or anything else for "cannot tell"."""
        ...
