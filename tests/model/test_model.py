"""The model against turbo as it is: `make model` for an hour's worth, a short one in CI."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Fleet, Some
from tests.model.mutations import OF_GRAPHS, OF_MESSAGES
from tests.model.world import World
from turbo.domain.outcome import OutcomeKind

EXAMPLES = int(os.environ.get("TURBO_MODEL_EXAMPLES", "30"))
STEPS = int(os.environ.get("TURBO_MODEL_STEPS", "40"))

LONG = "TURBO_MODEL_EXAMPLES" in os.environ
RULES = {"all": None, **({"graphs": OF_GRAPHS, "messages": OF_MESSAGES} if LONG else {})}
"""The rules alone that the guards of graphs and of messages are looked for with are the controls of these, too."""


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    one = World(dsn, 3)
    yield one
    one.close()


@pytest.mark.timeout(7200 if LONG else 600)
@pytest.mark.parametrize("rules", RULES)
def test_no_order_of_events_loses_or_repeats_a_task(world, rules):
    class Seen(Some):
        seen: ClassVar[Counter[str]] = Counter()
        rules_of_interest: ClassVar[frozenset[str] | None] = RULES[rules]

    Seen.world = world
    run_state_machine_as_test(
        Seen,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=not LONG,
            deadline=None,
            database=None,
            print_blob=True,
            phases=[Phase.generate, Phase.shrink] if os.environ.get("TURBO_MODEL_SHRINK") else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(dict(sorted(Seen.seen.items())))


def test_conversation_on_the_last_host_comes_to_its_end(world):
    """The last worker alone may run it: each follow-up is let go after a result that no other worker comes after."""

    fleet = started(world)
    fleet.a_conversation_goes_on(i=2, j=0, how="in turn", outcome=OutcomeKind.SUCCEEDED)
    assert fleet.before.tasks["t5"]["prefer_host"] == fleet.workers[-1].host, "only the last worker runs it"
    fleet.settle()


def test_blocked_task_without_needs_keeps_its_note_in_sight(world):
    """The only task that waited has no needs any more, and is blocked until the settler comes."""
    fleet = started(world)
    task_id = fleet.insert_needing(["t1"], "run") or ""
    fleet.settles(fleet.workers[0])
    fleet.step(fleet.edit(task_id, "needs nothing"))
    assert fleet.before.notes == {task_id}
    fleet.settles(fleet.workers[0])
    assert fleet.before.tasks[task_id]["status"] == "pending"


def started(world: World) -> Fleet:
    class Directed(Fleet): ...

    Directed.world = world
    fleet = Directed()
    fleet.start_all(late=False)
    return fleet
