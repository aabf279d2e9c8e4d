"""The worktrees that tasks left on this host: how many, how big, and whether they exceed their limit."""

import time
from collections import defaultdict
from pathlib import Path

from turbo.doctor.check import Check
from turbo.doctor.former_users import former_users
from turbo.domain.finding import Finding, ok, warn
from turbo.workspaces.disk_usage import KeptWorktree, kept_worktrees

NAMED = 5
"""At most this many are named, the longest unused first."""

DAY = 86_400.0


def checks(state_dir: Path) -> list[Check]:
    return [
        Check("worktrees", lambda: worktrees(kept_worktrees(state_dir), time.time())),
        Check("former users", lambda: former_users(state_dir)),
    ]


def worktrees(kept: list[KeptWorktree], now: float) -> Finding:
    """`kept`: longest unused first. `now`: Unix seconds."""
    if not kept:
        return ok("no worktrees are kept")
    size: dict[str, int] = defaultdict(int)
    cap: dict[str, int] = {}
    for worktree in kept:
        size[worktree.executor] += worktree.size
        if worktree.cap is not None:
            cap[worktree.executor] = worktree.cap
    named = ", ".join(_named(worktree, now) for worktree in kept[:NAMED])
    more = f" and {len(kept) - NAMED} more" if len(kept) > NAMED else ""
    total = f"{len(kept)} kept, {_size(sum(size.values()))}: {named}{more}"
    for executor, allowed in cap.items():
        if size[executor] > allowed:
            return warn(
                f"worktrees of executor {executor} take {_size(size[executor])}, above its max_gb ({_size(allowed)}): the "
                f"rest is in use or has unmerged work; {total}",
                "merge what you need (turbo diff ID), then git -C REPO worktree remove PATH",
            )
    return ok(total)


def _named(worktree: KeptWorktree, now: float) -> str:
    return f"{worktree.branch} ({_size(worktree.size)}, unused for {max(0.0, now - worktree.used_at) / DAY:.0f} d)"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
