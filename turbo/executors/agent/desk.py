"""What becomes of each call of a tool in a run that may ask a person: one decision per call.

    the call that was answered ──▶ its answer        held by a rule, or a question ──▶ deferred: the run ends by asking
    approved for good ──▶ allowed                    everything else ──▶ the CLI's permission mode

The first call that is deferred ends the turn. A second one in the same turn is denied with words, because the CLI would drop
one of the two and tell nobody. What cannot be shown to a person as it is, is not asked: it is denied with words too.
Nothing here knows how the CLI is spoken to (control.py).
"""

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from turbo.domain.question import MOST_BYTES, Answered, AskPolicy, Choice, Question, QuestionKind, Single
from turbo.executors.agent.handed_over import Handed
from turbo.host.sanitize import sanitize

log = logging.getLogger(__name__)

QUESTION_TOOL = "AskUserQuestion"
PLAN_TOOL = "ExitPlanMode"
PLAN_TOOLS = ("EnterPlanMode", PLAN_TOOL)

ROOM_BYTES = 4096
"""Of a question's MOST_BYTES, for what the database adds."""

MOST_ALLOWED = 100
"""Allowed calls of which the CLI may still ask whether they are."""

NOBODY = "Nobody can be asked in this run. Decide yourself, go on, and say in your final account what you decided."
NOT_ALLOWED = "This call is not allowed here, and nobody can be asked to allow it. Go on without it, or end and say what is missing."
ONE_AT_A_TIME = (
    "One call of this turn is waiting for a person already, so this one was not made and nobody has seen it. "
    "When that one is answered, make this call again if you still need it."
)
ASK_AGAIN = "This call was not made, and nobody has seen it. Make it again, alone, if you still need it."
SUBAGENT = (
    "This call needs the approval of a person, whom a subagent cannot ask. It was not made. Report this to the agent that "
    "started you, so that it makes the call itself."
)
TOO_LARGE = (
    f"This is larger than {MOST_BYTES} bytes, so no person can be shown all of it. It was not made. Make it smaller."
)
UNSHOWABLE = (
    "This cannot be shown to a person as it is ({why}), so nobody was asked and it was not made. "
    "Write it in another way."
)
UNREADABLE = "This call could not be read, so it was not made."
NO_PLAN = (
    "There is no plan in this call that a person could read. Write it into the plan file, then make the call again."
)
UNANSWERED_QUESTION = (
    "Nobody answered this in time, and nobody has decided anything. Choose the most careful way yourself, go on, and say in "
    "your final account what you chose and that nobody had answered."
)
UNANSWERED_CALL = (
    "Nobody approved this call in time, so it is denied and was not made. Go on without it, and say so in your final "
    "account."
)
UNKNOWN_OUTCOME = (
    "A person approved this call. An earlier run was cut off while or before it was made, so it is not known whether it took "
    "effect, and it was not made again now. Check that first. If it is still needed, make exactly this call again."
)
NOT_NOTED = "A person approved this call, but it could not be made now. Make exactly this call again."
DENIED = (
    "A person was shown this call and denied it, so it was not made. Do not try to reach the same in another way. "
    "Go on without it, and say so in your final account."
)


class NotesApproved(Protocol):
    """Which approved call was handed over last, over all runs of the task."""

    def last(self) -> Handed | None: ...

    def note(self, handed: Handed) -> None:
        """Raises OSError."""
        ...


class HoldsCalls(Protocol):
    """The rules of `ask.approve`."""

    def held_by(self, tool: str, call: Mapping[str, object]) -> str | None:
        """The rule that holds this call until a person has approved it, or None."""
        ...

    def without(self, rules: Collection[str]) -> "HoldsCalls":
        """The other rules alone: a call may be held by several, of which `held_by` names one."""
        ...


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the agent wants to make. `subagent`: it is not the run's own agent."""

    tool: str
    input: Mapping[str, Any]
    id: str
    subagent: bool = False


@dataclass(frozen=True, slots=True)
class NoOpinion:
    """The CLI's permission mode and rules decide."""


@dataclass(frozen=True, slots=True)
class Allow:
    """The call is made with this input. `leaves_plan`: the agent may edit from now on."""

    input: Mapping[str, Any]
    leaves_plan: bool = False


@dataclass(frozen=True, slots=True)
class Deny:
    words: str


@dataclass(frozen=True, slots=True)
class Defer:
    """The run ends here and asks."""


Decision = NoOpinion | Allow | Deny | Defer


