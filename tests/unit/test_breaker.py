"""One account's breaker as one process sees it: steps of interleavings, on a clock of the test's own."""

import pytest

from turbo.accounts.breaker import AccountTimings, Breaker
from turbo.db.account_store import AccountRow, pause_reason
from turbo.domain.states import AccountState

HOST = "alpha"


def row(state: str, reason: str | None = None, seconds: float | None = None, **more: object) -> AccountRow:
    known: dict[str, object] = {
        "account": "max",
        "host": HOST,
        "state": AccountState(state),
        "reason": pause_reason(reason),
        "seconds": seconds,
    }
    return AccountRow(**(known | more))  # type: ignore[arg-type]


def everywhere(*args: object, **more: object) -> AccountRow:
    return row(*args, host="*", **more)  # type: ignore[arg-type]


@pytest.fixture
def breaker() -> Breaker:
    return Breaker("max", uniform=lambda _low, high: high)


def test_suspicion_closes_at_once_and_an_older_poll_keeps_it(
    breaker: Breaker,
) -> None:
    breaker.suspect()
    assert breaker.closed(1.0)
    assert not breaker.update([], asked_at=0.9, now=1.1), "not written yet: the database cannot know"
    breaker.written(2.0, accepted=True)
    assert not breaker.update([], asked_at=1.9, now=2.1), "sent before the write was answered"
    assert breaker.closed(2.1)
    assert breaker.update([row("suspect", None, 10.0)], asked_at=2.0, now=2.2)
    assert breaker.closed(2.2)
    assert breaker.update([row("open", probed=True)], asked_at=3.0, now=3.1)
    assert not breaker.closed(3.1), "a suspicion that was none needs no spread"


def test_two_simultaneous_suspicions_are_both_awaited(breaker: Breaker) -> None:
    breaker.suspect()
    breaker.suspect()
    breaker.written(1.0, accepted=True)
    assert not breaker.update([], asked_at=1.5, now=1.6)
    breaker.written(2.0, accepted=True)
    assert breaker.update([], asked_at=2.5, now=2.6)


def test_limit_applies_locally_before_the_database_has_it(breaker: Breaker) -> None:
    breaker.limited(0.0, everywhere=True)
    assert breaker.reasons == {"usage_limit"}
    assert not breaker.update([], asked_at=0.0, now=0.1)
    breaker.written(1.0, accepted=True)
    breaker.update([everywhere("paused", "usage_limit", 3600.0)], asked_at=1.0, now=1.1)
    assert breaker.due(3601.0) is None
    assert breaker.due(3601.2) == "everywhere"


def test_unwritten_change_holds_for_one_backoff(breaker: Breaker) -> None:
    breaker.suspect()
    breaker.written(10.0, accepted=False)
    assert not breaker.update([], asked_at=39.0, now=39.0)
    assert breaker.update([], asked_at=40.0, now=40.0)
    assert not breaker.closed(40.0)


@pytest.mark.parametrize("state", ["suspect", "half_open"])
def test_lease_of_a_vanished_prober_ends(breaker: Breaker, state: str) -> None:
    breaker.update([row(state, None, 120.0)], asked_at=0.0, now=0.0)
    assert breaker.wakes_at(1.0) == 120.0
    assert breaker.due(119.9) is None
    assert breaker.due(120.0) == "here"
    breaker.snooze(120.0, 5.0)
    assert breaker.due(120.1) is None, "one attempt at a time"
    assert breaker.wakes_at(120.1) == 125.0


def test_host_probes_its_own_login_before_a_shared_limit(breaker: Breaker) -> None:
    breaker.update([row("paused", "auth", 50.0), everywhere("paused", "usage_limit", 10.0)], asked_at=0.0, now=0.0)
    assert breaker.reasons == {"auth", "usage_limit"}
    assert breaker.due(20.0) is None
    assert breaker.wakes_at(20.0) == 50.0
    assert breaker.due(50.0) == "here"
    breaker.update([row("open", probed=True), everywhere("paused", "usage_limit", -40.0)], asked_at=51.0, now=51.0)
    assert breaker.closed(51.0)
    assert breaker.due(51.0) == "everywhere"


def test_pause_by_hand_is_left_alone(breaker: Breaker) -> None:
    breaker.update([row("suspect", None, -1.0), everywhere("paused", "manual")], asked_at=0.0, now=0.0)
    assert breaker.due(1e9) is None
    assert breaker.wakes_at(0.0) is None
    breaker.limited(1.0, everywhere=True)
    breaker.written(1.0, accepted=True)
    assert breaker.reasons == {"manual"}


def test_good_probe_spreads_the_resume_except_for_the_prober(breaker: Breaker) -> None:
    assert AccountTimings().resume_spread == 60.0
    breaker.update([row("paused", "auth", 10.0)], asked_at=0.0, now=0.0)
    breaker.update([row("half_open", "auth", 120.0)], asked_at=10.0, now=10.0)
    breaker.update([row("open", probed=True)], asked_at=11.0, now=11.0)
    assert breaker.closed(70.9)
    assert breaker.wakes_at(11.0) == 71.0
    assert not breaker.closed(71.0)

    breaker.update([row("paused", "auth", 10.0)], asked_at=80.0, now=80.0)
    breaker.probes = True
    breaker.update([row("open", probed=True)], asked_at=91.0, now=91.0)
    assert not breaker.closed(91.0)
    assert not breaker.probes


def test_resume_by_hand_is_immediate(breaker: Breaker) -> None:
    breaker.update([everywhere("paused", "manual")], asked_at=0.0, now=0.0)
    breaker.update([everywhere("open")], asked_at=1.0, now=1.0)
    assert not breaker.closed(1.0)


def test_rows_of_other_accounts_are_ignored(breaker: Breaker) -> None:
    breaker.update([row("paused", "auth", 10.0, account="other")], asked_at=0.0, now=0.0)
    assert not breaker.closed(0.0)
    assert breaker.reasons == set()
