"""An agent_tasks that is turbo's already, and a migration that brings new states and columns.

    pending files begin after the adoption ──▶ survey ──▶ judged: names clash, an enum of somebody else's? ──▶ widening steps

An adopted enum gets the new states. A CHECK that refuses them, adopted or made since, is widened as adoption widens one: replaced
NOT VALID and validated afterwards, so that no lock is held while the table is read. What else an operator's CHECK refuses stays
refused. Derived from the table as it is: after a kill, the next run makes only the remaining steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from turbo.domain.finding import Finding
from turbo.domain.states import Level, TaskState
from turbo.migrate.adoption import adopt
from turbo.migrate.adoption.finding import sorted_by_level
from turbo.migrate.adoption.judge_columns import judge_reserved, judge_states
from turbo.migrate.adoption.survey import Survey
from turbo.migrate.files import Migration

BEFORE = 12
"""The file before which the steps run: the first that writes the new states."""

NEW = frozenset({TaskState.BLOCKED, TaskState.WAITING, "asked", "answered", "unanswered", "reminded"})
"""What it brings: states of a task, and actions of the audit trail."""


def concerns(pending: Sequence[Migration]) -> bool:
    """Whether `pending` has the file, and begins too late for an adoption, which judges all of this itself."""
    return any(migration.version == BEFORE for migration in pending) and not adopt.concerns(pending)


def judge(survey: Survey) -> list[Finding]:
    """Why the file cannot be applied, and what is noteworthy; refusals first."""
    if survey.tasks is None:
        return []
    return sorted_by_level([*judge_reserved(survey.tasks), *_states(_new_only(survey))])


def steps(survey: Survey) -> list[adopt.Step]:
    """What makes agent_tasks take the new states. Empty for a table that takes them."""
    return adopt.widening(_new_only(survey))


def _new_only(survey: Survey) -> Survey:
    refused = {name: tuple(value for value in values if value in NEW) for name, values in survey.refused.items()}
    return replace(survey, refused={name: values for name, values in refused.items() if values})


def _states(survey: Survey) -> Iterator[Finding]:
    return (finding for finding in judge_states(survey) if finding.level is not Level.WARN)
