"""The worker's sessions: needs come before courtesies.

    needs: listener, heartbeat, claims, results        courtesies: progress, retention
       └── one cannot connect ──▶ courtesies close their sessions, and open none for a while
                └── for several seconds ──▶ a problem, for people: the role's limit, the server's, a pooler's

A role's CONNECTION LIMIT, max_connections and a pooler's size all look alike from here, and their messages are in the
server's language. So every failure to connect counts: where the database is away, courtesies have nothing to lose.
"""

import asyncio
import time

from turbo import db
from turbo.db.address import Address
from turbo.db.lane import Lane, LaneObserver
from turbo.domain.problem import ProblemKind
from turbo.runtime.problems import Problems
from turbo.runtime.service import Jobs

GIVE_WAY_SECONDS = 5.0
REPORT_SECONDS = 5.0
FORGET_SECONDS = 60.0
"""After so long without an attempt, whoever wanted the session has given up."""


class Sessions:
    """For one worker, on its event loop."""

    def __init__(self, where: Address, problems: Problems) -> None:
        self._where = where
        self._problems = problems
        self._courtesies: list[Lane] = []
        self._until = 0.0  # monotonic: when courtesies may open sessions again
        self._lacking: dict[str, float] = {}  # need → since when, monotonic
        self._forgetting: dict[str, asyncio.TimerHandle] = {}
        self._jobs = Jobs()

    @property
    def _needed(self) -> str:
        return "two sessions by listen_dsn, and two by dsn" if self._where.apart else "four sessions"

    def need(self, what: str, also: LaneObserver | None = None) -> LaneObserver:
        """The observer of a session that the worker cannot do without. `also` is told the same."""
        return _Need(self, what, also)

    def courtesy(self, application_name: str) -> Lane:
        """A lane that gives way to the needs."""
        lane = Lane(self._where, application_name, gives_way=self._scarce)
        self._courtesies.append(lane)
        return lane

    def _scarce(self) -> bool:
        return time.monotonic() < self._until

    def had(self, what: str) -> None:
        """A need has its session, or needs it no more."""
        if (timer := self._forgetting.pop(what, None)) is not None:
            timer.cancel()
        if self._lacking.pop(what, None) is not None:
            self._problems.clear(ProblemKind.SESSIONS, what)

    def lacks(self, what: str, error: Exception) -> None:
        """A need could not get its session."""
        now = time.monotonic()
        if now >= self._until:
            for lane in self._courtesies:
                self._jobs.start(lane.close_when_idle(), "a courtesy gives way")
        self._until = now + GIVE_WAY_SECONDS
        if (timer := self._forgetting.pop(what, None)) is not None:
            timer.cancel()
        self._forgetting[what] = asyncio.get_running_loop().call_later(FORGET_SECONDS, self.had, what)
        if now - self._lacking.setdefault(what, now) >= REPORT_SECONDS:
            self._problems.report(
                ProblemKind.SESSIONS,
                what,
                f"the database gives it no session for {what}: {db.reason(error)}",
                f"if it is full: a worker needs {self._needed}; raise the role's CONNECTION LIMIT, max_connections or the pool's size; "
                "turbo doctor counts them",
            )


class _Need:
    """A LaneObserver."""

    def __init__(self, sessions: Sessions, what: str, also: LaneObserver | None) -> None:
        self._sessions = sessions
        self._what = what
        self._also = also

    def opened(self, server: str) -> None:
        self._sessions.had(self._what)
        if self._also is not None:
            self._also.opened(server)

    def failed(self, error: Exception, connecting: bool) -> None:
        if connecting:
            self._sessions.lacks(self._what, error)
        if self._also is not None:
            self._also.failed(error, connecting)
