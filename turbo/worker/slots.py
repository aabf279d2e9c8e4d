"""The slots of a worker: how many runs go on, and which claims this process holds.

A claim is known from the moment its answer arrives until its result is recorded (or handed to the spool and answered),
longer than its program runs: reconciliation must not take a finished, not yet recorded run for an orphan.
"""

import asyncio
from dataclasses import dataclass, field
from time import monotonic

from turbo.db.claim_store import Held
from turbo.domain.run import StopReason
from turbo.domain.task import Task


@dataclass(slots=True)
class Running:
    """One run in a slot."""

    task: Task
    executor: str
    account: str | None
    stop: StopReason = field(default_factory=StopReason)
    claimed_at: float = field(default_factory=monotonic)  # monotonic seconds
    session_id: str | None = None
    held: Held = field(init=False)

    def __post_init__(self) -> None:
        self.held = Held(self.task.task_id, self.task.fencing_token)


class Slots:
    def __init__(self, size: int) -> None:
        self.size = size
        self.running: dict[Held, Running] = {}
        self.unrecorded: set[Held] = set()
        self.freed = asyncio.Event()  # something ended: the claimer may look again

    @property
    def free(self) -> int:
        return self.size - len(self.running)

    @property
    def busy(self) -> int:
        return len(self.running)

    def take(self, run: Running) -> None:
        self.running[run.held] = run

    def give_back(self, held: Held, *, unrecorded: bool) -> None:
        """The program is gone. `unrecorded`: its result is on its way to the database."""
        self.running.pop(held, None)
        if unrecorded:
            self.unrecorded.add(held)
        self.freed.set()

    def recorded(self, held: Held) -> None:
        self.unrecorded.discard(held)

    def known(self) -> list[Held]:
        return [*self.running, *self.unrecorded]
