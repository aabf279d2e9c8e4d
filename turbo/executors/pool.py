"""An executor with several accounts, or with models to fall back to: one executor for each account and model.
turbo.accounts.chooser chooses one for each run.

    tasks of `claude` ──▶ pool ──chosen──▶ `claude` with the login of alpha-max
                            └────────────▶ `claude` with the login of beta-max

The members have the pool's name, and everything but the login and the model in common.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from turbo.domain.outcome import Outcome, Probe
from turbo.domain.run import Run
from turbo.executors.protocol import Converses, Depends, Executor, KeepsSessions, NeedsAccounts, NeedsProgram, Versioned


@dataclass(frozen=True, slots=True)
class PoolMember:
    """`account`: whose breaker protects it. `model`: as configured; None: the program's own choice."""

    account: str
    model: str | None
    executor: Executor


class AccountPool:
    """`members`: the accounts in the order of the configuration, for the first model, then for the next. `unusable`: the accounts that
    this host cannot use, and why, as of the last call of `missing`: an env file may go away while the worker runs."""

    account: str | None = None

    def __init__(self, name: str, members: Sequence[PoolMember]) -> None:
        self.name = name
        self.members = tuple(members)
        self.unusable: Mapping[str, str] = {}
        self._first = self.members[0].executor
        self.durable = self._first.durable
        self.converses = isinstance(self._first, Converses) and self._first.converses
        if isinstance(self._first, KeepsSessions):
            self.session_kind = self._first.session_kind
        self.needs_accounts: Collection[str] = (
            frozenset(self._first.needs_accounts) if isinstance(self._first, NeedsAccounts) else frozenset[str]()
        )

    async def run(self, run: Run) -> Outcome:
        """With the first account. A worker chooses a member instead."""
        return await self._first.run(run)

    def missing(self) -> str | None:
        """See `NeedsProgram`: what all members lack. What only some of them lack is in `unusable`."""
        missing = {
            one.account: why
            for one in self.members
            if isinstance(one.executor, NeedsProgram) and (why := one.executor.missing()) is not None
        }
        self.unusable = missing
        return next(iter(missing.values())) if missing.keys() == {one.account for one in self.members} else None

    async def version(self) -> str | None:
        """See `Versioned`."""
        return await self._first.version() if isinstance(self._first, Versioned) else None

    def dependencies(self) -> Mapping[str, Probe]:
        """See `Depends`: those of its members, which work in the same directories."""
        return self._first.dependencies() if isinstance(self._first, Depends) else {}


def each_member(executors: Mapping[str, Executor]) -> Iterator[Executor]:
    """Every executor that runs tasks itself: in place of a pool its members."""
    for executor in executors.values():
        if isinstance(executor, AccountPool):
            yield from (one.executor for one in executor.members)
        else:
            yield executor
