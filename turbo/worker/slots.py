"""The slots of a worker: which runs go on, and which claims this process holds.

A claim is known from the moment its answer arrives until its result is recorded. That is longer than its program runs:
reconciliation must not take a finished run whose result is on its way for an orphan.
"""

from turbo.domain.claim import ClaimRef
from turbo.domain.run import Running


class Slots:
    """`running`: runs in a slot. `unrecorded`: claims whose program is gone and whose result is on its way."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.running: dict[ClaimRef, Running] = {}
        self.unrecorded: set[ClaimRef] = set()

    @property
    def free(self) -> int:
        return self.size - len(self.running)

    @property
    def busy(self) -> int:
        return len(self.running)

    def take(self, run: Running) -> None:
        self.running[run.claim] = run

    def give_back(self, claim: ClaimRef, *, unrecorded: bool) -> None:
        """The program is gone. `unrecorded`: its result is on its way to the database."""
        self.running.pop(claim, None)
        if unrecorded:
            self.unrecorded.add(claim)

    def recorded(self, claim: ClaimRef) -> None:
        self.unrecorded.discard(claim)

    def known(self) -> list[ClaimRef]:
        """Every claim this process holds."""
        return [*self.running, *self.unrecorded]
