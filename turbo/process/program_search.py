"""Where a program is: the search of a shell, without what a row could have put in its way."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search: the program, or what may explain that there is none.

    `refused`: the first file of that name that is not executable. `closed`: the directories that this user may not search.
    """

    program: str | None
    refused: str | None = None
    closed: tuple[str, ...] = ()


def search(name: str, path: str, cwd: Path | None) -> Found:
    """Search the absolute entries of `path` as a shell does. A name with a slash is no search: it counts from `cwd`."""
    refused, closed = None, []
    for entry in [""] if "/" in name else path.split(os.pathsep):
        if not entry.startswith("/") and "/" not in name:
            continue
        candidate = str((cwd or Path("/")) / entry / name)
        if os.path.isfile(candidate):  # noqa: PTH113 - Path.is_file raises PermissionError
            if os.access(candidate, os.X_OK):
                return Found(candidate)
            refused = refused or candidate
        elif is_closed(candidate):
            closed.append(os.path.dirname(candidate))  # noqa: PTH120
    return Found(None, refused, tuple(closed))


def is_closed(path: str | Path) -> bool:
    """Whether a directory on the way to `path` may not be searched by this user."""
    try:
        os.stat(path)  # noqa: PTH116
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return False
