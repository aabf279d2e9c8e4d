"""A program that checks the work: exit code 0 passes.

    argv of the configuration, in the directory where the agent worked ──exit code──▶ passed | failed
        ├── over its time: ended, `timed_out`              75 (EX_TEMPFAIL): not made, because something is away; no verdict
        └── the run is to end: ended, no verdict

It runs what the agent wrote (`make test`), so it has no more rights than the agent: the executor's `run_as`, and no secret of
the account in its environment. It is journalled, logged, stopped and ended like every program of a worker.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from turbo.domain.check import OUTPUT_BYTES, CheckResult, cut_at_start
from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.domain.task import NO_TASK, Task
from turbo.executors.checks.judge import Delivery, Judgement, NotMade
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.launch import fixed_program, obstacle
from turbo.process.output import LastLine, Tail
from turbo.process.running import Ending, ProcessResult, ProcessSpec, SpawnFailed, run_process

EX_TEMPFAIL = 75
STDOUT_BYTES = 4096
"""All that is kept of the output is its end, which is collected apart."""

LOG_BYTES = 8 * 1024 * 1024
"""Of the beginning of its log, which the end follows. A run may make a hundred checks."""

COMMAND_CHARACTERS = 200


class CommandJudge:
    """`environment(task)` is the program's, without secrets; it raises EnvironmentRefused. `cwd`: the fixed directory of the
    runs, if there is one. `run_as`: another user than the worker's.

    Raises ValueError for a relative program without `cwd`."""

    def __init__(
        self,
        owner: str,
        command: Sequence[str],
        environment: Callable[[Task], Mapping[str, str]],
        journal: Journal,
        *,
        seconds: float,
        grace_seconds: float = 5.0,
        cwd: Path | None = None,
        run_as: Identity | None = None,
    ) -> None:
        self._command = fixed_program(command, cwd, owner)
        self._environment = environment
        self._journal = journal
        self._seconds = seconds
        self._grace_seconds = grace_seconds
        self._cwd = cwd
        self._run_as = run_as
        self.shown = " ".join([Path(command[0]).name, *command[1:]])[:COMMAND_CHARACTERS]

    async def judge(self, delivery: Delivery) -> Judgement | NotMade | Outcome:
        """See `Judge`."""
        last, end = LastLine(), Tail(OUTPUT_BYTES)

        def on_output(chunk: bytes) -> None:
            end.feed(chunk)
            last.feed(chunk)
            delivery.progress(f"{self.shown}: {last.text}" if last.text else self.shown)

        delivery.progress(self.shown)
        run = delivery.run
        spec = ProcessSpec(
            argv=self._command,
            env=self._environment(run.task),
            cwd=delivery.directory,
            log_path=delivery.log_path,
            wall_seconds=self._seconds,
            grace_seconds=self._grace_seconds,
            stdout_bytes=STDOUT_BYTES,
            head_bytes=LOG_BYTES,
            task_id=run.task.task_id,
            run_as=self._run_as,
        )
        try:
            result = await run_process(
                spec, stop=run.stop, journal=self._journal, on_stdout=on_output, on_stderr=on_output
            )
        except SpawnFailed as error:
            return Outcome.infrastructure(f"check: {error}")
        return self._judged(result, cut_at_start(end.text, OUTPUT_BYTES), run.stop.cause)

    def _judged(self, result: ProcessResult, output: str, cause: object) -> Judgement | NotMade | Outcome:
        log = str(result.log_path) if result.log_path else None
        match result.ended_by:
            case Ending.STOPPED | Ending.ENOUGH:
                return Outcome(OutcomeKind.CANCELLED, error=f"the check was ended on request: {cause}")
            case Ending.WALL | Ending.SILENT:
                why = f"{self.shown} was ended after {self._seconds:g} s (check.seconds)"
                return Judgement(CheckResult.TIMED_OUT, why, output=output, log=log)
        code = result.returncode
        if code == EX_TEMPFAIL:
            return NotMade(f"{self.shown} asks for a later attempt (exit code 75)", code, output, log)
        if code == 0:
            return Judgement(exit_code=0, output=output, log=log)
        how = "was killed by" if code is not None and code < 0 else "failed with"
        why = f"{self.shown} {how} {result.exit_text}"
        return Judgement(CheckResult.FAILED, why, exit_code=code, output=output, log=log)

    def missing(self) -> str | None:
        """See `Judge`."""
        try:
            path = self._environment(NO_TASK).get("PATH")
        except ValueError as error:  # EnvironmentRefused
            return str(error)
        found = obstacle(self._command[0], path, self._cwd, self._run_as)
        return f"check: {found}" if found is not None else None
