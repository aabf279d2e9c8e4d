"""Which lock a statement takes, who waits for it, and for how long: `--plan` shows it for each.

Estimates are for the work itself. Before it, a statement may wait for the lock, up to `lock_timeout` at a time, and other
sessions that need the table wait behind it.
"""

import re
from dataclasses import dataclass

from turbo.migrate.adoption.survey import Survey
from turbo.migrate.files import Block

SCAN_BYTES_PER_SECOND = 200 * 1024 * 1024
"""The read rate of a cold table; a cached one is several times faster."""

_ON = re.compile(r"(?:on|table|only)\s+(?:if exists\s+)?(?:only\s+)?public\.(agent_\w+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Lock:
    """`table` is empty if no existing table is locked. `seconds`: the estimated time that the lock is held."""

    table: str
    mode: str
    waits: str
    seconds: float

    def __str__(self) -> str:
        if not self.table:
            return "locks none of the existing tables"
        return f"{self.mode} on {self.table}: {self.waits}; held for about {_spoken(self.seconds)}"


NONE = Lock("", "", "no session waits", 0.0)


def lock_of(block: Block, survey: Survey) -> Lock:
    """The strongest lock that a block takes on an existing table."""
    there = {t.name: t for t in (survey.tasks, survey.actions) if t is not None}
    text = re.sub(r"--[^\n]*", "", block.sql)
    index = block.concurrent_index
    if index is not None:
        table = index.table if index.table in there else next((n for n in there if index.table.startswith(n)), "")
        size = there[table].size if table else 0
        return (
            Lock(index.table, "SHARE UPDATE EXCLUSIVE", "reads and writes continue", _scan(2 * size)) if table else NONE
        )
    named = [name for name in _ON.findall(text) if name in there]
    if not named or text.lstrip().lower().startswith("create table"):
        return NONE
    table = named[0]
    if "validate constraint" in text:
        return Lock(table, "SHARE UPDATE EXCLUSIVE", "reads and writes continue", _scan(there[table].size))
    if "alter table" in text:
        return Lock(table, "ACCESS EXCLUSIVE", "reads and writes wait", 0.01)
    if "trigger" in text:
        return Lock(table, "SHARE ROW EXCLUSIVE", "writes wait, reads continue", 0.02)
    if "create index" in text:
        return Lock(table, "SHARE", "writes wait, reads continue", 0.02)
    return Lock(table, "SHARE UPDATE EXCLUSIVE", "reads and writes continue", 0.01)


def _scan(size: int) -> float:
    return max(0.05, size / SCAN_BYTES_PER_SECOND)


def _spoken(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.0f} s"
