"""Calls that need the approval of a person: the real Claude CLI, whose own permission mode would allow them."""

import json
from collections.abc import Iterator

import pytest

from tests.support import messages_api
from tests.support.claude import Bench, a_bench
from tests.support.claude_asking import (
    PUSH,
    HoldsPlans,
    HoldsPushes,
    answered,
    approving,
    asked,
    calls,
    results,
    shell,
)
from tests.support.claude_scenarios import OLDER
from turbo.domain.outcome import OutcomeKind
from turbo.domain.question import Answered, AskPolicy, Question, QuestionKind, Then


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with a_bench(tmp_path_factory) as bench:
        yield bench


def pushes(bench: Bench) -> int:
    file = bench.home / "work" / "pushed.txt"
    return len(file.read_text().splitlines()) if file.exists() else 0


async def test_approved_call_is_made_once_and_the_next_asks_again(bench: Bench) -> None:
    executor = bench.executor(**approving())
    bench.api.answer(calls(shell(PUSH)), calls(shell("echo free > free.txt")), calls(shell(PUSH)))
    first = await bench.do(executor)
    one = asked(first)
    assert (one.kind, one.tool, one.input, one.rule) == (
        QuestionKind.APPROVAL,
        "Bash",
        {"command": PUSH, "description": "a test"},
        "Bash(git push *)",
    )
    assert (PUSH in one.text, one.then, pushes(bench)) == (True, Then.DENY, 0)

    second = await bench.do(executor, **answered(first, "yes"))
    assert (bench.home / "work" / "free.txt").exists(), "what no rule holds is made without asking"
    assert (asked(second).input, pushes(bench)) == (one.input, 1)
    assert asked(second).call != one.call


async def test_denied_call_is_not_made_and_the_reason_is_told(bench: Bench) -> None:
    executor = bench.executor(**approving())
    bench.api.answer(calls(shell(PUSH)), calls(shell(PUSH)), messages_api.text("went on"))
    first = await bench.do(executor)
    second = await bench.do(executor, **answered(first, "no, because main is protected"))
    assert (second.kind, second.output, pushes(bench)) == (OutcomeKind.SUCCEEDED, "went on", 0)
    told = bench.api.requests[-1].everything
    assert told.count("A person was shown this call and denied it") == 2, "the same call is not asked twice"
    assert "because main is protected" in told


async def test_nobodys_approval_is_a_denial(bench: Bench) -> None:
    executor = bench.executor(**approving())
    bench.api.answer(calls(shell(PUSH)), messages_api.text("went on"))
    first = await bench.do(executor)
    second = await bench.do(executor, **answered(first, None))
    assert (second.output, pushes(bench)) == ("went on", 0)
    assert "Nobody approved this call in time" in results(bench)


async def test_always_holds_for_the_rule_in_this_task(bench: Bench) -> None:
    executor = bench.executor(**approving())
    bench.api.answer(calls(shell(PUSH)), calls(shell(PUSH + "; true")), messages_api.text("done"))
    first = await bench.do(executor)
    second = await bench.do(executor, **answered(first, "always"))
    assert (second.output, pushes(bench)) == ("done", 2)
    # A later run of the task, which begins anew:
    bench.api.answer(calls(shell(PUSH)), messages_api.text("done"))
    third = await bench.do(executor, **{**answered(first, "always"), "agent_session_id": None})
    assert (third.output, pushes(bench)) == ("done", 3)


async def test_changed_call_is_asked_anew(bench: Bench) -> None:
    """What was shown is not what the conversation holds."""
    executor = bench.executor(**approving())
    bench.api.answer(calls(shell(PUSH)), calls(shell(PUSH)))
    first = await bench.do(executor)
    shown = asked(first).document() | {"input": {"command": PUSH + " --tags", "description": "a test"}}
    other = Answered(Question.from_document(shown), "yes")
    second = await bench.do(executor, agent_session_id=first.session_id, answers=(other,))
    assert (asked(second).input["command"], pushes(bench)) == (PUSH, 0)


async def test_subagent_cannot_ask(bench: Bench) -> None:
    executor = bench.executor(**approving(allowed_tools=["Bash", "Agent", "Task"]))
    launch = ("Agent", {"description": "push", "prompt": "push it", "subagent_type": "general-purpose"})
    bench.api.answer(calls(launch), calls(shell(PUSH)), messages_api.text("could not"), messages_api.text("went on"))
    outcome = await bench.do(executor)
    assert (outcome.output, pushes(bench)) == ("went on", 0)
    assert any("subagent cannot ask" in request.everything for request in bench.api.requests)


async def test_plan_is_approved_and_carried_out(bench: Bench) -> None:
    executor = bench.executor(ask=AskPolicy(approve=("ExitPlanMode",)), held=HoldsPlans(), permission_mode="plan")
    made = bench.home / "work" / "made.txt"

    def planned(request: messages_api.Request) -> messages_api.Answer | None:
        """The CLI names the file for the plan in its reminder."""
        if len(bench.api.requests) > 1:
            return None
        text = request.everything
        start = text.index(str(bench.home / ".claude" / "plans"))
        name = text[start : text.index(".md", start) + 3]
        return calls(("Write", {"file_path": name, "content": "make made.txt"}))

    bench.api.decide = planned
    bench.api.answer(
        calls(("ExitPlanMode", {})),
        calls(("Write", {"file_path": str(made), "content": "hi"})),
        messages_api.text("done"),
    )
    first = await bench.do(executor)
    assert asked(first).input["plan"] == "make made.txt"
    second = await bench.do(executor, **answered(first, "yes"))
    assert (second.output, made.read_text()) == ("done", "hi")


@pytest.mark.parametrize(
    "settings",
    [
        {"permission_mode": "dontAsk"},
        {"command": ["claude", "--permission-mode", "dontAsk"]},
        {"command": ["claude", "--permission-prompts", "none"]},
        {"command": ["claude", "--settings={}"]},
        {"command": ["claude", "--bare"]},
        {"held": None},
    ],
)
def test_settings_that_would_let_calls_through_are_refused(bench: Bench, settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="ask"):
        bench.executor(**approving(**settings))


async def test_executor_closes_where_calls_cannot_be_held(bench: Bench) -> None:
    program = bench.home / "claude"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\nread -r line; echo '{json.dumps(OLDER)}'; exec sleep 60\n")
    program.chmod(0o755)
    executor = bench.executor(**approving(command=[str(program)], held=HoldsPushes()))
    assert executor.missing() is None
    outcome = await bench.do(executor)
    assert outcome.kind is OutcomeKind.INFRASTRUCTURE
    assert "cannot hold calls" in (executor.missing() or "")
    program.write_text("#!/bin/sh\n# updated\n")
    assert executor.missing() is None
