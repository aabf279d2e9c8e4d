"""What becomes of a run that asks a person, for executors that ask by a form (turbo.domain.asking): command and python.

a form ──may ask──▶ asked          ──no `ask:`, or not now──▶ failed, counted as a denied question
   └── is not a question ──▶ failed
"""

from turbo.domain.asking import BadQuestion, question_of
from turbo.domain.outcome import Outcome
from turbo.domain.question import AskPolicy, Question
from turbo.domain.run import Run

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
