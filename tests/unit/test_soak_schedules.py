"""What the soak finds wrong with the slots of schedules: a trail that keeps every promise, and trails that break one."""

from typing import Any

import pytest

from tests.soak.schedules import Life, Schedules, Span
from tests.support.schedules import utc
from turbo.domain.schedule import CatchUp, Overlap

FIRST, LAST = utc(2026, 1, 1, 12, 0, 0), utc(2026, 1, 1, 12, 0, 5)


def trail(*seconds: int) -> list[dict[str, Any]]:
    slots = [utc(2026, 1, 1, 12, 0, second).isoformat() for second in seconds]
    return [{"action_type": "fired", "detail": {"schedule": "s", "slot": slot}} for slot in slots]


def complaints(*seconds: int, catch_up: str = CatchUp.ALL, skipped: int = 0) -> list[str]:
    life = Life("s", catch_up, Overlap.QUEUE, [Span("* * * * * *", FIRST, LAST)], skipped=skipped)
    return list(Schedules([life]).complaints(trail(*seconds)))


def test_slots_that_all_fired_are_as_promised() -> None:
    assert complaints(1, 2, 3, 4, 5) == []
    assert complaints(1, 2, 5, catch_up=CatchUp.ONE, skipped=2) == []


@pytest.mark.parametrize(
    ("seconds", "skipped", "words"),
    [
        ((1, 2, 3, 4, 5, 5), 0, "has 2 tasks"),
        ((1, 2, 4, 5), 0, "passed over 0 slots, and has no task at 1"),
        ((1, 2, 4, 5), 1, "was to fire each slot"),
        ((1, 2, 3, 4, 5, 6), 0, "is no slot of it"),
        ((), 0, "has no task at 5"),
    ],
)
def test_slot_lost_repeated_or_made_up_is_found(seconds: tuple[int, ...], skipped: int, words: str) -> None:
    assert any(words in found for found in complaints(*seconds, skipped=skipped))
