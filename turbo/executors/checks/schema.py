"""The answer fits `output_schema`, and is JSON from then on.

the answer ──fits──▶ `output_data.output` is its value          ──does not──▶ `unfit`, with the places that are wrong
"""

from dataclasses import replace

from turbo.domain.check import CheckResult
from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.domain.run import Run
from turbo.executors.checks.judge import UNFIT, Delivery, Judgement
from turbo.executors.schemas.fit import ComparisonStopped, Fit, Judged
from turbo.process.running import SpawnFailed


class SchemaJudge:
    """`reads_text`: an answer that is text holds the JSON, as a program prints it. Otherwise a text is a JSON string itself."""

    def __init__(self, fit: Fit, *, reads_text: bool) -> None:
        self.fit = fit
        self._reads_text = reads_text

    async def judge(self, delivery: Delivery) -> Judgement | Outcome:
        """See `Judge`."""
        delivery.progress("output_schema")
        return await self.judged(delivery.run, delivery.outcome)

    async def judged(self, run: Run, outcome: Outcome) -> Judgement | Outcome:
        """Of the outcome of a run or a turn, which succeeded. Raises OSError."""
        extra = {key: value for key, value in outcome.extra.items() if key != UNFIT}
        try:
            found = await self._found(run, outcome)
        except ComparisonStopped:
            return Outcome(
                OutcomeKind.CANCELLED, error=f"ended on request while its answer was checked: {run.stop.cause}"
            )
        except SpawnFailed as error:
            return Outcome.infrastructure(str(error))
        if found.why is not None:
            output = found.value if isinstance(found.value, dict) else outcome.output
            return Judgement(CheckResult.UNFIT, found.why, outcome=replace(outcome, output=output, extra=extra))
        return Judgement(outcome=replace(outcome, output=found.value, truncated=False, extra=extra))

    async def _found(self, run: Run, outcome: Outcome) -> Judged:
        if (refused := outcome.extra.get(UNFIT)) is not None:
            return Judged(why=f"no answer fitted the schema: {refused}")
        if outcome.truncated:
            return Judged(why="the answer is too long, and was cut")
        if isinstance(outcome.output, str) and self._reads_text:
            return await self.fit.text(outcome.output, run.stop, run.task.task_id)
        return await self.fit.value(outcome.output, run.stop, run.task.task_id)

    def missing(self) -> str | None:
        """See `Judge`. The schema was read when the worker started."""
        return None
