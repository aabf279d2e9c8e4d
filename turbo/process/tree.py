"""The process tree of one program: every process that belongs to it, and how all of them are ended.

    TERM to its process group ──▶ grace ──▶ KILL to the whole tree, repeated until nothing is left

The tree holds the program itself, and its group while the program exists (a zombie keeps its group number too). It
also holds every process with its cookie, every earlier member, and the children of all these.

Agents run their tools in separate sessions, so a signal to the group does not reach the tools. An agent ends them
itself after TERM. If it is killed first, the refresh before that has found them.

A process is signalled only if its start is the one recorded when it was found. A reused pid belongs to a stranger.
"""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator

from turbo.process import table as process_table
from turbo.process.identity import powers_over
from turbo.process.journal import Entry
from turbo.process.table import ProcessRow, ProcessTable

KILL_SECONDS = 5.0
"""How long after the first KILL a process may take to go (uninterruptible sleep) before turbo stops waiting."""

LEFT_BEHIND_SECONDS = 1.0
"""Time from TERM to KILL for what a program left behind when it ended."""

FIRST_DELAY, LONGEST_DELAY = 0.01, 0.1


class ProcessTree:
    """One program's processes. Any thread may use it, but only one at a time."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self._members: dict[int, ProcessRow] = {}  # replaced, never changed in place
        self._powers = powers_over(entry.user)
        self._other_boot = bool(entry.boot) and entry.boot != process_table.boot()

    def refresh(self, table: ProcessTable | None = None) -> tuple[int, ...]:
        """Read the process table. Returns the pids of all live members. Raises OSError if it, or a cookie, cannot be read."""
        if self._other_boot:
            return ()
        table = process_table.snapshot() if table is None else table
        members = {pid: row for pid, old in self._members.items() if (row := table.get(pid)) and row.start == old.start}
        program = table.get(self.entry.pid)
        if program is not None and self._is_program(program):
            members |= {row.pid: row for row in table.values() if row.group == program.pid}
        # Descendants start after their ancestor, so most of the table needs no second file read.
        others = [
            row.pid
            for row in table.values()
            if row.pid not in members and not row.zombie and row.start >= self.entry.start
        ]
        members |= {pid: table[pid] for pid in self._powers.with_cookie(others, self.entry.cookie)}
        # A reaper may carry the cookie itself: an agent may have started a worker, and that worker this reaper.
        for excluded in (0, 1, os.getpid()):
            members.pop(excluded, None)
        _add_children(members, table)
        self._members = members
        return tuple(pid for pid, row in members.items() if not row.zombie)

    def program_lives(self) -> bool:
        row = process_table.find(self.entry.pid)
        return row is not None and self._is_program(row) and not row.zombie

    def living(self) -> tuple[int, ...]:
        """The members of the last refresh that still live. Cheaper than a refresh, but does not find new ones."""
        return tuple(pid for pid, row in self._members.items() if _lives(row))

    def signal_group(self, number: signal.Signals) -> bool:
        """Signal the program and its process group, if the program (or its zombie) still exists."""
        row = process_table.find(self.entry.pid)
        if row is None or not self._is_program(row):
            return False
        self._powers.signal([-row.pid], number)
        return True

    def signal_all(self, number: signal.Signals) -> None:
        """Signal the group, and all other members of the last refresh."""
        group = self.entry.pid if self.signal_group(number) else None
        others = [row.pid for row in self._members.values() if row.group != group and _lives(row)]
        if others:
            self._powers.signal(others, number)

    def _is_program(self, row: ProcessRow) -> bool:
        return row.pid > 1 and row.start == self.entry.start


def end_tree(tree: ProcessTree, grace: float) -> Iterator[float]:
    """End the whole tree. Yields the seconds to wait before the next step.

    Stops when nothing is left, or KILL_SECONDS after KILL. A running program gets TERM to its group only, and `grace`
    seconds to end its own children. Processes that are left after the program has ended get TERM themselves, and
    LEFT_BEHIND_SECONDS.
    """
    if not tree.refresh():
        return
    program_running = tree.program_lives()
    _terminate(tree, everything=not program_running)
    delay = FIRST_DELAY
    deadline = time.monotonic() + (grace if program_running else min(grace, LEFT_BEHIND_SECONDS))
    while time.monotonic() < deadline:
        yield delay
        delay = min(delay * 1.5, LONGEST_DELAY)
        if program_running and not tree.program_lives():
            program_running = False
            if not tree.refresh():
                return
            _terminate(tree, everything=True)
            deadline = min(deadline, time.monotonic() + LEFT_BEHIND_SECONDS)
        elif not program_running and not tree.living():
            break
    delay = FIRST_DELAY
    deadline = time.monotonic() + KILL_SECONDS
    while tree.refresh() and time.monotonic() < deadline:
        tree.signal_all(signal.SIGKILL)
        yield delay
        delay = min(delay * 1.5, LONGEST_DELAY)


def _terminate(tree: ProcessTree, *, everything: bool) -> None:
    signal_them = tree.signal_all if everything else tree.signal_group
    signal_them(signal.SIGTERM)
    signal_them(signal.SIGCONT)  # a stopped process acts on TERM only after it continues


def _add_children(members: dict[int, ProcessRow], table: ProcessTable) -> None:
    children: dict[int, list[ProcessRow]] = defaultdict(list)
    for row in table.values():
        children[row.parent].append(row)
    unvisited = list(members)
    while unvisited:
        for child in children[unvisited.pop()]:
            if child.pid not in members:
                members[child.pid] = child
                unvisited.append(child.pid)


def _lives(seen: ProcessRow) -> bool:
    row = process_table.find(seen.pid)
    return row is not None and row.start == seen.start and not row.zombie
