"""The choice of an account, and the bounds of what an agent reports of its windows."""

import math
from dataclasses import replace

import pytest

from turbo.accounts.headroom import Headroom
from turbo.domain.headroom import LONGEST_WINDOW, MOST_WINDOWS, UNKNOWN_RESET, OpenAccount, UsageWindow, choose
from turbo.executors.claude.stream import Transcript

NOW = 1_800_000_000.0
A, B, C = (OpenAccount(name, tried=True) for name in "abc")


def used(account: OpenAccount, utilization: float, **more: object) -> OpenAccount:
    return replace(account, utilization=utilization, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("accounts", "keeps", "chosen"),
    [
        ([], None, None),
        ([A, B], None, "a"),
        ([used(A, 0.3), used(B, 0.2)], None, "b"),
        ([used(A, 0.3), used(B, 0.2)], "a", "a"),
        ([used(A, 0.3), used(B, 0.2)], "gone", "b"),
        ([A, used(B, 0.9)], None, "b"),  # unknown after measured ones below leave_at
        ([A, used(B, 0.9, leave_at=0.85)], None, "a"),
        ([used(A, 0.95, leave_at=0.85), used(B, 0.9, leave_at=0.85)], None, "b"),
        ([used(A, 0.9, leave_at=0.85), used(B, 0.1)], "a", "a"),  # leave_at is for new tasks
        ([used(A, 0.1, last_resort=True), used(B, 1.0)], None, "b"),
        ([used(A, 0.1, last_resort=True), used(B, 1.0)], "a", "b"),
        ([used(A, 0.1, last_resort=True)], None, "a"),
        ([used(A, 0.10, running=3), used(B, 0.12)], None, "b"),  # a run under way counts
        ([used(A, 0.10, running=1), used(B, 0.12)], None, "a"),
        ([replace(A, running=2), replace(B, running=1), replace(C, running=1, began=-1.0)], None, "c"),
        ([used(A, 0.2), replace(B, tried=False)], None, "b"),  # to learn what it has left
        ([used(A, 0.2), replace(B, tried=False, running=1)], None, "a"),  # one run is enough for that
        ([used(A, 0.2), replace(B, tried=False, last_resort=True)], None, "a"),
    ],
)
def test_choice_of_an_account(accounts: list[OpenAccount], keeps: str | None, chosen: str | None) -> None:
    assert choose(accounts, keeps) == chosen


def test_even_use_of_equal_accounts() -> None:
    """Ten runs at a time on accounts that fill at one rate."""
    left = dict.fromkeys("abc", 0.0)
    for n in range(300):
        accounts = [OpenAccount(name, used, running=0, tried=True) for name, used in left.items()]
        chosen = choose(accounts)
        assert chosen is not None
        left[chosen] += 0.003
        assert max(left.values()) - min(left.values()) < 0.0031, n


@pytest.mark.parametrize(
    ("reported", "kept"),
    [
        (1.7, 1.0),
        (-0.2, 0.0),
        (math.inf, None),
        (math.nan, None),
        (None, None),
        (0.42, 0.42),
    ],
)
def test_utilization_is_bounded(reported: float | None, kept: float | None) -> None:
    assert UsageWindow("five_hour", utilization=reported).bounded(NOW).utilization == kept


@pytest.mark.parametrize(
    ("reported", "kept"),
    [
        (NOW + 60, NOW + 60),
        (NOW - 60, None),
        (0.0, None),
        (math.inf, None),
        (math.nan, None),
        (NOW + 1e12, NOW + LONGEST_WINDOW),
        (None, None),
    ],
)
def test_reset_is_bounded(reported: float | None, kept: float | None) -> None:
    assert UsageWindow("five_hour", resets_at=reported).bounded(NOW).resets_at == kept


def test_names_of_windows_are_bounded() -> None:
    window = UsageWindow("w" * 500, "m" * 500, status="s" * 500).bounded(NOW)
    assert (len(window.time_window), len(window.model), len(window.status)) == (60, 60, 60)


def test_fullest_window_counts_until_its_reset() -> None:
    now = NOW
    headroom = Headroom(lambda: now)
    assert headroom.utilization("a") is None
    headroom.observe("a", [UsageWindow("five_hour", "", 0.9, NOW + 100), UsageWindow("seven_day", "", 0.4, NOW + 9000)])
    headroom.observe("a", [UsageWindow("seven_day", "opus", 1.0, NOW + 9000)])
    assert headroom.utilization("a") == 0.9, "a limit of one model is none of the account's"
    assert headroom.utilization("b") is None
    now = NOW + 101
    assert headroom.utilization("a") == 0.4
    now = NOW + 9001
    assert headroom.utilization("a") == 0.0, "reset, so nothing is used"
    headroom.observe("b", [UsageWindow("five_hour", "", 0.9, NOW)])  # a reset in the past says nothing
    assert headroom.utilization("b") == 0.9
    now += UNKNOWN_RESET + 1
    assert headroom.utilization("b") is None


def test_windows_of_one_account_are_bounded() -> None:
    headroom = Headroom(lambda: NOW)
    kept = headroom.observe("a", (UsageWindow(f"w{n}", "", 0.5, NOW + 9) for n in range(100)))
    assert len(kept) == len(headroom.windows("a")) == MOST_WINDOWS
    assert headroom.observe("a", [UsageWindow("w1", "", 0.6, NOW + 9)]), "a known one is still renewed"


def test_windows_are_read_from_the_stream() -> None:
    transcript = Transcript()
    line = (
        b'{"type":"rate_limit_event","rate_limit_info":{"status":"allowed","unifiedWindows":{"five_hour":{"utilization":0.93,'
        b'"resetsAt":1800000060,"status":"allowed_warning"},"seven_day_opus":{"utilization":"x","resetsAt":[]},"odd":7}}}'
    )
    transcript.read(line)
    assert transcript.windows == (
        UsageWindow("five_hour", "", 0.93, 1_800_000_060.0, "allowed_warning"),
        UsageWindow("seven_day", "opus", None, None, ""),
    )
    transcript.read(
        b'{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","rateLimitType":"five_hour","resetsAt":1800000070}}'
    )
    assert transcript.windows[0] == UsageWindow("five_hour", "", 1.0, 1_800_000_070.0, "rejected")
    for odd in (b"7", b'{"unifiedWindows":[]}', b'{"unifiedWindows":{"a":{"utilization":1e400,"resetsAt":-5}}}'):
        transcript.read(b'{"type":"rate_limit_event","rate_limit_info":' + odd + b"}")
    assert transcript.windows[2:] == (UsageWindow("a"),)
