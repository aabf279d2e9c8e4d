"""The model of schedules: as they are, and with any one guard gone."""

import os
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.mutations import Mutation, applied
from tests.model.schedules import MUTATIONS, NOTICED_IN_CI, Schedules, World

ALL = bool(os.environ.get("TURBO_MODEL_ALL"))
EXAMPLES = int(os.environ.get("TURBO_MODEL_EXAMPLES", "12"))
STEPS = int(os.environ.get("TURBO_MODEL_STEPS", "30"))


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    one = World(dsn)
    yield one
    one.close()


def histories(world: World, examples: int, *, derandomize: bool) -> None:
    run_state_machine_as_test(
        type("Histories", (Schedules,), {"world": world}),
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            derandomize=derandomize,
            deadline=None,
            database=None,
            print_blob=True,
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink] if os.environ.get("TURBO_MODEL_SHRINK") else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_no_order_of_events_repeats_or_loses_a_slot(world: World) -> None:
    Schedules.seen.clear()
    histories(world, EXAMPLES, derandomize="TURBO_MODEL_EXAMPLES" not in os.environ)
    print(dict(sorted(Schedules.seen.items())))
    assert Schedules.seen["fired"] > EXAMPLES / 2


@pytest.mark.mutations
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", [pytest.param(m, id=m.name) for m in MUTATIONS if ALL or m.guard in NOTICED_IN_CI])
def test_removed_guard_fails_the_model(world: World, mutation: Mutation) -> None:
    with applied(mutation, world.db), pytest.raises(AssertionError) as noticed:
        histories(world, 300, derandomize=True)
    print(f"{mutation.guard}: {str(noticed.value).splitlines()[0]}")


def test_every_edit_fits_its_function(dsn: str) -> None:
    with psycopg.connect(dsn) as db:
        for mutation in MUTATIONS:
            with applied(mutation, db):
                db.rollback()
    assert set(NOTICED_IN_CI) <= {m.guard for m in MUTATIONS}
