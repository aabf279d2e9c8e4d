"""Questions that a run asks a person, and the answers: the documents in `agent_tasks.question` and `answer`.

    run ──Asked──▶ row `waiting`, without a slot ──answer, or its deadline──▶ `pending` ──▶ the next run goes on with it

    {"kind": "question", "text": "…", "questions": [{"question": "…", "header": "…", "options": [{"label": "…"}], "multi": false}]}
    {"kind": "approval", "text": "…", "tool": "Bash", "input": {"command": "git push"}, "rule": "Bash(git push *)"}
    {"kind": "hold", "text": "…"}

The database adds `asked_at`, `answer_by`, `number` and `series` when it records the question, and `expired` when nobody answered in
time.
What is in these documents was written by an agent: it is hostile text wherever it is shown.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

MOST_QUESTIONS = 20
"""Of one task, between two retries by hand. The next one fails it."""

MOST_BYTES = 256 * 1024
"""Of one question or answer, as UTF-8."""

YES_OR_NO = re.compile(r"\s*(yes|always|no)\b", re.IGNORECASE)


class QuestionKind(StrEnum):
    """`question.kind`."""

    QUESTION = "question"  # of the agent's
    APPROVAL = "approval"  # may this call of a tool be made?
    HOLD = "hold"  # may this task run?


class Then(StrEnum):
    """`question.then`: what happens when nobody has answered in time."""

    PROCEED = "proceed"  # the run goes on without an answer
    DENY = "deny"  # the approval counts as denied
    FAIL = "fail"  # the task fails


@dataclass(frozen=True, slots=True)
class Choice:
    label: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Single:
    """One of several questions that are asked together. Its exact text is the key of its answer."""

    question: str
    header: str = ""
    options: tuple[Choice, ...] = ()
    multi: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """What a person is asked. `questions` is for the kind `question`; `tool`, `input` and `rule` are for `approval`, where
    `rule` is the one of `ask.approve` that holds the call. `number` counts the task's questions from 1. `call` is the agent's
    id of the call that asks, so that an answer reaches that call and no other."""

    kind: QuestionKind
    text: str
    questions: tuple[Single, ...] = ()
    tool: str = ""
    input: Mapping[str, object] = field(default_factory=dict)
    rule: str = ""
    call: str = ""
    then: Then | None = None
    number: int = 0
    asked_at: str | None = None
    answer_by: str | None = None
    expired: bool = False

    def document(self) -> dict[str, object]:
        """As a run gives it to the database, which adds the rest."""
        document: dict[str, object] = {"kind": self.kind.value, "text": self.text}
        if self.kind is QuestionKind.QUESTION:
            document["questions"] = [_single(single) for single in self.questions]
        elif self.kind is QuestionKind.APPROVAL:
            document |= {"tool": self.tool, "input": dict(self.input), "rule": self.rule}
        if self.call:
            document["call"] = self.call
        if self.then is not None:
            document["then"] = self.then.value
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Question":
        """Raises ValueError for a document that is no question."""
        try:
            return cls(
                kind=QuestionKind(document["kind"]),
                text=str(document.get("text") or ""),
                questions=tuple(_from_single(single) for single in document.get("questions") or ()),
                tool=str(document.get("tool") or ""),
                input=dict(document.get("input") or {}),
                rule=str(document.get("rule") or ""),
                call=str(document.get("call") or ""),
                then=Then(document["then"]) if document.get("then") else None,
                number=int(document.get("number") or 0),
                asked_at=document.get("asked_at"),
                answer_by=document.get("answer_by"),
                expired=bool(document.get("expired")),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a question: {error!r}") from None


@dataclass(frozen=True, slots=True)
class Asked:
    """A run ends by asking. `within_seconds`: until when an answer counts; None: for ever. `remind_seconds`: after how long
    a reminder is due, again and again; None: never."""

    question: Question
    within_seconds: float | None = None
    remind_seconds: float | None = None

    def document(self) -> dict[str, object]:
        """The question as the database keeps it, with when to remind of it."""
        document = self.question.document()
        if self.remind_seconds is not None:
            document["remind_seconds"] = self.remind_seconds
        return document


@dataclass(frozen=True, slots=True)
class Answered:
    """A question of this task, and its answer. None: nobody answered in time, or a person let the task go on without."""

    question: Question
    answer: str | None

    def by_question(self) -> dict[str, str]:
        """The answers by the exact text of their question; empty without an answer. Only for the kind `question`."""
        if self.answer is None or not self.question.questions:
            return {}
        if len(self.question.questions) == 1:
            text = self.question.questions[0].question
            return {text: _from_object(self.answer, text)}
        answers = _parsed(self.answer)  # the database has taken only an object with these keys
        return {key: _as_text(value) for key, value in answers.items()}

    @property
    def approved(self) -> bool:
        """For the kinds `approval` and `hold`: yes or always."""
        found = YES_OR_NO.match(self.answer or "")
        return found is not None and found[1].lower() != "no"

    @property
    def always(self) -> bool:
        """The approval holds for every call that the same rule would hold."""
        found = YES_OR_NO.match(self.answer or "")
        return found is not None and found[1].lower() == "always"

    @property
    def reason(self) -> str:
        """The words after `no` of a denial: `no, because the branch is protected` gives `because the branch is protected`."""
        found = YES_OR_NO.match(self.answer or "")
        return (self.answer or "")[found.end() :].lstrip(" ,.:;-\t\n").rstrip() if found else ""


@dataclass(frozen=True, slots=True)
class AskPolicy:
    """`ask:` of an executor. `questions`: the agent may ask. `approve`: permission rules whose calls a person must approve.
    The rest is as in `Asked`."""

    questions: bool = True
    approve: tuple[str, ...] = ()
    within_seconds: float | None = None
    then: Then = Then.PROCEED
    remind_seconds: float | None = None

    def asked(self, question: Question) -> Asked:
        """The question with what this policy says of its deadline. Nothing is approved because nobody answered."""
        then = Then.DENY if self.then is Then.PROCEED and question.kind is QuestionKind.APPROVAL else self.then
        return Asked(replace(question, then=then), self.within_seconds, self.remind_seconds)


def answered(
    question: Mapping[str, Any] | None, answer: str | None, earlier: Sequence[Mapping[str, Any]] | None
) -> tuple[Answered, ...]:
    """The questions of a task with their answers, in the order in which they were asked.

    `question` and `answer` are its row's; `earlier` is from its audit trail, the newest first. A retry by hand begins a new
    `series`: an approval of before counts no more, whatever the clock says. A document that is no question is left out: nobody can
    answer it, and nothing is approved by it."""
    found: dict[int, Answered] = {}
    series = question.get("series") if isinstance(question, dict) else None
    for document, text in ((question, answer), *((e.get("question"), e.get("answer")) for e in earlier or ())):
        if not isinstance(document, dict) or document.get("series") != series:
            continue
        try:
            asked = Question.from_document(document)
        except ValueError:
            continue
        found.setdefault(asked.number, Answered(asked, text))
    return tuple(found[number] for number in sorted(found))


def _single(single: Single) -> dict[str, object]:
    return {
        "question": single.question,
        "header": single.header,
        "options": [{"label": choice.label, "description": choice.description} for choice in single.options],
        "multi": single.multi,
    }


def _from_single(single: Mapping[str, Any]) -> Single:
    return Single(
        question=str(single["question"]),
        header=str(single.get("header") or ""),
        options=tuple(
            Choice(str(choice["label"]), str(choice.get("description") or "")) for choice in single.get("options") or ()
        ),
        multi=bool(single.get("multi")),
    )


def _from_object(answer: str, text: str) -> str:
    """One question may be answered by text, or by the object that several take. What would be no answer there, is text."""
    try:
        parsed = _parsed(answer)
    except (ValueError, RecursionError):
        return answer
    if not isinstance(parsed, dict) or set(parsed) != {text}:
        return answer
    value = parsed[text]
    chosen = value if isinstance(value, list) else [value]
    said = chosen and all(isinstance(one, bool) or (isinstance(one, str) and one.strip()) for one in chosen)
    return _as_text(value) if said else answer


def _parsed(answer: str) -> Any:
    """The JSON of an answer, its numbers as they are written. Raises ValueError, RecursionError."""
    return json.loads(answer, parse_int=str, parse_float=str, parse_constant=_no_number)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _as_text(value: object) -> str:
    """One answer. A list is for a question with `multi`."""
    if isinstance(value, list):
        return ", ".join(map(_as_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
