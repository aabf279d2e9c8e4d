"""`make bench CHECK=1`: what counts as worse than the last run, and what is noise."""

from typing import Any

import pytest

from benchmarks.bench import Table
from benchmarks.guard import worse

PICKUP = "p50 ÷ floor"


def table(ratios: dict[str, float], who: str = "turbo", spread: float = 0.0) -> Table:
    return Table(
        "Pickup",
        [*ratios, "spread"],
        [("floor", dict.fromkeys(ratios, 9.0)), (who, {**ratios, "spread": spread})],
        less_is_better=(PICKUP,),
        more_is_better=("rate ÷ floor",),
    )


def recorded(ratios: dict[str, float]) -> dict[str, Any]:
    return {**table(ratios).document(), "when": "2026-11-24"}


@pytest.mark.parametrize(
    ("name", "then", "now", "spread", "found"),
    [
        (PICKUP, 1.2, 1.37, 0.0, False),
        (PICKUP, 1.2, 1.39, 0.0, True),
        (PICKUP, 1.2, 1.39, 0.3, False),
        (PICKUP, 1.2, 0.1, 0.0, False),
        ("rate ÷ floor", 0.8, 0.7, 0.0, False),
        ("rate ÷ floor", 0.8, 0.69, 0.0, True),
        ("rate ÷ floor", 0.8, 9.0, 0.0, False),
        ("always notifying ÷ none", 0.1, 9.0, 0.0, False),
    ],
)
def test_ratio_beyond_noise_is_worse(name: str, then: float, now: float, spread: float, found: bool) -> None:
    lines = worse(recorded({name: then}), table({name: now}, spread=spread))
    assert bool(lines) == found
    if found:
        assert lines == [f"Pickup: turbo: {name} is {now:.2f}, and was {then:.2f} on 2026-11-24"]


def test_peers_and_new_measures_are_not_judged() -> None:
    assert worse(None, table({PICKUP: 9.0})) == []
    before = recorded({PICKUP: 1.0})
    assert worse(before, table({PICKUP: 9.0}, "turbo, with more slots")) == [], "it was not there"
    assert len(worse(before, table({PICKUP: 9.0}))) == 1, "the floor is no turbo"
