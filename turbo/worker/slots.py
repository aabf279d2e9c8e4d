"""The slots of a worker: which runs go on, and which claims this process holds.

    taken ──its program is gone──▶ waits for its result to be recorded ──▶ free
      │                              └── the table refuses the result: set aside, free
      └── a thread of it cannot be ended (turbo.executors.python_thread) ──▶ held until the thread ends

A slot is free once the result is recorded: a worker whose results the database does not take must not go on claiming. Only
the results of light runs give it back at once, as long as results are being recorded, and no more of them than there are
slots: thousands a second would otherwise wait for each other. A claim is known until its result is recorded: reconciliation
must not take a finished run whose result is on its way for an orphan.
"""

from turbo.domain.claim import ClaimRef
from turbo.domain.run import Running


class Slots:
    """`running`: runs in a slot. `unrecorded`: claims whose program is gone and whose result is on its way. `held`: claims
    of which a thread still runs. `recording`: the last attempt to record results succeeded."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.running: dict[ClaimRef, Running] = {}
        self.unrecorded: set[ClaimRef] = set()
        self.held: set[ClaimRef] = set()
        self.recording = False
        # Of the unrecorded, those that keep their slot: always, and unless results are being recorded.
        self._waiting: set[ClaimRef] = set()
        self._waiting_light: set[ClaimRef] = set()

    @property
    def free(self) -> int:
        light = len(self._waiting_light) - (self.size if self.recording else 0)
        taken = len(self.running) + len(self._waiting) + len(self.held)
        return max(0, self.size - taken - max(0, light))

    @property
    def busy(self) -> int:
        """Slots that are not free."""
        return self.size - self.free

    def take(self, run: Running) -> None:
        self.running[run.claim] = run

    def give_back(self, claim: ClaimRef, *, unrecorded: bool, light: bool = False) -> None:
        """The program is gone. `unrecorded`: its result is on its way to the database. `light`: it was a `python` handler."""
        self.running.pop(claim, None)
        if unrecorded:
            self.unrecorded.add(claim)
            (self._waiting_light if light else self._waiting).add(claim)

    def recorded(self, claim: ClaimRef) -> None:
        self.unrecorded.discard(claim)
        self.set_aside(claim)

    def set_aside(self, claim: ClaimRef) -> None:
        """Its result waits for something that may take days: a person, a constraint. The claim stays known."""
        self._waiting.discard(claim)
        self._waiting_light.discard(claim)

    def hold(self, claim: ClaimRef) -> None:
        """A thread of it goes on after its end."""
        self.held.add(claim)

    def let_go(self, claim: ClaimRef) -> None:
        """That thread has ended."""
        self.held.discard(claim)

    def directories(self) -> set[str]:
        """The tasks whose directories the runs are in (Task.directory_id)."""
        return {run.task.directory_id for run in self.running.values()}

    def known(self) -> list[ClaimRef]:
        """Every claim this process holds."""
        return [*self.running, *self.unrecorded]
