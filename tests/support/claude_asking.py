"""What a scripted model asks, what a person answers, and the rules that hold calls: for tests with the real Claude CLI."""

import json
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from tests.support import messages_api
from tests.support.claude import Bench
from tests.support.messages_api import Answer
from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.domain.question import Answered, AskPolicy, Question
from turbo.executors.held_calls import HeldCalls

ASKS = AskPolicy()
APPROVES = AskPolicy(approve=("Bash(git push *)",))
PUSH = "echo git push origin >> pushed.txt"


class HoldsPushes:
    """Holds each shell text with `git push` in it, wherever that is."""

    def held_by(self, tool: str, call: Mapping[str, object]) -> str | None:
        return "Bash(git push *)" if tool == "Bash" and "git push" in str(call.get("command")) else None

    def without(self, rules: Collection[str]) -> HeldCalls:
        return HeldCalls([])


class HoldsPlans:
    def held_by(self, tool: str, call: Mapping[str, object]) -> str | None:
        return "ExitPlanMode" if tool == "ExitPlanMode" else None

    def without(self, rules: Collection[str]) -> HeldCalls:
        return HeldCalls([])


def approving(**settings: Any) -> dict[str, Any]:
    """An executor whose pushes are held, and whose permission mode allows them."""
    return {"ask": APPROVES, "held": HoldsPushes(), "allowed_tools": ["Bash"], **settings}


def calls(*several: tuple[str, Mapping[str, Any]]) -> Answer:
    """A turn with several calls."""
    blocks = [messages_api.text_block("I will look.")]
    for name, arguments in several:
        call = {"type": "tool_use", "id": "toolu_" + uuid.uuid4().hex[:24], "name": name, "input": {}}
        blocks.append((call, {"type": "input_json_delta", "partial_json": json.dumps(arguments)}))
    return messages_api.turn(blocks)


def question(
    *texts: str, multi: bool = False, labels: tuple[str, ...] = ("Postgres", "SQLite")
) -> tuple[str, dict[str, Any]]:
    options = [{"label": label, "description": f"use {label}"} for label in labels]
    one = {"header": "Choice", "multiSelect": multi, "options": options}
    return "AskUserQuestion", {"questions": [{"question": text, **one} for text in texts]}


def shell(command: str) -> tuple[str, dict[str, Any]]:
    return "Bash", {"command": command, "description": "a test"}


def asked(outcome: Outcome) -> Question:
    """What it asks, as the database gives it back."""
    assert outcome.kind is OutcomeKind.ASKED, outcome
    assert outcome.asked is not None
    return Question.from_document(json.loads(json.dumps(outcome.asked.question.document())))


def answered(outcome: Outcome, answer: str | None, *before: Answered) -> dict[str, Any]:
    """The fields of a task that goes on with this answer."""
    return {"agent_session_id": outcome.session_id, "answers": (*before, Answered(asked(outcome), answer))}


def results(bench: Bench) -> str:
    """What the model was last told of its calls, and what it was last asked."""
    return json.dumps(bench.api.requests[-1].body["messages"][-4:], ensure_ascii=False)
