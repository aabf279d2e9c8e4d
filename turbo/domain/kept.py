"""What is kept of a run: files of the directory where it worked, and its diff."""

import hashlib
from dataclasses import dataclass, field

FILE_BYTES = 10 * 1024 * 1024
TASK_BYTES = 50 * 1024 * 1024
DIFF_BYTES = 1024 * 1024
MOST_FILES = 500
MOST_NOTES = 50
PATH_BYTES = 1000

OWN_DIRECTORY = ".turbo"
DIFF_PATH = f"{OWN_DIRECTORY}/diff.patch"


@dataclass(frozen=True, slots=True)
class KeptFile:
    """`path`: below the directory, with `/` between its parts."""

    path: str
    content: bytes = field(repr=False)

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.content).digest()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """`path` is '' for what concerns no single file."""

    path: str
    why: str

    def document(self) -> dict[str, object]:
        return {"path": self.path, "left_out": self.why}


@dataclass(frozen=True, slots=True)
class Kept:
    files: tuple[KeptFile, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
