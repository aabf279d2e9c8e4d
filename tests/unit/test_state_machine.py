"""docs/state-machine.md is held against the one place that names the states."""

import re
from pathlib import Path

from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import FINAL, TRANSITIONS, TaskState

PAGE = (Path(__file__).parents[2] / "docs" / "state-machine.md").read_text()


def rows(heading: str) -> list[list[str]]:
    section = PAGE.split(heading, 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_page_has_every_transition_and_no_other():
    drawn = {(TaskState(a), TaskState(b)): why for a, b, why in rows("stateDiagram-v2")}
    assert drawn == TRANSITIONS


def test_drawing_shows_the_life_without_hand_edits():
    arrows = set(re.findall(r"^    (\w+) --> (\w+)", PAGE, re.M))
    by_hand = {t for t, why in TRANSITIONS.items() if re.match(r"\w+ by hand", why)}
    assert arrows == {(a.value, b.value) for a, b in TRANSITIONS if (a, b) not in by_hand}


def test_every_outcome_is_on_the_page():
    assert {row[0].strip("`") for row in rows("## What each outcome")} == {k.value for k in OutcomeKind}


def test_final_states_are_left_only_by_hand():
    assert all("by hand" in why for (before, _), why in TRANSITIONS.items() if before in FINAL)
