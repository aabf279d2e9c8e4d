"""Names: which branch and which directory a task's worktree gets, whatever its id is, and what git takes for a ref."""

import hashlib
import re
from pathlib import Path

from turbo.host.state_dir import safe_name

TASK_ID = "{task_id}"

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]")


def ref_problem(name: str) -> str | None:
    """Why git would not take it as the name of a ref (git-check-ref-format(1)), or would take it for a flag; or None."""
    if not name:
        return "is empty"
    if name.startswith("-"):
        return "begins with '-', so it would be a flag"
    if found := _FORBIDDEN.search(name):
        return f"holds {found[0]!r}"
    for part in ("..", "@{", "//"):
        if part in name:
            return f"holds {part!r}"
    if name == "@" or name.startswith("/") or name.endswith(("/", ".")):
        return "is no name of a ref"
    if any(part.startswith(".") or part.endswith(".lock") for part in name.split("/")):
        return "has a part that begins with '.' or ends with '.lock'"
    return None


def branch_problem(template: str) -> str | None:
    """The same of a template for branches, which must tell the tasks apart."""
    if template.count(TASK_ID) != 1:
        return f"must hold {TASK_ID} once: each task needs a branch of its own"
    rest = template.replace(TASK_ID, "x")
    if "{" in rest or "}" in rest:
        return f"knows the placeholder {TASK_ID} and no other"
    return ref_problem(rest)


def branch_of(template: str, task_id: str) -> str:
    """A task's branch: its id where that can stand in a ref, else a readable part of it and a hash."""
    part = safe_name(task_id).replace("~", "+")
    if ref_problem(part) is not None or ref_problem(template.replace(TASK_ID, part)) is not None:
        digest = hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        part = f"{re.sub(r'[^a-z0-9]+', '_', part)[:40].strip('_') or 'task'}+{digest}"
    return template.replace(TASK_ID, part)


def home_of(root: Path, repo: Path, task_id: str) -> Path:
    """Where a task's worktree of `repo` and its record are, below the host's `root`."""
    return root / f"{repo.name or 'repo'}-{digest_of(repo)[:8]}" / safe_name(task_id)


def digest_of(path: Path) -> str:
    """Names a path in a file name."""
    return hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:32]
