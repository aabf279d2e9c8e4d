"""The windows of accounts, shared by all workers: what agents here report is written, what others have written is read.

    an agent's report ──▶ headroom, at once ──a figure changed──▶ agent_account_windows, at most every WRITE_SECONDS
    a choice among accounts ──older than READ_SECONDS──▶ read the table ──▶ headroom

A worker that runs nothing writes and reads nothing. Figures that the database does not take now are dropped: the next report has newer
ones.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Iterable

from turbo import db
from turbo.accounts.headroom import Headroom
from turbo.db.window_store import WindowStore
from turbo.domain.headroom import UsageWindow
from turbo.host.sanitize import sanitize_text
from turbo.runtime.service import LoopService

log = logging.getLogger(__name__)

WRITE_SECONDS = 5.0
READ_SECONDS = 15.0

PATIENCE_SECONDS = 1.0
"""How long a choice waits for the table. It then goes by what this process knows."""

Key = tuple[str, str, str]


class AccountWindows(LoopService):
    """`shared`: the accounts that worker.yaml names. Another's name may mean a different login on each host, so it is not written."""

    name = "account windows"

    def __init__(self, store: WindowStore, headroom: Headroom, shared: Collection[str]) -> None:
        super().__init__()
        self._store = store
        self._headroom = headroom
        self._shared = frozenset(shared)
        self._unwritten: dict[Key, UsageWindow] = {}
        self._written: dict[Key, tuple[object, ...]] = {}
        self._changed = asyncio.Event()
        self._read_at = -READ_SECONDS
        self._outage = db.outage(
            log, "cannot share the windows of accounts", "the windows of accounts are shared again", level=logging.INFO
        )

    def report(self, account: str, windows: Iterable[UsageWindow]) -> None:
        """What an agent has reported of its account."""
        clean = (_clean(window) for window in windows)
        for window in self._headroom.observe(account, clean):
            key = (account, window.time_window, window.model)
            if account in self._shared and self._written.get(key) != _figures(window):
                self._unwritten[key] = window
                self._changed.set()

    async def refresh(self, accounts: Collection[str]) -> None:
        """Learn what other workers have seen of these accounts, unless that was done a moment ago."""
        if time.monotonic() < self._read_at + READ_SECONDS:
            return
        self._read_at = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                for account, window in await self._store.read(accounts):
                    self._headroom.learn(account, window)
        except (TimeoutError, *db.DATABASE_ERRORS) as error:
            log.debug("cannot read the windows of accounts: %s", error)

    async def run(self) -> None:
        self.started.set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._write()
            await asyncio.sleep(WRITE_SECONDS)

    async def _write(self) -> None:
        windows, self._unwritten = self._unwritten, {}
        try:
            await self._store.report(windows)
        except db.DATABASE_ERRORS as error:
            self._outage.failed(error)
            return
        self._outage.over()
        self._written |= {key: _figures(window) for key, window in windows.items()}


def _clean(window: UsageWindow) -> UsageWindow:
    """Names without what the database cannot store."""
    names = (window.time_window, window.model, window.status)
    if all(name.isascii() and name.isprintable() for name in names):
        return window
    time_window, model, status = (sanitize_text(name, set()) for name in names)
    return UsageWindow(time_window, model, window.utilization, window.resets_at, status)


def _figures(window: UsageWindow) -> tuple[object, ...]:
    """What of a window is worth a write: whole per cents and seconds."""
    used = None if window.utilization is None else round(window.utilization, 2)
    return used, None if window.resets_at is None else round(window.resets_at), window.status
