"""What becomes of a call in a run that may ask: which are asked, with which words others are denied, and how answers match."""

from typing import Any

import pytest

from turbo.domain.question import MOST_BYTES, Answered, AskPolicy, Question
from turbo.executors.agent import desk as asking
from turbo.executors.agent.desk import Allow, Defer, Deny, Desk, NoOpinion, ToolCall, same
from turbo.executors.agent.handed_over import Handed
from turbo.executors.held_calls import HeldCalls

OPTIONS = [{"label": "Postgres", "description": "the usual"}, {"label": "SQLite"}]
RULES = ("Bash(git push *)", "ExitPlanMode")


class Noted:
    def __init__(self, last: Handed | None = None) -> None:
        self.noted = last

    def last(self) -> Handed | None:
        return self.noted

    def note(self, handed: Handed) -> None:
        self.noted = handed


class Full(Noted):
    def note(self, handed: Handed) -> None:
        raise OSError("no space left on device")


def desk(*answers: Answered, may_ask: bool = True, noted: Noted | None = None, **policy: Any) -> Desk:
    rules = AskPolicy(**{"approve": RULES, **policy})
    return Desk(rules, HeldCalls(rules.approve), noted or Noted(), answers, may_ask=may_ask)


def questions(*texts: str, call: str = "q1", **more: object) -> ToolCall:
    several = [{"question": text, "header": "H", "options": OPTIONS, "multiSelect": False, **more} for text in texts]
    return ToolCall("AskUserQuestion", {"questions": several}, call)


def push(call: str = "c1", *, command: str = "git push origin", subagent: bool = False, **more: object) -> ToolCall:
    return ToolCall("Bash", {"command": command, **more}, call, subagent)


def shown(call: ToolCall) -> Question:
    """What the database gives back of a call that was asked."""
    asked = desk()
    assert asked.before(call) == Defer()
    question = asked.question(call.id)
    assert question is not None
    return Question.from_document(question.document())


# ── what is asked ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (questions("x" * MOST_BYTES), asking.TOO_LARGE),
        (push(command="git push " + "x" * MOST_BYTES), asking.TOO_LARGE),
        (questions("a", "a"), asking.UNREADABLE),
        (questions(""), asking.UNREADABLE),
        (questions(), asking.UNREADABLE),
        (questions("a", options=[{"no": "label"}]), asking.UNREADABLE),
        (questions("a", options=7), asking.UNREADABLE),
        (ToolCall("AskUserQuestion", {}, "q1"), asking.UNREADABLE),
        (ToolCall("ExitPlanMode", {}, "p1"), asking.NO_PLAN),
        (push(subagent=True), asking.SUBAGENT),
        (ToolCall("AskUserQuestion", {}, "q1", subagent=True), asking.NOBODY),
    ],
)
def test_what_nobody_can_be_shown_is_denied_with_words(call: ToolCall, words: str) -> None:
    one = desk()
    assert one.before(call) == Deny(words)
    assert one.question(call.id) is None


@pytest.mark.parametrize("call", [questions("a\0b"), push(command="git push a\0b"), push(env={"x": "\ud800"})])
def test_text_that_no_database_keeps_is_denied_with_words(call: ToolCall) -> None:
    one = desk()
    denied = one.before(call)
    assert isinstance(denied, Deny)
    assert "cannot be shown to a person as it is" in denied.words
    assert one.questions_denied == (call.tool == "AskUserQuestion")


def test_run_that_may_not_ask_lets_no_held_call_through() -> None:
    one = desk(may_ask=False)
    assert (one.before(push()), one.before(questions("a"))) == (Deny(asking.NOBODY), Deny(asking.NOBODY))
    assert (one.before(push(command="ls")), one.questions_denied) == (NoOpinion(), 1)


def test_cli_that_ignores_a_defer_is_asked_again() -> None:
    """Its fallback after a broken stream does: the call then needs a permission."""
    one = desk()
    assert one.before(push()) == Defer()
    assert one.permission(push()) == Deny(asking.ASK_AGAIN)
    assert one.question("c1") is None
    assert one.before(push("c2")) == Defer()


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_answer_reaches_the_call_that_asked_and_no_other() -> None:
    answer = Answered(shown(questions("a")), "Postgres")
    same_words = questions("a", call="q2")
    assert desk(answer).before(same_words) == Defer()
    assert desk(answer).before(questions("b")) == Defer()
    allowed = desk(answer).before(questions("a"))
    assert allowed == Allow({**questions("a").input, "answers": {"a": "Postgres"}})


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ('{"a": "1", "b": ["x", "y"]}', {"a": "1", "b": "x, y"}),
        ('{"a": "1"}', {"a": "1"}),
        ('{"A": "1"}', {"a": '{"A": "1"}'}),
        ("no object", {"a": "no object"}),
        ("[1]", {"a": "[1]"}),
        ("[" * 10_000, {"a": "[" * 10_000}),
    ],
)
def test_keys_are_always_the_exact_texts(answer: str, told: dict[str, str]) -> None:
    """The CLI takes any other key for no answer, without a word."""
    both = questions("a", "b")
    allowed = desk(Answered(shown(both), answer)).before(both)
    assert isinstance(allowed, Allow)
    assert allowed.input["answers"] == told


