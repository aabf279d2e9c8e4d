"""What a Python handler returns fits `output_schema`. A handler cannot be asked again, so the first answer decides."""

import time
from dataclasses import replace
from datetime import UTC, datetime

from turbo.domain.check import Checked, WorkCheck
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.domain.run import Run
from turbo.executors.checks.feedback import one_line
from turbo.executors.checks.schema import SchemaJudge
from turbo.executors.protocol import Executor, NeedsProgram


class ReturnsChecked:
    """An executor whose outcome is judged. Nothing is kept on disk: a run that is cut off begins anew, as without a schema."""

    def __init__(self, executor: Executor, judge: SchemaJudge) -> None:
        self.name = executor.name
        self.account = executor.account
        self.durable = executor.durable
        self._executor = executor
        self._judge = judge

    async def run(self, run: Run) -> Outcome:
        """See `Executor.run`."""
        outcome = await self._executor.run(run)
        if outcome.kind is not OutcomeKind.SUCCEEDED:
            return outcome
        run.uses(lambda: outcome.usage)
        began = time.monotonic()
        judged = await self._judge.judged(run, outcome)
        if isinstance(judged, Outcome):
            return replace(judged, usage=outcome.usage, log=outcome.log)
        check = WorkCheck(
            number=1,
            fencing_token=run.task.fencing_token,
            result=judged.result,
            why=judged.why,
            seconds=time.monotonic() - began,
            ended_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        decided = replace(judged.outcome or outcome, checked=Checked((check,), decided=True))
        if judged.passed:
            return decided
        unverified = FailureKind.UNVERIFIED
        return replace(decided, kind=OutcomeKind.FAILED, error=one_line(check), failure_kind=unverified, final=True)

    def missing(self) -> str | None:
        """See `NeedsProgram`."""
        return self._executor.missing() if isinstance(self._executor, NeedsProgram) else None
