"""Contact with the database: when this worker last reached it. Written by the heartbeat and by Recovery."""

import time


class DatabaseContact:
    """`last_beat`: when the database last took a heartbeat, in monotonic seconds (the start, before the first one).
    `listened`: the listener has been connected before, so what a reconnect may have lost has to be put back."""

    def __init__(self) -> None:
        self.last_beat = time.monotonic()
        self.listened = False

    def beaten(self) -> None:
        """The database took a heartbeat. Called from the heartbeat's thread."""
        self.last_beat = time.monotonic()

    def now_listened(self) -> None:
        """The listener is connected, and what came before it is put back."""
        self.listened = True

    @property
    def silence(self) -> float:
        """Seconds since the last heartbeat."""
        return time.monotonic() - self.last_beat
