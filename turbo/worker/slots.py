"""The slots of a worker: how many runs go on, and which claims this process holds.

A claim is known from the moment its answer arrives until its result is recorded (or handed to the spool and answered),
longer than its program runs: reconciliation must not take a finished, not yet recorded run for an orphan.
"""

import asyncio

from turbo.domain.claim import ClaimRef
from turbo.domain.run import Running


class Slots:
    def __init__(self, size: int) -> None:
        self.size = size
        self.running: dict[ClaimRef, Running] = {}
        self.unrecorded: set[ClaimRef] = set()
        self.freed = asyncio.Event()  # something ended: the claimer may look again

    @property
    def free(self) -> int:
        return self.size - len(self.running)

    @property
    def busy(self) -> int:
        return len(self.running)

    def take(self, run: Running) -> None:
        self.running[run.claim] = run

    def give_back(self, held: ClaimRef, *, unrecorded: bool) -> None:
        """The program is gone. `unrecorded`: its result is on its way to the database."""
        self.running.pop(held, None)
        if unrecorded:
            self.unrecorded.add(held)
        self.freed.set()

    def recorded(self, held: ClaimRef) -> None:
        self.unrecorded.discard(held)

    def known(self) -> list[ClaimRef]:
        return [*self.running, *self.unrecorded]
