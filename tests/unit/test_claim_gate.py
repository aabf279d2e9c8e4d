"""The claim gate: what all sources let through, and why nothing is."""

from turbo.domain.type_filter import EVERYTHING, TypeFilter
from turbo.worker.claim_gate import ClaimGate


def test_gate_lets_through_what_all_sources_do() -> None:
    gate = ClaimGate()
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
    gate = ClaimGate()
    assert gate.open
    gate.hold("the disk is full")
    assert (gate.open, gate.held_back) == (False, "the disk is full")
    gate.hold(None)
    assert gate.open
    gate.source("accounts")(TypeFilter(include=()))
    assert not gate.open


def test_every_change_is_announced() -> None:
    gate = ClaimGate()
    restrict = gate.source("accounts")
    for change in (lambda: restrict(EVERYTHING), lambda: gate.hold("x"), lambda: gate.hold(None)):
        gate.changed.clear()
        change()
        assert gate.changed.is_set()
