"""Which claims take a slot."""

from turbo.domain.run import Running
from turbo.domain.task import Task
from turbo.worker.slots import Slots


def run(number: int) -> Running:
    return Running(Task(f"t{number}", "x", "x", fencing_token=number), "x", None)


def test_result_keeps_its_slot_until_it_is_recorded() -> None:
    slots, runs = Slots(2), [run(1), run(2)]
    for one in runs:
        slots.take(one)
        slots.give_back(one.claim, unrecorded=True)
    assert (slots.free, slots.busy) == (0, 2)
    slots.recording = True
    assert slots.free == 0, "a program's result always does"
    slots.recorded(runs[0].claim)
    assert (slots.free, slots.known()) == (1, [runs[1].claim])
    slots.set_aside(runs[1].claim)
    assert (slots.free, slots.known()) == (2, [runs[1].claim]), "known, but its wait may be long"


def test_light_results_give_slots_back_while_recording_goes_on() -> None:
    slots, runs = Slots(2), [run(n) for n in range(4)]
    slots.recording = True
    for one in runs:
        slots.take(one)
        slots.give_back(one.claim, unrecorded=True, light=True)
    assert slots.free == 0, "as many as there are slots, beside those that run"
    slots.recorded(runs[0].claim)
    assert slots.free == 1
    slots.recording = False
    assert slots.free == 0
    for one in runs:
        slots.recorded(one.claim)
    assert slots.free == 2


def test_thread_that_goes_on_keeps_its_slot() -> None:
    slots, one = Slots(1), run(1)
    slots.take(one)
    slots.hold(one.claim)
    slots.give_back(one.claim, unrecorded=False)
    assert (slots.free, slots.busy, slots.known()) == (0, 1, [])
    slots.let_go(one.claim)
    assert slots.free == 1
