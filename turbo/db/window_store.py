"""Statements about the windows of accounts (turbo.accounts.windows)."""

import json
import time
from collections.abc import Collection, Mapping

from turbo.db.store import Store
from turbo.domain.headroom import LONGEST_WINDOW, MOST_WINDOWS, UsageWindow

MOST_ACCOUNTS = 500


class WindowStore(Store):
    """`UsageWindow` has Unix seconds of this host; the rows have times of the database's clock."""

    async def report(self, windows: Mapping[tuple[str, str, str], UsageWindow]) -> None:
        """Write what changed, by (account, window, model). Raises `db.DATABASE_ERRORS`."""
        now = time.time()
        rows = [
            {
                "account": account,
                "time_window": time_window,
                "model": model,
                "utilization": window.utilization,
                "resets_in": None if window.resets_at is None else window.resets_at - now,
                "status": window.status,
            }
            for (account, time_window, model), window in windows.items()
        ]
        await self._run("accounts/report_windows", {"windows": json.dumps(rows), "longest": LONGEST_WINDOW})

    async def read(self, accounts: Collection[str]) -> list[tuple[str, UsageWindow]]:
        """What is known of these accounts. Raises `db.DATABASE_ERRORS`."""
        parameters = {"accounts": list(accounts), "most": MOST_ACCOUNTS * MOST_WINDOWS}
        now = time.time()
        return [
            (
                account,
                UsageWindow(
                    time_window,
                    model,
                    utilization,
                    None if resets_in is None else now + resets_in,
                    status,
                    now - age,
                ),
            )
            for account, time_window, model, utilization, status, resets_in, age in await self._rows(
                "accounts/windows", parameters
            )
        ]
