"""The model is worth what it notices: with any one guard gone, it must find a history that goes wrong.

A few of them in CI; all of them by `make model`."""

import os
import re
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Fleet
from tests.model.mutations import MUTATIONS, NOTICED_IN_CI, OF_GRAPHS, Mutation, applied
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
    histories = counted(world, of_graphs=mutation.of_graphs)
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


@pytest.mark.mutations
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not ALL, reason="make model")
def test_model_of_graphs_alone_holds_with_every_guard(dsn: str) -> None:
    """The control of the guards of graphs: their steps alone fail no invariant."""
    world = World(dsn, 3)
    try:
        run_all(counted(world, of_graphs=True))
    finally:
        world.close()


class Counted(Fleet):
    number: ClassVar[int] = 0
    of_graphs: ClassVar[bool] = False

    def __init__(self) -> None:
        type(self).number += 1
        super().__init__()

    @classmethod
    def setup_state(cls) -> Any:
        """Of a guard of graphs only the steps that concern these: it is found in a tenth of the histories."""
        state = super().setup_state()
        if cls.of_graphs:
            state.rules[:] = [rule for rule in state.rules if rule.function.__name__ in OF_GRAPHS]
        return state


def counted(world: World, *, of_graphs: bool) -> type[Counted]:
    return type("Histories", (Counted,), {"world": world, "of_graphs": of_graphs})


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