@pytest.mark.parametrize("answer", ["yes", "Always", " yes, go on"])
def test_approval_holds_for_one_equal_call(answer: str) -> None:
    one = desk(Answered(shown(push(timeout=1)), answer))
    assert one.before(push(timeout=True)) == (Allow(push(timeout=True).input) if answer == "Always" else Defer())
    assert isinstance(one.before(push("c2", timeout=1)), Allow)
    assert one.permission(push("c2", timeout=1)) == Allow(push(timeout=1).input)
    assert one.permission(push("c2", timeout=2)) == Deny(asking.NOT_ALLOWED)
    again = one.before(push("c3", timeout=1))
    assert isinstance(again, Allow) == (answer == "Always")


@pytest.mark.parametrize("answer", ["no", "NO because", "yesterday", "", "later", None])
def test_anything_else_is_a_denial(answer: str | None) -> None:
    one = desk(Answered(shown(push()), answer))
    first, second = one.before(push()), one.before(push("c2"))
    assert isinstance(first, Deny)
    assert second == first
    assert one.before(push("c3", command="git push other")) == Defer()


def test_earlier_denial_stands_and_earlier_approval_does_not() -> None:
    no, yes = Answered(shown(push()), "no"), Answered(shown(push(command="git push b")), "yes")
    last = Answered(shown(questions("a")), "x")
    one = desk(no, yes, last)
    assert isinstance(one.before(push("c2")), Deny)
    assert one.before(push("c3", command="git push b")) == Defer()


def test_denial_stands_when_its_rule_is_gone() -> None:
    one = desk(Answered(shown(push()), "no"), approve=("ExitPlanMode",))
    first, second = one.before(push()), one.before(push("c2"))
    assert isinstance(first, Deny)
    assert second == first
    assert one.before(push("c3", command="git push other")) == NoOpinion()


def test_always_covers_its_own_rule_and_no_other() -> None:
    """A text may hold two commands, of which the first rule alone is named."""
    one = desk(Answered(shown(push()), "always"), approve=(*RULES, "Bash(rm -rf *)"))
    assert isinstance(one.before(push("c2", command="git push a && git push b")), Allow)
    both = push("c3", command="git push a; rm -rf b")
    assert one.before(both) == Defer()
    assert one.question("c3") == asking._approval(both, "Bash(rm -rf *)")
    unreadable = push("c4", command="$(cat x) y")
    assert desk(Answered(shown(push()), "always"), approve=(*RULES, "Bash(rm -rf *)")).before(unreadable) == Defer()


@pytest.mark.parametrize("first", ["c1", "c2"])
def test_call_of_an_earlier_run_is_looked_at_before_it_is_made(first: str) -> None:
    """Its outcome is not known: the agent is told so once, whether it is the same call or an equal one."""
    noted = Noted(Handed("c1", asked="c1"))
    answer = Answered(shown(push()), "yes")
    assert desk(answer, noted=noted).before(push(first)) == Deny(asking.UNKNOWN_OUTCOME)
    one = desk(answer, noted=noted)  # a later run
    assert one.before(push(first)) == one.before(push("c1")) == Deny(asking.UNKNOWN_OUTCOME)
    assert isinstance(one.before(push("c3")), Allow)
    assert noted.noted == Handed("c3", asked="c1")


def test_approval_is_used_up_when_the_result_has_come() -> None:
    noted = Noted()
    answer = Answered(shown(push()), "yes")
    one = desk(answer, noted=noted)
    assert isinstance(one.before(push()), Allow)
    one.result_came()
    assert one.before(push("c2")) == Defer()
    later = desk(answer, noted=noted)  # a retry gets the same answer
    assert later.before(push("c2")) == Defer()
    assert desk(answer, noted=noted).before(push()) == Deny(asking.UNKNOWN_OUTCOME), "the CLI carries it out again"
    # The next approval is another one.
    next_one = Answered(shown(push("c2")), "yes")
    assert isinstance(desk(answer, next_one, noted=noted).before(push("c2")), Allow)
    # An approval of the rule is not used up.
    always = desk(Answered(shown(push()), "always"), noted=Noted(Handed("c1", asked="c1", over=True)))
    assert isinstance(always.before(push("c2")), Allow)


def test_approval_that_cannot_be_noted_is_not_carried_out() -> None:
    one = desk(Answered(shown(push()), "yes"), noted=Full())
    assert one.before(push()) == Deny(asking.NOT_NOTED)


def test_plan_that_was_approved_ends_the_plan_mode() -> None:
    plan = ToolCall("ExitPlanMode", {"plan": "do it"}, "p1")
    one = desk(Answered(shown(plan), "yes"))
    assert one.before(plan) == one.permission(plan) == Allow(plan.input, leaves_plan=True)
    assert desk().before(plan) == Defer()
    assert desk(approve=("Bash(git push *)",)).before(ToolCall("EnterPlanMode", {}, "p2")) == Deny(asking.NOBODY)


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ({"a": [1, {"b": None}]}, {"a": [1.0, {"b": None}]}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": False}, {"a": 0}, False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ([1, 2], [2, 1], False),
        ("1", 1, False),
    ],
)
def test_inputs_are_compared_as_json(left: object, right: object, equal: bool) -> None:
    assert same(left, right) is equal
