"""The record of a workspace: what turbo must know if its worker has died, or its configuration has changed.

    <state_dir>/workspaces/<repo>-<hash>/<task>/record.json      replaced as a whole, never half written
                                               /<repo>/          the worktree

    creating ──branch and worktree made, files checked out──▶ made ──setup succeeded──▶ ready
        └── found in this state: its worker died, or the disk was full. It is removed and made again

The worktree may be gone while its record stays: then its branch has commits that no other branch has.

A program may have written the file: it runs beside it, often as the worker's user. So a record counts only if each of its
values is what turbo would have written there. Its names become arguments of git, and its paths are removed.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from dataclasses import fields as fields_of
from enum import StrEnum
from pathlib import Path
from typing import Literal

from turbo.host.atomic_file import write_atomically
from turbo.host.regular_file import NotRegular, read_regular
from turbo.host.state_dir import safe_name
from turbo.process.identity import place_below_home
from turbo.workspaces.names import home_of, is_commit, ref_problem

FILE = "record.json"

Keep = Literal["changed", "always", "never"]


FILE_BYTES = 256 * 1024
VALUE_CHARACTERS = 8192
LATEST = 1e11
"""Unix seconds: the year 5138."""

DAYS = 1e9
BYTES = 1e18


class Stage(StrEnum):
    CREATING = "creating"
    MADE = "made"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Policy:
    """What becomes of a worktree.

    `keep`: after a task that succeeded. `keep_days`: how long after its last use retention may remove it.
    `max_bytes`: of all worktrees of the executor on this host; None means no cap. `sweep_unmerged`: retention may
    also remove uncommitted changes, and worktrees with unmerged commits (whose branch stays).
    """

    keep: Keep = "changed"
    keep_days: float = 14.0
    max_bytes: int | None = None
    sweep_unmerged: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One workspace.

    `repo`, `tree` and `git_dir` are absolute paths; `git_dir` is the worktree's own, inside the repository's. `base`
    is the commit at which it began. Times are Unix seconds on this host's clock.

    `start_commit` and `start_tree`: the commit and the files with which `setup` left it, if it changed any; else empty.

    `user`: whose the worktree is (`run_as`); empty for the worker's own user.
    """

    task_id: str
    executor: str
    host: str
    repo: str
    ref: str
    base: str
    branch: str
    tree: str
    git_dir: str
    stage: Stage
    policy: Policy
    created_at: float
    used_at: float
    start_commit: str = ""
    start_tree: str = ""
    user: str = ""

    @property
    def start(self) -> str:
        """The commit that was checked out when the task's own work began."""
        return self.start_commit or self.base

    @property
    def objects(self) -> Path:
        """Where the objects of `start_tree` are: not in the person's repository, and gone with the workspace."""
        return Path(self.tree).parent / ".objects"

    def save(self, home: Path) -> None:
        """Raises OSError (disk full)."""
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        fields = asdict(self)
        for name in ("start_commit", "start_tree", "user"):
            if not fields[name]:  # so that an older turbo can read most records
                del fields[name]
        write_atomically(home / FILE, json.dumps(fields))


_FREE = ("task_id", "executor", "host")
"""Neither arguments nor paths."""

_FIELDS = {field.name for field in fields_of(Record)}
_POLICY_FIELDS = {field.name for field in fields_of(Policy)}


class WrongRecord(Exception):
    """A record that turbo did not write. The message is one line: the file, and what is wrong with it."""


def _ignore(_home: Path, _error: WrongRecord) -> None: ...


