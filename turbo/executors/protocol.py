"""The executor protocol: what turbo needs from a way to run tasks.

A worker builds each executor once from its section of worker.yaml; it then runs many tasks at once. Another agent CLI
is one more file beside this one (docs/executors.md).
"""

from collections.abc import Collection, Mapping
from typing import Protocol, runtime_checkable

from turbo.domain.outcome import Outcome, Probe
from turbo.domain.run import Run


class Executor(Protocol):
    """What the worker needs from an executor."""

    name: str  # its key in worker.yaml, and a metric label
    account: str | None  # whose login and limits it uses, if any
    durable: bool  # whether its result is worth an fsync before it is sent (programs: yes, python handlers: no)

    async def run(self, run: Run) -> Outcome:
        """Run the task to its end, and return what became of it.

        Never raises for what the task or its program did: that is an Outcome. When `run.stop` is set, it ends what it
        started, waits until that is gone, and returns `OutcomeKind.CANCELLED`, or the real outcome if that came
        first. Raises Snooze before anything is started, if the task has to wait.
        """
        ...


@runtime_checkable
class Converses(Protocol):
    """An executor whose runs take messages from `Run.messages` while they go on. Any other gets those that a task has at its
    start, in `Task.messages`."""

    converses: bool


@runtime_checkable
class KeepsSessions(Protocol):
    """An executor whose agent has sessions that can be resumed. `session_kind`: the kind of agent, as the ids of its sessions name it
    (turbo.executors.agent.session)."""

    session_kind: str


@runtime_checkable
class NeedsProgram(Protocol):
    """An executor that knows in advance when it cannot start tasks on this host."""

    def missing(self) -> str | None:
        """What is missing, where it was looked for and what to do; or None. Cheap: no process, no request."""
        ...


@runtime_checkable
class Versioned(Protocol):
    """An executor that can ask its program for a version."""

    async def version(self) -> str | None:
        """Asked once, logged once. None if the program cannot be run."""
        ...


@runtime_checkable
class Probes(Protocol):
    """An executor that can test its account."""

    async def probe(self) -> Outcome:
        """See `Probe`."""
        ...


@runtime_checkable
class NeedsAccounts(Protocol):
    """An executor whose runs also use the accounts of others: its reviewer's."""

    needs_accounts: Collection[str]


@runtime_checkable
class UsesModel(Protocol):
    """An executor whose runs use the model that is configured; None: the program's own choice."""

    model: str | None


@runtime_checkable
class Depends(Protocol):
    """An executor that depends on more than its account, such as a repository."""

    def dependencies(self) -> Mapping[str, Probe]:
        """By name (turbo.domain.dependency), each with a probe that succeeds or is `unavailable`.

        While one of them is unavailable on this host, none of the executor's tasks is claimed here. `Outcome.away` says
        which one a run could not reach."""
        ...
