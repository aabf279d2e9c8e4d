"""When this worker last reached the database: written by the heartbeat and the listener, read by those who must know."""

import time


class DatabaseContact:
    """`last_beat`: when the database last took a heartbeat, in monotonic seconds (the start, before the first one).
    `listened`: the listener has been connected before, so what a reconnect may have lost has to be put back."""

    def __init__(self) -> None:
        self.last_beat = time.monotonic()
        self.listened = False

    @property
    def silence(self) -> float:
        """Seconds since the last heartbeat."""
        return time.monotonic() - self.last_beat
