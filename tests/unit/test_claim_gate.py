"""The claim gate: what all sources let through, and why nothing is."""

from functools import partial

from turbo.domain.problem import Problem, ProblemKind
from turbo.domain.type_filter import EVERYTHING, TypeFilter
from turbo.runtime.problems import Problems
from turbo.worker.claim_gate import ClaimGate


def test_gate_lets_through_what_all_sources_do() -> None:
    gate = ClaimGate(Problems())
    accounts, programs = gate.source("accounts"), gate.source("programs")
    assert gate.types == EVERYTHING
    accounts(TypeFilter(exclude=("agent",)))
    programs(TypeFilter(include=("agent", "lint")))
    assert gate.types == TypeFilter(include=("lint",))
    accounts(EVERYTHING)
    assert gate.types == TypeFilter(include=("agent", "lint"))
    programs(EVERYTHING)
    assert gate.types == EVERYTHING


def test_gate_is_shut_while_it_is_held_or_nothing_is_let_through() -> None:
    gate = ClaimGate(Problems())
    assert gate.open
    gate.hold(ProblemKind.DISK, "the disk is full")
    gate.hold(ProblemKind.RESULTS_WAIT, "the database is full")
    assert (gate.open, gate.held_back) == (False, "the disk is full")
    gate.hold(ProblemKind.DISK, None)
    assert (gate.open, gate.held_back) == (False, "the database is full")
    gate.hold(ProblemKind.RESULTS_WAIT, None)
    assert gate.open
    gate.source("accounts")(TypeFilter(include=()))
    assert not gate.open


def test_every_change_is_announced() -> None:
    gate = ClaimGate(Problems())
    restrict, hold = gate.source("accounts"), partial(gate.hold, ProblemKind.DISK)
    for change in (lambda: restrict(EVERYTHING), partial(hold, "x"), partial(hold, None)):
        gate.changed.clear()
        change()
        assert gate.changed.is_set()


def test_hold_is_a_problem_until_it_ends() -> None:
    problems = Problems()
    gate = ClaimGate(problems)
    gate.hold(ProblemKind.DISK, "the disk is full", "free some space")
    assert problems.current == (Problem(ProblemKind.DISK, "claims nothing: the disk is full", "free some space"),)
    gate.hold(ProblemKind.DISK, None)
    assert problems.current == ()
