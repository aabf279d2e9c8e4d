"""The claim gate: may this worker claim, which task types, and if not, why.

    accounts: executors whose account is paused ───────────────┐
    executor availability: executors whose program is missing ─┼──▶ types, open ──▶ the claimer, before each claim
    spool: everything, while the disk takes no result ─────────┤
    completer: everything, while results cannot be recorded ───┘

What a source closes is closed at once in this process; the worker's row is written afterwards (turbo.worker.presence).
"""

import asyncio
import functools
import operator
from collections.abc import Callable

from turbo.domain.problem import ProblemKind
from turbo.domain.type_filter import EVERYTHING, Routes, TypeFilter, served_types
from turbo.runtime.problems import Problems

HOLD = "claims"
"""The key of a problem that holds back all claims."""


class ClaimGate:
    """`types`: what all sources let through. `changed` is set by every change; one part of the worker waits for it
    (turbo.worker.presence) and clears it."""

    def __init__(self, problems: Problems, routes: Routes | None = None) -> None:
        """What holds everything back is reported to `problems`."""
        self._routes = routes or {}
        self._by_closer: dict[str, TypeFilter] = {}
        self.types = EVERYTHING
        self.changed = asyncio.Event()
        self._problems = problems
        self._holds: dict[ProblemKind, str] = {}
        self._by_source: dict[str, TypeFilter] = {}

    def source(self, name: str) -> Callable[[TypeFilter], None]:
        """A new source of closed types. Returns a function to call with the types that it lets through."""

        def restrict(types: TypeFilter) -> None:
            self._by_source[name] = types
            self._join()

        return restrict

    def closer(self, name: str) -> Callable[[TypeFilter], None]:
        """A new source of closed executors. Returns a function to call with the executors that it lets through, as if their names
        were task types. A type is let through as long as one executor of its route is open to all closers."""

        def restrict(executors: TypeFilter) -> None:
            self._by_closer[name] = executors
            self._join()

        return restrict

    def serves(self, executor: str) -> bool:
        """Whether all closers let this executor through."""
        return all(executors.lets(executor) for executors in self._by_closer.values())

    def _join(self) -> None:
        types = served_types(self._routes, self.serves)
        self.types = functools.reduce(operator.and_, self._by_source.values(), types)
        self.changed.set()

    def hold(self, kind: ProblemKind, reason: str | None, do: str = "") -> None:
        """Let nothing be claimed, because of `reason`; None ends this kind's hold. `do`: the remedy."""
        if (kind in self._holds) != (reason is not None):  # another reason for the same hold changes no row
            self.changed.set()
        if reason is None:
            self._holds.pop(kind, None)
            self._problems.clear(kind, HOLD)
        else:
            self._holds[kind] = reason
            self._problems.report(kind, HOLD, f"claims nothing: {reason}", do)

    @property
    def held_back(self) -> str | None:
        """Why nothing may be claimed at all, or None."""
        return next(iter(self._holds.values()), None)

    @property
    def open(self) -> bool:
        """Whether anything may be claimed."""
        return not self._holds and not self.types.none