def load(home: Path) -> Record | None:
    """The record in `home`; None if there is none, it cannot be read, or a newer turbo wrote it. Raises WrongRecord."""
    file = home / FILE
    try:
        content = read_regular(file, FILE_BYTES)
    except NotRegular as error:
        raise WrongRecord(str(error)) from None
    except OSError:
        return None
    try:
        fields = json.loads(content)
        if not isinstance(fields, dict) or not isinstance(fields.get("policy"), dict):
            raise WrongRecord(f"{file}: is not a record")
        if set(fields) - _FIELDS or set(fields["policy"]) - _POLICY_FIELDS:
            return None
        record = Record(**fields | {"stage": Stage(fields["stage"]), "policy": Policy(**fields["policy"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WrongRecord(f"{file}: is not a record ({type(error).__name__})") from None
    if (problem := problem_of(record, home)) is not None:
        raise WrongRecord(f"{file}: {problem}")
    return record


def set_aside(home: Path) -> None:
    """Take a wrong record out of the way. It stays, under another name, for a person. Raises OSError."""
    wrong = home / f"{FILE}.wrong"
    try:
        (home / FILE).replace(wrong)
    except OSError:  # one of the two is a directory
        (home / FILE).rename(f"{wrong}-{secrets.token_hex(4)}")


def problem_of(record: Record, home: Path) -> str | None:
    """Why `record` is none of a workspace in `home`, without the value that is wrong; or None."""
    for name, value in asdict(record).items():
        if name == "policy":
            continue
        if name in ("created_at", "used_at"):
            if not _number(value, 0, LATEST):
                return f"{name} is not a moment"
        elif not isinstance(value, str) or not _encodable(value):
            return f"{name} is not a text"
        elif name not in _FREE and (len(value) > VALUE_CHARACTERS or "\0" in value or "\n" in value):
            return f"{name} is not a text of one line"
    return _wrong_name(record) or _wrong_place(record, home) or _wrong_policy(record.policy)


def _encodable(value: str) -> bool:
    """False for half a surrogate pair, which JSON can hold, and no path."""
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _wrong_name(record: Record) -> str | None:
    for name in ("base", "start_commit", "start_tree"):
        value = getattr(record, name)
        if not is_commit(value) and (value or name == "base"):
            return f"{name} is not the name of an object"
    for name in ("ref", "branch"):
        if (problem := ref_problem(getattr(record, name))) is not None:
            return f"{name} {problem}"
    return None


def _wrong_place(record: Record, home: Path) -> str | None:
    tree, repo = Path(record.tree), Path(record.repo)
    if not repo.is_absolute() or ".." in repo.parts:
        return "repo is not an absolute path"
    if home_of(home.parent.parent, repo, record.task_id) != home:
        return "repo and task_id are not those of its directory"
    ours = _same(tree.parent, home) if not record.user else _belongs_to_another(tree.parent, home)
    if tree.name != (repo.name or "repo") or not ours:
        return "tree is not in its directory"
    git_dir = Path(record.git_dir)
    if record.git_dir and (
        not git_dir.is_absolute() or git_dir.parent.name != "worktrees" or git_dir.name in ("", "..")
    ):
        return "git_dir is not that of a worktree"
    if not record.git_dir and record.stage is not Stage.CREATING:
        return "git_dir is empty"
    return None


def _belongs_to_another(directory: Path, home: Path) -> bool:
    """Whether it is where a user has what belongs into `home` (turbo.process.identity)."""
    place = place_below_home(home).parts
    return directory.is_absolute() and ".." not in directory.parts and directory.parts[-len(place) :] == place


def _same(one: Path, other: Path) -> bool:
    return one == other or (os.path.realpath(one) == os.path.realpath(other) and ".." not in one.parts)


def _wrong_policy(policy: Policy) -> str | None:
    if policy.keep not in ("changed", "always", "never"):
        return "policy.keep is not one of changed, always, never"
    if not _number(policy.keep_days, 0, DAYS) or not isinstance(policy.sweep_unmerged, bool):
        return "policy is out of range"
    if policy.max_bytes is not None and not _number(policy.max_bytes, 0, BYTES):
        return "policy is out of range"
    return None


def _number(value: object, least: float, most: float) -> bool:
    """Also false for NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def homes(root: Path) -> Iterator[Path]:
    """The directories of all workspaces of the host. Links are left out."""
    for repository in _directories(root):
        if not repository.name.startswith("."):
            yield from _directories(repository)


def _directories(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def records(root: Path, wrong: Callable[[Path, WrongRecord], None] = _ignore) -> Iterator[tuple[Path, Record]]:
    """Every workspace of the host, with its home. `wrong` is called for the home of a record that is wrong."""
    for home in homes(root):
        try:
            record = load(home)
        except WrongRecord as error:
            wrong(home, error)
            continue
        if record is not None:
            yield home, record


def records_of(root: Path, task_id: str, wrong: Callable[[Path, WrongRecord], None] = _ignore) -> list[Record]:
    """The workspaces of one task, last used first. Several repositories, if its executor was changed."""
    found = []
    for repository in _directories(root):
        try:
            record = load(repository / safe_name(task_id))
        except WrongRecord as error:
            wrong(repository / safe_name(task_id), error)
            continue
        if record is not None and record.task_id == task_id:
            found.append(record)
    return sorted(found, key=lambda record: -record.used_at)
