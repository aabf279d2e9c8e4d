"""The record of a workspace: what turbo must know if its worker has died, or its configuration has changed.

    <state_dir>/workspaces/<repo>-<hash>/<task>/record.json      replaced as a whole, never half written
                                               /<repo>/          the worktree

    creating ──branch and worktree made, files checked out──▶ made ──setup succeeded──▶ ready
        └── found in this state: its worker died, or the disk was full. It is removed and made again

The worktree may be gone while its record stays: then its branch has commits that no other branch has.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from turbo.host import json_file
from turbo.host.atomic_file import write_atomically
from turbo.host.state_dir import safe_name

FILE = "record.json"
RECORD_BYTES = 1024 * 1024
LATEST = 1e11

Keep = Literal["changed", "always", "never"]


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


def load(home: Path) -> Record | None:
    """The record in `home`; None if there is none, or it cannot be read."""
    try:
        fields = json_file.read(home / FILE, RECORD_BYTES)
        json_file.real(fields, "created_at", 0.0, LATEST)
        json_file.real(fields, "used_at", 0.0, LATEST)
        json_file.real(fields["policy"], "keep_days", 0.0, 1e6, 14.0)
        return Record(**fields | {"stage": Stage(fields["stage"]), "policy": Policy(**fields["policy"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def records(root: Path) -> Iterator[tuple[Path, Record]]:
    """Every workspace of the host, with its home."""
    for file in sorted(root.glob(f"*/*/{FILE}")):
        record = load(file.parent)
        if record is not None:
            yield file.parent, record


def records_of(root: Path, task_id: str) -> list[Record]:
    """The workspaces of one task, last used first. Several repositories, if its executor was changed."""
    found = [load(file.parent) for file in root.glob(f"*/{safe_name(task_id)}/{FILE}")]
    return sorted((r for r in found if r is not None and r.task_id == task_id), key=lambda r: -r.used_at)
