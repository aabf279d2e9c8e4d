"""The lifecycle of a worker: it ends by a requested stop, or by a defect.

running ──TERM, or a defect──▶ stopping ──a second TERM, or a defect──▶ now: runs are ended without waiting
"""

import asyncio
import logging

log = logging.getLogger(__name__)


class Lifecycle:
    """Shared by the parts of one worker. `defect`: the first one, or None."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.now = asyncio.Event()
        self.draining = False
        self.defect: BaseException | None = None

    @property
    def exit_code(self) -> int:
        """0 after a requested stop, 1 after a defect: the service manager then starts the worker again."""
        return 0 if self.defect is None else 1

    def begin_drain(self) -> None:
        """From now on the worker's row says `draining`, and its idle flag stays down."""
        self.draining = True

    def stop(self) -> None:
        """Drain; a second call ends the runs now."""
        if self.stopping.is_set():
            log.info("second signal: ending all runs now")
            self.now.set()
        self.stopping.set()

    def crashed(self, name: str, error: BaseException) -> None:
        """A defect in the part called `name`: drain, end the runs, and exit with 1. On the event loop."""
        log.critical("the %s crashed; draining", name, exc_info=error)
        if self.defect is None:
            self.defect = error
        self.now.set()
        self.stopping.set()
