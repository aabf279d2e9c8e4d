"""Statements about accounts: the rows behind their breakers (turbo.accounts)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from turbo.db.lane import Lane
from turbo.db.store import Store
from turbo.domain.states import AccountState, PauseReason


@dataclass(frozen=True, slots=True)
class AccountRow:
    """A row of `agent_accounts`.

    `seconds`: until it may be probed (the end of a pause, or of a prober's lease); None for never. `probed`: a good probe
    opened it last, not a person. `cleared`: a good probe began after the time that the query named.
    """

    account: str
    host: str
    state: AccountState
    reason: PauseReason | None
    seconds: float | None
    probed: bool = False
    cleared: bool = False


@dataclass(frozen=True, slots=True)
class ProbeClaim:
    """The row of which this worker became the prober. `unavailable`: it is closed because its service is away."""

    state: AccountState
    unavailable: bool


class AccountStore(Store):
    """Bound to one worker on one host. `host` '*' in a call names the row of every host."""

    def __init__(self, lane: Lane, worker_id: str, host: str) -> None:
        super().__init__(lane)
        self._worker_id = worker_id
        self._host = host

    async def rows(self, account: str, since: datetime | None = None) -> tuple[AccountRow, ...]:
        """The row of this host and that of every host. `since`: a time by the database's clock; see AccountRow.cleared."""
        parameters = {"account": account, "host": self._host, "since": since}
        return tuple(
            AccountRow(name, host, AccountState(state), pause_reason(reason), seconds, probed, cleared)
            for name, host, state, reason, seconds, probed, cleared in await self._rows("accounts/rows", parameters)
        )

    async def suspect(self, account: str, *, why: str | None, unavailable: bool, fresh: float, last: float) -> datetime:
        """Close the account on this host until a probe has decided. Returns the time by the database's clock.

        `unavailable`: because its service did not answer, not because of its login. It stays open if a probe was good
        within `fresh` seconds. Failures older than `last` seconds are forgotten."""
        found: datetime = await self._one(
            "accounts/suspect",
            account=account,
            host=self._host,
            why=why,
            unavailable=unavailable,
            fresh=fresh,
            last=last,
        )
        return found

    async def limit(
        self,
        account: str,
        host: str,
        *,
        resets_at: float | None,
        shortest: float,
        longest: float,
        unknown: float,
        jitter: float,
        why: str | None,
    ) -> bool:
        """Close the account until its reset (`resets_at`, Unix seconds; `unknown` seconds from now without one), clamped
        between `shortest` and `longest` seconds and `jitter` seconds late. True: this call closed it."""
        return bool(
            await self._one(
                "accounts/limit",
                account=account,
                host=host,
                resets_at=resets_at,
                shortest=shortest,
                longest=longest,
                unknown=unknown,
                jitter=jitter,
                why=why,
            )
        )

    async def no_credits(self, account: str, host: str, *, why: str | None) -> bool:
        """Close the account until a person opens it: its service wants a payment. True: this call closed it."""
        return bool(await self._one("accounts/credits", account=account, host=host, why=why))

    async def become_prober(self, account: str, host: str, *, lease: float) -> ProbeClaim | None:
        """Take the row for `lease` seconds, to probe the account. None: another worker has it, or no probe is due."""
        parameters = {"worker": self._worker_id, "account": account, "host": host, "lease": lease}
        for state, unavailable in await self._rows("accounts/probe", parameters):
            return ProbeClaim(AccountState(state), unavailable)
        return None

    async def good(self, account: str, host: str, *, forget: bool) -> bool:
        """The probe was good: open. `forget`: earlier failures no longer lengthen the backoff.

        False: this worker is not the prober any more."""
        return await self._one("accounts/good", account=account, host=host, forget=forget) is not None

    async def bad(
        self, account: str, host: str, *, unavailable: bool, first: float, last: float, jitter: float, why: str
    ) -> float | None:
        """The probe was bad: closed for a backoff between `first` and `last` seconds. Returns the seconds.

        `unavailable`: the service did not answer, which says nothing about the login.
        None: this worker is not the prober any more."""
        seconds = await self._one(
            "accounts/bad",
            account=account,
            host=host,
            unavailable=unavailable,
            first=first,
            last=last,
            jitter=jitter,
            why=why,
        )
        return None if seconds is None else float(seconds)

    async def hand_back(self, account: str, host: str) -> None:
        """This worker cannot probe the account: let a worker of another host do it."""
        await self._one("accounts/hand_back", account=account, host=host)

    async def _one(self, name: str, **parameters: object) -> Any:
        """The first column of the row that a statement returns; None when it changed nothing."""
        found = await self._rows(name, {"worker": self._worker_id, **parameters})
        return found[0][0] if found else None


def pause_reason(text: str | None) -> PauseReason | None:
    return None if text is None else PauseReason(text)
