"""Which approved call was last handed over to the CLI of a task, and whether its result came: kept beside the task's logs, for
the runs after it.

A resumed CLI carries out its deferred call, and notes that it did when the call is over. Cut off before, it would carry it
out again (measured with 2.1.330), and the agent would not know that there was a first time.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from turbo.host import json_file
from turbo.host.atomic_file import write_atomically

NAME = "approved-call.json"
_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Handed:
    """The id of the `call`, and of the `asked` call whose approval it used. `told`: the id of the call in whose place the agent
    was told that the outcome is not known. `over`: its result came, so its approval is used up."""

    call: str
    asked: str = ""
    told: str = ""
    over: bool = False


class HandedOver:
    """Of one task on this host. `directory` holds its logs."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME

    def last(self) -> Handed | None:
        """None: no call, or a file that cannot be read."""
        try:
            fields = json_file.read(self._path, _MOST_BYTES)
            call, asked, told = (json_file.text(fields, name, "") for name in ("call", "asked", "told"))
        except (OSError, ValueError):
            return None
        return Handed(call, asked, told, over=fields.get("over") is True)

    def note(self, handed: Handed) -> None:
        """Before the call is made, and when more is known of it. On disk when it returns; raises OSError."""
        document = json.dumps(asdict(handed))
        if len(document) > _MOST_BYTES:
            raise OSError(f"the ids of its calls have more than {_MOST_BYTES} bytes")
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self._path, document, durable=True)