@dataclass(slots=True)
class Desk:
    """The decisions of one process of the CLI. `answers`: what earlier runs of the task asked; the last one is new to the
    agent, unless an earlier run has handed it over, which `handed_over` knows of an approval. `under_way`: the approved call of
    which no result came yet. `may_ask`: see Run."""

    policy: AskPolicy
    held: HoldsCalls
    handed_over: NotesApproved
    answers: Sequence[Answered] = ()
    may_ask: bool = True
    questions_denied: int = 0
    under_way: Handed | None = None
    _last: Answered | None = None
    _always: frozenset[str] = frozenset()
    _others: HoldsCalls | None = None
    _denied: list[tuple[ToolCall, str]] = field(default_factory=list)
    _allowed: dict[str, tuple[ToolCall, Allow]] = field(default_factory=dict)
    _deferred: dict[str, Question] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._last = self.answers[-1] if self.answers else None
        approvals = [one for one in self.answers if one.question.kind is QuestionKind.APPROVAL]
        self._always = frozenset(one.question.rule for one in approvals if one.always)
        self._others = self.held.without(self._always) if self._always else None
        self._denied = [
            (ToolCall(one.question.tool, one.question.input, ""), _denial(one))
            for one in approvals
            if one.answer is not None and not one.approved
        ]

    def before(self, call: ToolCall) -> Decision:
        """Before every call of a tool that the CLI reports."""
        decision = self._decide(call)
        if isinstance(decision, Allow):
            self._allowed[call.id] = (call, decision)
            if len(self._allowed) > MOST_ALLOWED:
                del self._allowed[next(iter(self._allowed))]
        return decision

    def permission(self, call: ToolCall) -> Allow | Deny:
        """Where the CLI's permission mode does not allow a call: only what a person approved is allowed."""
        known, allow = self._allowed.get(call.id, (None, None))
        if known is not None and allow is not None:
            shown = call.tool == QUESTION_TOOL or same(known.input, call.input)
            return allow if known.tool == call.tool and shown else Deny(NOT_ALLOWED)
        if self._deferred.pop(call.id, None) is not None:  # the CLI has not obeyed: it goes on with the turn
            return Deny(ASK_AGAIN)
        match self.before(call):
            case Allow() | Deny() as decided:
                return decided
            case Defer():
                del self._deferred[call.id]
                return Deny(ASK_AGAIN)
        return Deny(NOT_ALLOWED)

    def question(self, call_id: str) -> Question | None:
        """What the deferred call asks; None if it was not deferred here."""
        return self._deferred.get(call_id)

    def result_came(self) -> None:
        """Of the approved call that is under way."""
        if self.under_way is None:
            return
        handed, self.under_way = replace(self.under_way, over=True), None
        try:
            self.handed_over.note(handed)
        except OSError as error:
            log.warning("the result of an approved call could not be noted: %s", error)

    def _decide(self, call: ToolCall) -> Decision:
        if (answer := self._answer(call)) is not None:
            return answer
        if call.tool == QUESTION_TOOL:
            if not self.policy.questions or not self.may_ask or call.subagent:
                return self._deny_question(NOBODY)
            return self._ask(call, lambda: _question(call))
        rule = self.held.held_by(call.tool, call.input)
        if self._others is not None and rule in self._always:
            rule = self._others.held_by(call.tool, call.input)
            if rule is None:
                return _allow(call)
        for denied, words in self._denied:  # although its rule may have left the configuration
            if denied.tool == call.tool and same(denied.input, call.input):
                return Deny(words)
        if rule is None:
            return Deny(NOBODY) if call.tool in PLAN_TOOLS and PLAN_TOOL not in self.policy.approve else NoOpinion()
        if call.subagent:
            return Deny(SUBAGENT)
        if not self.may_ask:
            return Deny(NOBODY)
        if call.tool == PLAN_TOOL and not str(call.input.get("plan") or "").strip():
            return Deny(NO_PLAN)
        return self._ask(call, lambda: _approval(call, rule))

    def _answer(self, call: ToolCall) -> Decision | None:
        """For the call that a person was shown, and only for that one; once. None: no answer is for this call."""
        last = self._last
        if last is None or call.subagent or not _asked_by(last.question, call):
            return None
        if last.question.kind is QuestionKind.APPROVAL and last.approved:
            return self._approved(call, last.question.call)
        self._last = None
        if last.question.kind is QuestionKind.QUESTION:
            if last.answer is None:
                return Deny(UNANSWERED_QUESTION)
            return Allow({**call.input, "answers": _by_question(last)})
        words = _denial(last)
        self._denied.append((call, words))
        return Deny(words)

    def _approved(self, call: ToolCall, asked: str) -> Decision | None:
        """It is made, once; None where that is over, so that an equal call is asked anew. What an earlier run may have made
        already, the agent has to look at first."""
        noted = self.handed_over.last()
        if noted is not None and (noted.asked == asked or noted.call == call.id):
            if call.id in (noted.call, noted.told) or not (noted.over or noted.told):
                self._note_told(replace(noted, told=noted.told or call.id))
                return Deny(UNKNOWN_OUTCOME)
            if noted.over:
                self._last = None
                return None
        handed = Handed(call.id, asked)
        try:
            self.handed_over.note(handed)
        except OSError as error:
            log.warning("an approved call was not made: it could not be noted before: %s", error)
            return Deny(NOT_NOTED)
        self._last = None
        self.under_way = handed
        return _allow(call)

    def _note_told(self, handed: Handed) -> None:
        try:
            self.handed_over.note(handed)
        except OSError as error:
            log.warning("it could not be noted that the outcome of an approved call is not known: %s", error)

    def _ask(self, call: ToolCall, make: Callable[[], Question]) -> Decision:
        if self._deferred:
            return Deny(ONE_AT_A_TIME)
        try:
            question = make()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return Deny(UNREADABLE)
        notes: set[str] = set()
        document = question.document()
        sanitize(document, notes)
        if notes:
            return self._cannot_ask(call, UNSHOWABLE.format(why="; ".join(sorted(notes))))
        if len(json.dumps(document, ensure_ascii=False).encode()) > MOST_BYTES - ROOM_BYTES:
            return self._cannot_ask(call, TOO_LARGE)
        self._deferred[call.id] = question
        return Defer()

    def _cannot_ask(self, call: ToolCall, words: str) -> Deny:
        return self._deny_question(words) if call.tool == QUESTION_TOOL else Deny(words)

    def _deny_question(self, words: str) -> Deny:
        self.questions_denied += 1
        return Deny(words)


