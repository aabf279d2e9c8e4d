"""What the programs of an executor may do in each place of the host, whichever sandbox holds them to it.

    /                             read          ~/.ssh                        hidden
    <state_dir>                   hidden        <state_dir>/tasks/a           write: the task's own directory
    REPO/.git                     write         REPO/.git/hooks               read

The deepest place that a path is in decides, so the order in which they are written down does not matter.
"""

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Access(StrEnum):
    WRITE = "write"
    READ = "read"
    FRESH = "fresh"
    """An empty directory that may be written, gone with the run: /tmp."""

    HIDDEN = "hidden"
    """An empty one that may not, or an empty file."""


@dataclass(frozen=True, slots=True)
class SandboxPlace:
    """`path`: without links. `directory`: whether it is one."""

    path: Path
    access: Access
    directory: bool = True


def outer_first(access: Mapping[Path, Access], missing: Iterable[Path] = ()) -> list[SandboxPlace]:
    """The places that exist, and the files of `missing`, which are made and hidden."""
    made = frozenset(missing)
    found = []
    for path in sorted(access, key=lambda path: (len(path.parts), path)):
        if path in made:
            found.append(SandboxPlace(path, access[path], directory=False))
        elif (directory := _is_directory(path)) is not None:
            found.append(SandboxPlace(path, access[path], directory))
    return found


def _is_directory(path: Path) -> bool | None:
    """None: it is not there, or closed to this user."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return None


def access_to(path: Path, access: Mapping[Path, Access]) -> Access:
    """What the deepest place that holds it says; without one it may be read."""
    for place in (path, *path.parents):
        if (known := access.get(place)) is not None:
            return known
    return Access.READ
