"""The model with results that have checks."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.checked import CheckedFleet
from tests.model.world import World
from turbo import sql

EXAMPLES = int(os.environ.get("TURBO_MODEL_EXAMPLES", "6"))
STEPS = int(os.environ.get("TURBO_MODEL_STEPS", "40"))


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    one = World(dsn, 3)
    yield one
    one.close()


def run_all(world: World) -> Counter[str]:
    class Seen(CheckedFleet):
        seen: ClassVar[Counter[str]] = Counter()

    Seen.world = world
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Seen,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize="TURBO_MODEL_EXAMPLES" not in os.environ,
            deadline=None,
            database=None,
            print_blob=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Seen.seen


def test_each_check_is_in_the_trail_once(world: World) -> None:
    seen = run_all(world)
    assert seen["checked"] > 20
    assert seen["unchecked"] > 20


def test_check_that_is_written_again_is_noticed(world: World) -> None:
    """The control: the statement does not ask whether the trail has the check already."""

    def statement(name: str, variant: sql.Variant | None = None) -> str:
        text = sql.statement(name, variant)
        if name != "tasks/checked":
            return text
        assert " where not coalesce(" in text
        return text.replace(" where not coalesce(", " where true or not coalesce(")

    with patch("turbo.db.store.statement", statement), pytest.raises(AssertionError):
        run_all(world)