def same(left: object, right: object) -> bool:
    """Equal as JSON. In Python, true equals 1."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _asked_by(question: Question, call: ToolCall) -> bool:
    """Whether this call is what a person was shown."""
    if question.kind is QuestionKind.APPROVAL:
        return question.tool == call.tool and same(question.input, call.input)
    if question.kind is not QuestionKind.QUESTION or call.tool != QUESTION_TOOL:
        return False
    if question.call and question.call != call.id:
        return False
    try:
        return _singles(call) == question.questions
    except (ValueError, TypeError, KeyError, AttributeError):
        return False


def _question(call: ToolCall) -> Question:
    singles = _singles(call)
    texts = [single.question for single in singles]
    if not texts or len(set(texts)) < len(texts) or not all(texts):
        raise ValueError("the texts of the questions are the keys of the answers")
    return Question(QuestionKind.QUESTION, "\n".join(texts), questions=singles, call=call.id)


def _singles(call: ToolCall) -> tuple[Single, ...]:
    return tuple(
        Single(
            question=str(one["question"]),
            header=str(one.get("header") or ""),
            options=tuple(
                Choice(str(option["label"]), str(option.get("description") or ""))
                for option in one.get("options") or ()
            ),
            multi=bool(one.get("multiSelect")),
        )
        for one in call.input["questions"]
    )


def _approval(call: ToolCall, rule: str) -> Question:
    if call.tool == PLAN_TOOL:
        text = "May the agent carry out its plan?"
    elif isinstance(command := call.input.get("command"), str):
        text = f"May the agent run this command? {command}"
    else:
        text = f"May the agent use {call.tool}?"
    return Question(QuestionKind.APPROVAL, text, tool=call.tool, input=call.input, rule=rule, call=call.id)


def _allow(call: ToolCall) -> Allow:
    return Allow(call.input, leaves_plan=call.tool == PLAN_TOOL)


def _denial(answered: Answered) -> str:
    if answered.answer is None:
        return UNANSWERED_CALL
    return f"{DENIED} Their reason: {json.dumps(answered.reason, ensure_ascii=False)}" if answered.reason else DENIED


def _by_question(answered: Answered) -> dict[str, str]:
    """By the exact texts of the questions; the CLI takes any other key for no answer, and tells nobody."""
    texts = [single.question for single in answered.question.questions]
    try:
        found = {text: answer for text, answer in answered.by_question().items() if text in texts}
    except (ValueError, AttributeError, RecursionError):
        found = {}
    return found or {texts[0]: answered.answer or ""}
