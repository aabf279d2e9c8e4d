"""The claim gate: may this worker claim, which task types, and if not, why.

    accounts: types whose account is paused ───────────────┐
    executor availability: types whose program is missing ─┼──▶ types, open ──▶ the claimer, before each claim
    spool: everything, while the disk takes no result ─────┘

What a source closes is closed at once in this process; the worker's row is written afterwards (turbo.worker.presence).
"""

import asyncio
import functools
import operator
from collections.abc import Callable

from turbo.domain.type_filter import EVERYTHING, TypeFilter


class ClaimGate:
    """`types`: what all sources let through. `held_back`: why nothing may be claimed at all, or None. `changed` is set by
    every change; one part of the worker waits for it (turbo.worker.presence) and clears it."""

    def __init__(self) -> None:
        self.types = EVERYTHING
        self.held_back: str | None = None
        self.changed = asyncio.Event()
        self._by_source: dict[str, TypeFilter] = {}

    def source(self, name: str) -> Callable[[TypeFilter], None]:
        """A new source of closed types. Returns a function to call with the types that it lets through."""

        def restrict(types: TypeFilter) -> None:
            self._by_source[name] = types
            self.types = functools.reduce(operator.and_, self._by_source.values())
            self.changed.set()

        return restrict

    def hold(self, reason: str | None) -> None:
        """Let nothing be claimed, because of `reason`; None lets claims go on."""
        self.held_back = reason
        self.changed.set()

    @property
    def open(self) -> bool:
        """Whether anything may be claimed."""
        return self.held_back is None and not self.types.none
