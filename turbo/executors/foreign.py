"""The directories of another user's programs (`run_as`), each named by a file in the task's directory that it stands in for.

    <state_dir>/tasks/<task>/.run_as.json    the user and the directory, and the same of earlier users: run_as may be changed

Whoever the executor's user is now, retention removes all of them as the users they belong to. One that it cannot remove, for
instance because its user was deleted, stays named there, and `turbo doctor` shows it. A program of the worker's own user may have
written the file. So it can name only the place that belongs to its own task, in some home.
"""

import contextlib
import json
import os
import pwd
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from turbo.host import json_file
from turbo.host.atomic_file import write_atomically
from turbo.host.regular_file import NotRegular
from turbo.host.removal import TRASH_PREFIX, remove_tree
from turbo.host.state_dir import all_files
from turbo.process.identity import FOREIGN, Identity, IdentityRefused, identity_of, place_below_home

MOST_BYTES = 64 * 1024
"""Two paths of the greatest length for each user, escaped."""

MOST_USERS = 5
"""Of more the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """A directory of another user's, by the user's name."""

    user: str
    directory: str


class StillThere(OSError):
    """Directories that could not be removed. The message names them."""


def use(user: Identity, directory: Path) -> Path:
    """The user's own directory in place of this one, which remembers it. Raises OSError."""
    own = Foreign(user.user, str(user.place(directory)))
    former = [one for one in named_by(directory, directory) if one != own]
    _write(directory, [own, *former][:MOST_USERS])
    user.make_directory(Path(own.directory))
    return Path(own.directory)


def remove(directory: Path, known_as: Path) -> None:
    """Remove the directories that were used in place of the task's own `known_as`, which is `directory` now.

    Raises StillThere, after all have been tried, and OSError."""
    left: dict[Foreign, str] = {}
    named = named_by(directory, known_as)
    for one in named:
        try:
            _remove(one, known_as)
        except (OSError, IdentityRefused) as error:
            left[one] = str(error)
    if left:
        if len(left) < len(named):
            _write(directory, list(left))
        raise StillThere("; ".join(f"{one.directory}: {why}" for one, why in left.items()))


def named_by(directory: Path, known_as: Path) -> list[Foreign]:
    """The directories that a task's directory names, the latest first. None that cannot be its own."""
    try:
        fields = json_file.read(directory / FOREIGN, MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError, PermissionError, NotRegular, ValueError):
        return []
    former = fields.get("former")
    found = [_one(entry, known_as) for entry in [fields, *(former if isinstance(former, list) else [])][:MOST_USERS]]
    return [one for one in found if one is not None]


def left_over(state_dir: Path) -> Iterator[Foreign]:
    """What retention could not remove, of all databases: those named by directories that are on their way out."""
    for files in all_files(state_dir):
        with contextlib.suppress(OSError):
            for path in sorted((files / "tasks").glob(f"{TRASH_PREFIX}*")):
                if not path.is_symlink():
                    yield from named_by(path, name_before(path))


def name_before(going: Path) -> Path:
    """What a directory was called before retention renamed it: `.going-t`, or with a random part, `.going-.0123abcd-t`."""
    name = going.name.removeprefix(TRASH_PREFIX)
    if name.startswith("."):  # a task's directory never does (turbo.host.state_dir.safe_name)
        name = name.partition("-")[2]
    return going.with_name(name or going.name)


def _one(fields: object, known_as: Path) -> Foreign | None:
    if not isinstance(fields, dict):
        return None
    user, directory = fields.get("user"), fields.get("directory")
    if not isinstance(user, str) or not isinstance(directory, str) or not user or "\0" in user + directory:
        return None
    try:
        os.fsencode(user + directory)
    except UnicodeEncodeError:
        return None
    place = place_below_home(known_as).parts
    path = Path(directory)
    fits = path.is_absolute() and ".." not in path.parts and path.parts[-len(place) :] == place
    return Foreign(user, directory) if fits else None


def _remove(one: Foreign, known_as: Path) -> None:
    """Raises OSError, and IdentityRefused for a user that is none any more."""
    path = Path(one.directory)
    try:
        user = identity_of(one.user)
    except IdentityRefused:
        if _is_gone(path):
            return  # with the user's home
        raise
    if user is None:  # the worker's own by now
        if path == Path(pwd.getpwnam(one.user).pw_dir) / place_below_home(known_as) and (remains := remove_tree(path)):
            raise OSError(remains)
        return
    if path != user.place(known_as):
        if _is_gone(path):
            return
        raise OSError(f"the home of user {one.user} is {user.home} now")
    user.remove(path)


def _is_gone(path: Path) -> bool:
    """False also if this process may not look."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _write(directory: Path, named: list[Foreign]) -> None:
    file = directory / FOREIGN
    if file.is_dir() and not file.is_symlink():  # made by a program, before the executor had a run_as
        remove_tree(file)
    first, *former = map(asdict, named)
    write_atomically(file, json.dumps(first | ({"former": former} if former else {})))
