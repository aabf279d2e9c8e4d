"""The one deadline of a worker that stops. The service manager kills what is left after its stop timeout."""

import math
import time

from turbo.db.lane import Lane

END_SECONDS = 13.0
"""From the end of the runs' time to the end of the process. The service manager's stop timeout leaves
`fleet.instance.STOP_MARGIN_SECONDS` for it; the difference is slack for a busy machine."""

STEP_SECONDS = 1.0
"""The share of it that each step after the runs has for sure: release, record, say goodbye, end without the database."""


class ShutdownDeadline:
    """The one deadline of a worker that stops, and how much of it is left for what.

        0 ── runs end, within their grace ── 9 ── the rest killed, all released ── 10 ── results recorded ── 11
          ── compared, services ended, goodbye ── 12 ── no database any more ── 13 gone

    These are the latest times, in seconds; with the database there, each step follows the one before at once."""

    def __init__(self, claims: Lane, results: Lane, progress: Lane) -> None:
        """The lanes end with the time for the database, so that nothing has to be cancelled on a frozen server."""
        self.results = results
        self._lanes = (claims, results, progress)
        self._at = math.inf  # monotonic seconds

    def begin(self) -> None:
        """The time runs from now on. May be called twice: the first call counts."""
        if self._at == math.inf:
            self._at = time.monotonic() + END_SECONDS
            for lane in self._lanes:
                lane.end_in(self.before(1))

    @property
    def left(self) -> float:
        """Seconds until the process should be gone."""
        return self.before(0)

    def before(self, steps: int) -> float:
        """Seconds until the time that leaves `steps` steps their share."""
        return max(0.0, self._at - steps * STEP_SECONDS - time.monotonic())
