"""A question on disk: this turbo reads it back, and an older worker that shares the host can read the file as well."""

import json
from pathlib import Path

import pytest

from turbo.domain.outcome import OutcomeKind
from turbo.domain.result import RunResult
from turbo.host.spool import Spool

FIELDS_BEFORE_QUESTIONS = {
    "task_id", "fencing_token", "outcome", "output", "error", "failure_kind", "execution_ms", "retry_delay_seconds", "final",
    "untouched", "agent_session_id", "finished_at", "worker_id", "queue", "executor", "detail",
}  # fmt: skip
QUESTION = {"kind": "question", "text": "Which?", "then": "proceed"}


def fields_of(path: Path) -> dict[str, object]:
    fields: dict[str, object] = json.loads(json.loads(path.read_text())["result"])
    return fields


@pytest.mark.parametrize("within", [None, 60.0])
def test_question_on_disk_is_read_back(tmp_path: Path, within: float | None) -> None:
    spool = Spool(tmp_path)
    asked = RunResult(
        "t", 7, OutcomeKind.ASKED.value, detail={"exit": 76}, question=QUESTION, answer_within=within, uncounted=True
    )
    spool.put(asked)
    (entry,) = spool.pending()
    assert (entry.result.question, entry.result.answer_within) == (QUESTION, within)
    assert entry.result.detail == {"exit": 76}


def test_older_worker_reads_every_file(tmp_path: Path) -> None:
    """It refuses a file with a field that it does not know; and it gives back what it counts as no attempt."""
    spool = Spool(tmp_path)
    asked = fields_of(spool.put(RunResult("t", 7, OutcomeKind.ASKED.value, question=QUESTION, answer_within=1.0)).path)
    plain = fields_of(spool.put(RunResult("t", 8, OutcomeKind.SUCCEEDED.value)).path)
    assert set(asked) == set(plain) == FIELDS_BEFORE_QUESTIONS
    assert asked["untouched"] is True
    assert plain["untouched"] is False
