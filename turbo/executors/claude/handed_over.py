"""Which approved call was last handed over to the CLI of a task: kept beside the task's logs, for the run after a cut-off one.

A resumed CLI carries out its deferred call, and notes that it did when the call is over. Cut off before, it would carry it
out again (measured with 2.1.330), and the agent would not know that there was a first time.
"""

import json
from pathlib import Path

from turbo.host import json_file
from turbo.host.atomic_file import write_atomically

NAME = "approved-call.json"
_MOST_BYTES = 4096


class HandedOver:
    """Of one task on this host. `directory` holds its logs."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME

    def last(self) -> str | None:
        """The id of the call, or None. What cannot be read counts as unknown."""
        try:
            return json_file.text(json_file.read(self._path, _MOST_BYTES), "call")
        except (OSError, ValueError):
            return None

    def note(self, call: str) -> None:
        """Before the call is made. On disk when it returns; raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self._path, json.dumps({"call": call}), durable=True)
