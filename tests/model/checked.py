"""Results with checks, among all others: whatever is sent again, lost or rescued, each check is in the trail once, and only
beside a result that the database has answered."""

from collections import Counter
from typing import Any

from tests.model.fleet import FakeWorker, Run
from tests.model.machine import Fleet
from turbo.db.result_store import ResultAnswer
from turbo.domain.check import CheckResult, WorkCheck
from turbo.domain.outcome import OutcomeKind
from turbo.domain.result import RunResult


class CheckedFleet(Fleet):
    """Every other result has two checks: one of an earlier claim, and one of its own. Rows that a claim refuses are left to
    test_model: no result comes of them."""

    a_row_is_refused = None  # type: ignore[assignment]

    def ends(self, worker: FakeWorker, run: Run, outcome: OutcomeKind, **more: object) -> None:
        token = run.task.fencing_token
        if token % 2:
            checks = [
                WorkCheck(1, token - 1, CheckResult.FAILED, "why"),
                WorkCheck(2, token, CheckResult.PASSED if outcome is OutcomeKind.SUCCEEDED else CheckResult.FAILED),
            ]
            more = {"checks": [check.trail("x") for check in checks], **more}
        super().ends(worker, run, outcome, **more)

    def recorded(
        self, worker: FakeWorker | None, batch: list[RunResult], answers: list[ResultAnswer], lost: bool
    ) -> None:
        super().recorded(worker, batch, answers, lost)
        trail = self.world.picture().trail
        for result in batch:
            rows = [e for e in trail.get(result.task_id, []) if e["action_type"] == "checked"]
            known = Counter((row["fencing_token"], row["detail"]["number"]) for row in rows)
            assert set(known.values()) <= {1}, f"{result.task_id}: {known}"
            wanted = {(check["token"], number(check)) for check in result.checks}
            assert wanted <= set(known), f"{result.task_id}: {wanted} is not all in the trail"
            self.seen["checked" if wanted else "unchecked"] += 1


def number(check: dict[str, Any]) -> object:
    return check["detail"]["number"]
