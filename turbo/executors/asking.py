"""What becomes of a run that asks a person. Command and python ask by a form (turbo.domain.asking).

a form ──may ask──▶ asked          ──no `ask:`, or not now──▶ failed, counted as a denied question
   └── is not a question ──▶ failed
"""

from dataclasses import replace

from turbo.domain.asking import BadQuestion, question_of, too_large
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.domain.question import AskPolicy, Question
from turbo.domain.run import Run
from turbo.host.sanitize import sanitize

DENIED = "questions_denied"
"""In `Outcome.extra`: how many questions of the run nobody was asked."""


def outcome_of(form: object, who: str, policy: AskPolicy | None, run: Run) -> Outcome:
    """`who` asks, for messages."""
    try:
        question = question_of(form)
    except (BadQuestion, RecursionError) as error:
        return Outcome.failed(f"{who} asks, but not with a question: {error}")
    return asks(question, who, policy, run)


def asks(question: Question, who: str, policy: AskPolicy | None, run: Run) -> Outcome:
    if policy is None or not policy.questions:
        return _denied(f"{who} asks a person, and its executor has no ask: in worker.yaml", question)
    if not run.may_ask:
        return _denied(
            f"{who} asks a person, and questions are off while an older worker serves queue {run.task.queue}", question
        )
    return Outcome.asks(policy.asked(question))


def _denied(why: str, question: Question) -> Outcome:
    outcome = Outcome.failed(f"{why}: {question.text[:500]}")
    outcome.extra[DENIED] = 1
    return outcome


def askable(outcome: Outcome) -> Outcome:
    """The outcome; a failure in place of a question that the database cannot keep as it is: nothing of it may be cut."""
    if outcome.kind is not OutcomeKind.ASKED:
        return outcome
    if outcome.asked is None:
        problem: str | None = "its executor named no question"
    else:
        try:
            document = outcome.asked.document()
            problem = too_large(document)
            notes: set[str] = set()
            if problem is None and sanitize(document, notes) and notes:
                problem = f"the database cannot store the question as it is: {', '.join(sorted(notes))}"
        except (TypeError, ValueError, RecursionError) as error:
            problem = f"the question is not JSON: {error}"
    if problem is None:
        return outcome
    return replace(
        outcome,
        kind=OutcomeKind.FAILED,
        error=f"the run asks a person, but {problem}",
        failure_kind=FailureKind.ERROR,
        asked=None,
    )
