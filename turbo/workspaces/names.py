"""Names: the branch and the directory of a task's worktree, for any task id, and which names git accepts for a ref."""

import hashlib
import re
from pathlib import Path

from turbo.host.state_dir import safe_name

TASK_ID = "{task_id}"

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]")


def ref_problem(name: str) -> str | None:
    """Why git would reject this ref name (git-check-ref-format(1)), or take it for a flag; else None."""
    if not name:
        return "is empty"
    if name.startswith("-"):
        return "begins with '-', so it would be a flag"
    if found := _FORBIDDEN.search(name):
        return f"contains {found[0]!r}"
    for part in ("..", "@{", "//"):
        if part in name:
            return f"contains {part!r}"
    if name == "@" or name.startswith("/") or name.endswith(("/", ".")):
        return "is not a valid ref name"
    if any(part.startswith(".") or part.endswith(".lock") for part in name.split("/")):
        return "has a part that begins with '.' or ends with '.lock'"
    return None


def is_commit(text: str) -> bool:
    """Whether it is the full name of an object, in SHA-1 or SHA-256."""
    return _COMMIT.fullmatch(text) is not None


def branch_problem(template: str) -> str | None:
    """The same for a branch template, which must give each task a different branch."""
    if template.count(TASK_ID) != 1:
        return f"must contain {TASK_ID} exactly once: each task needs its own branch"
    rest = template.replace(TASK_ID, "x")
    if "{" in rest or "}" in rest:
        return f"may contain no placeholder except {TASK_ID}"
    return ref_problem(rest)


def branch_of(template: str, task_id: str) -> str:
    """A task's branch: with its id if that is valid in a ref, else with a readable part of it and a hash."""
    part = safe_name(task_id).replace("~", "+")
    if ref_problem(part) is not None or ref_problem(template.replace(TASK_ID, part)) is not None:
        digest = hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        part = f"{re.sub(r'[^a-z0-9]+', '_', part)[:40].strip('_') or 'task'}+{digest}"
    return template.replace(TASK_ID, part)


def home_of(root: Path, repo: Path, task_id: str) -> Path:
    """The directory of a task's worktree of `repo` and its record, in the host's `root`."""
    return root / f"{repo.name or 'repo'}-{digest_of(repo)[:8]}" / safe_name(task_id)


def digest_of(path: Path) -> str:
    """Represents a path in a file name."""
    return hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:32]
