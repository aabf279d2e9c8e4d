"""The model against turbo as it is: `make model` for an hour's worth, a short one in CI."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Fleet
from tests.model.world import World

EXAMPLES = int(os.environ.get("TURBO_MODEL_EXAMPLES", "30"))
STEPS = int(os.environ.get("TURBO_MODEL_STEPS", "40"))


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    one = World(dsn, 3)
    yield one
    one.close()


def test_no_order_of_events_loses_or_repeats_a_task(world):
    class Seen(Fleet):
        seen: ClassVar[Counter[str]] = Counter()

    Seen.world = world
    run_state_machine_as_test(
        Seen,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize="TURBO_MODEL_EXAMPLES" not in os.environ,
            deadline=None,
            database=None,
            print_blob=True,
            phases=[Phase.generate, Phase.shrink] if os.environ.get("TURBO_MODEL_SHRINK") else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(dict(sorted(Seen.seen.items())))
