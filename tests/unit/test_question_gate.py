"""The question gate: a run may ask once it is known that no older worker serves its queue."""

import asyncio

from turbo.domain.problem import ProblemKind
from turbo.runtime.problems import Problems
from turbo.worker.question_gate import QuestionGate


def gate(*executors: str) -> tuple[QuestionGate, Problems]:
    problems = Problems()
    return QuestionGate(problems, ("a", "b"), frozenset(executors)), problems


async def test_nothing_waits_where_nothing_asks() -> None:
    one, _ = gate()
    assert one.queues == ()
    assert not one.must_wait("x")


async def test_run_waits_for_the_first_heartbeat() -> None:
    one, _ = gate("x")
    assert one.queues == ("a", "b")
    assert (one.must_wait("x"), one.must_wait("y"), one.may_ask("a")) == (True, False, False)
    waiting = asyncio.create_task(one.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    one.measured({})
    await asyncio.wait_for(waiting, 5)
    assert (one.must_wait("x"), one.may_ask("a")) == (False, True)


async def test_run_without_a_heartbeat_may_not_ask() -> None:
    one, _ = gate("x")
    await one.wait(0.01)
    assert not one.may_ask("a")


async def test_older_worker_closes_its_queue_until_it_is_gone() -> None:
    one, problems = gate("x")
    one.measured({"a": "old-1-abcdef"})
    assert (one.may_ask("a"), one.may_ask("b")) == (False, True)
    (problem,) = problems.current
    assert problem.kind is ProblemKind.OLDER_WORKER
    assert "worker old-1-abcdef is older" in problem.what
    one.measured({"a": "old-2-abcdef"})
    (problem,) = problems.current
    assert "worker old-2-abcdef is older" in problem.what
    one.measured({})
    assert one.may_ask("a")
    assert problems.current == ()
