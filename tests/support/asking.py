"""Runs that ask a person, as an executor's result carries the question, and people who answer."""

import psycopg

from tests.support.steps import ended
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.question import Choice, Question, QuestionKind, Single, Then
from turbo.domain.result import RunResult


def question(text: str = "Which database?", then: Then | None = Then.PROCEED) -> dict[str, object]:
    single = Single(text, options=(Choice("PostgreSQL"), Choice("SQLite")))
    return Question(QuestionKind.QUESTION, text, (single,), then=then).document()


def asks(
    held: ClaimRef, text: str = "Which database?", *, within: float | None = None, then: Then | None = Then.PROCEED
) -> RunResult:
    """The result of a run of `w-1-abc` (tests/support/steps.py) that asks."""
    return ended(
        held,
        OutcomeKind.ASKED,
        question=question(text, then),
        answer_within=within,
        output={"run": held.token},
        agent_session_id="s1",
    )


async def answer(db: "psycopg.AsyncConnection[tuple[object, ...]]", task_id: str, text: str) -> None:
    await db.execute("update public.agent_tasks set answer = %s where task_id = %s", [text, task_id])
