"""The model is worth what it notices: with any one guard gone, it must find a history that goes wrong.

A few of them in CI; all of them by `make model`."""

import os
import re
from pathlib import Path
from typing import ClassVar

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Some
from tests.model.mutations import MUTATIONS, NOTICED_IN_CI, Mutation, applied
from tests.model.world import World

PAGE = Path(__file__).parents[2] / "docs" / "model.md"
ALL = bool(os.environ.get("TURBO_MODEL_ALL"))
EXAMPLES = int(os.environ.get("TURBO_MUTATION_EXAMPLES", "300"))


@pytest.mark.mutations
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "mutation",
    [pytest.param(m, id=m.name) for m in MUTATIONS if ALL or m.guard in NOTICED_IN_CI],
)
def test_removed_guard_fails_the_model(dsn: str, mutation: Mutation) -> None:
    world = World(dsn, 3)
    histories = counted(world, mutation.rules)
    try:
        with (
            applied(mutation, world.admin),
            # No other exception: that a history cannot be drawn twice says nothing about the guard.
            pytest.raises(AssertionError) as noticed,
        ):
            run_all(histories)
        print(f"{mutation.guard}: after {histories.number} histories: {str(noticed.value).splitlines()[0]}")
    finally:
        world.close()


class Counted(Some):
    number: ClassVar[int] = 0

    def __init__(self) -> None:
        type(self).number += 1
        super().__init__()


def counted(world: World, rules: frozenset[str] | None) -> type[Counted]:
    return type("Histories", (Counted,), {"world": world, "rules_of_interest": rules})


def run_all(histories: type[Counted]) -> None:
    run_state_machine_as_test(
        histories,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_every_edit_fits_its_statement(dsn: str) -> None:
    with psycopg.connect(dsn) as db:
        for mutation in MUTATIONS:
            with applied(mutation, db):
                db.rollback()


def test_page_lists_exactly_these_guards() -> None:
    listed = re.findall(r"^\| ([^|]+) \| `([a-z_/]+)` \|", PAGE.read_text(), re.M)
    assert [(guard.strip(), where) for guard, where in listed] == [(m.guard, m.where) for m in MUTATIONS]
    assert set(NOTICED_IN_CI) <= {m.guard for m in MUTATIONS}
