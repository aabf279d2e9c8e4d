"""How a page shows a row of the table of an agent's situations."""

from typing import Any

from turbo.domain.outcome import OutcomeKind
from turbo.executors.agent.situation import Situation

PROBED = "suspect; probe bad: paused (auth); probe good: open"
TASK = {
    OutcomeKind.SUCCEEDED: ("completed", "no", "–", "–"),
    OutcomeKind.ASKED: ("waiting", "no", "–", "–"),
    OutcomeKind.FAILED: ("scheduled, then failed", "yes", "–", "retries"),
    OutcomeKind.TIMED_OUT: ("scheduled, then failed", "yes", "–", "retries"),
    OutcomeKind.CANCELLED: ("cancelled (a drain: pending)", "no", "–", "–"),
    OutcomeKind.AUTH_FAILED: (
        "pending; probe good: scheduled, then failed",
        "no; probe good: yes",
        PROBED,
        "retries, auth_failures",
    ),
    OutcomeKind.USAGE_LIMITED: (
        "pending",
        "no",
        "paused (usage_limit) until the reset",
        "retries, usage_limit_pauses",
    ),
    OutcomeKind.UNAVAILABLE: (
        "pending; probe good: scheduled, then failed",
        "no; probe good: from the 4th time",
        "suspect; probe bad: paused (unavailable); probe good: open",
        "retries",
    ),
    OutcomeKind.INFRASTRUCTURE: (
        "pending; probe good: scheduled, then failed (poison)",
        "no",
        PROBED,
        "retries",
    ),
}
"""By outcome: what the task becomes, what counts, the account, and what it is counted in (tests/integration/test_claude_table.py)."""

CREDITS = ("credits required", "no credits, no plan, or a spend cap", "no plan, no billing, or a spend cap")


def page_row(row: Situation[Any]) -> list[str]:
    """The cells of the table whose first column is `situation`."""
    task, counts, account, counted = TASK[row.kind]
    if row.name in CREDITS:
        account = "paused (credits)"
    if row.final:
        task, counts, counted = "failed", "yes, the last", "–"
    failure = row.failure_kind.value if row.failure_kind else "–"
    return [row.name, row.kind.value, failure, task, counts, account, counted]
