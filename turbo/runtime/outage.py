"""Riding out an outage: try, log the failure once, back off, log the recovery.

    outage = Outage(log, "cannot claim", "claiming again", ...)
    while True:
        try:
            work()
        except ERRORS as error:
            await outage.wait(error)     # the first error of a kind is logged; then a pause that grows
        else:
            outage.over()                # logged once, if there was an outage

Waiting cures most errors, such as a server's restart: they are warnings, and the work is tried again about every second.
It does not cure a revoked privilege: that is logged as an error, tried again more slowly, and logged again every five
minutes.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from turbo.runtime.backoff import Backoff

LASTING_FACTOR = 5.0
"""How much longer the pauses are if waiting alone does not help."""

REMIND_SECONDS = 300.0


class Outage:
    """One kind of work that may fail for a while. `active`: it failed, and has not succeeded since."""

    def __init__(
        self,
        logger: logging.Logger,
        failing: str,
        back: str,
        *,
        lasting: Callable[[BaseException], bool],
        kind: Callable[[BaseException], str],
        reason: Callable[[BaseException], str],
        level: int = logging.WARNING,
        backoff: Backoff | None = None,
    ) -> None:
        """`failing` and `back` begin the two log lines. `lasting`: whether waiting alone will not cure an error. `kind`:
        errors of the same kind are logged once. `reason`: an error in one line. `level`: of errors that do not last."""
        self._log = logger
        self._failing = failing
        self._back = back
        self._lasting = lasting
        self._kind = kind
        self._reason = reason
        self._level = level
        self._backoff = backoff or Backoff()
        self._logged: str | None = None
        self._logged_at = 0.0  # monotonic seconds

    @property
    def active(self) -> bool:
        return self._backoff.failures > 0

    def failed(self, error: BaseException) -> float:
        """Log `error` unless one of its kind was logged already. Returns how many seconds to wait."""
        lasting = self._lasting(error)
        kind = self._kind(error)
        remind = lasting and time.monotonic() - self._logged_at > REMIND_SECONDS
        if kind != self._logged or remind:
            self._logged, self._logged_at = kind, time.monotonic()
            self._log.log(logging.ERROR if lasting else self._level, "%s: %s", self._failing, self._reason(error))
        return self._backoff.next() * (LASTING_FACTOR if lasting else 1.0)

    async def wait(self, error: BaseException) -> None:
        """`failed`, and the pause."""
        await asyncio.sleep(self.failed(error))

    def over(self) -> None:
        """The work succeeded."""
        self._backoff.reset()
        if self._logged is not None:
            self._logged = None
            self._log.log(min(self._level, logging.INFO), "%s", self._back)
