"""The `python` executor with `isolation: process`: each run in a process of its own, which a limit ends for good.

    the task as JSON ──stdin──▶ turbo.executors.python_child ──handler(task)──▶ its value, question or error, as JSON on stdout
        └── wall clock or stop: TERM (an async handler is cancelled), grace, KILL; so for all its descendants

It is a program like any other: with a journal entry, a watcher, a log of what it prints, the environment of programs (never
the worker's own, never the database's) and a working directory for each task. It costs the start of an interpreter per run.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from turbo.domain.asking import answers_to_json
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.domain.question import AskPolicy
from turbo.domain.run import Run
from turbo.domain.task import NO_TASK
from turbo.domain.work import work_to_json
from turbo.executors import asking
from turbo.executors.directories import Directories
from turbo.executors.python import load_handler
from turbo.process.environment import ChildEnvironment, EnvFile, EnvironmentRefused
from turbo.process.journal import Journal
from turbo.process.launch import obstacle
from turbo.process.running import Ending, ProcessResult, ProcessSpec, SpawnFailed, run_process

CHILD = Path(__file__).with_name("python_child.py")
OUTPUT_BYTES = 64 * 1024 * 1024
"""The longest value a handler may return, as JSON."""


class PythonProcess:
    """Runs one handler, async or not, for many tasks. `durable`: a program's result is worth an fsync.

    `env` and `env_file`: variables for the process. `grace_seconds` pass between TERM and KILL. `ask`: its handler may ask a
    person. Raises ValueError if the handler or the environment cannot be used.
    """

    durable = True

    def __init__(
        self,
        name: str,
        handler: str,
        *,
        journal: Journal,
        env: Mapping[str, str] | None = None,
        env_file: EnvFile | None = None,
        grace_seconds: float = 5.0,
        account: str | None = None,
        ask: AskPolicy | None = None,
    ) -> None:
        self.name = name
        self.account = account
        self._ask = ask
        self._reference = handler
        load_handler(handler, f"executor {name}", sync=True)  # a mistake is found now, not in the first run
        self._journal = journal
        self._environment = ChildEnvironment(env or {}, env_file, owner=name)
        self._directories = Directories()
        self._grace_seconds = grace_seconds

    async def run(self, run: Run) -> Outcome:
        """See `Executor.run`."""
        try:
            environment = self._environment.for_task(run.task)
            return await self._directories.run(
                run, environment, lambda directory, _workspace: self._attempt(run, environment, directory)
            )
        except RecursionError as error:
            return Outcome.failed(f"executor {self.name}: {error}", FailureKind.BAD_REQUEST, final=True)
        except SpawnFailed as error:
            return Outcome.infrastructure(str(error))
        except (EnvironmentRefused, OSError) as error:
            return Outcome.infrastructure(f"executor {self.name}: {error}")

    def missing(self) -> str | None:
        """See `NeedsProgram`."""
        try:
            return obstacle(sys.executable, self._environment.for_task(NO_TASK).get("PATH"), None)
        except (EnvironmentRefused, OSError) as error:
            return str(error)

    async def _attempt(self, run: Run, environment: Mapping[str, str], directory: Path) -> Outcome:
        task = {field.name: getattr(run.task, field.name) for field in dataclasses.fields(run.task)}
        request = {
            # Not PYTHONPATH, which programs that the handler starts would inherit; and none relative to the task's directory.
            "path": [os.path.abspath(path) for path in sys.path],  # noqa: PTH100
            "handler": self._reference,
            "task": task
            | {"answers": answers_to_json(run.task.answers)}
            | work_to_json(run.task.needs, run.task.continued, run.task.messages),
        }
        spec = ProcessSpec(
            argv=(sys.executable, "-P", str(CHILD)),
            env=environment,
            cwd=directory,
            log_path=run.log_path,
            wall_seconds=run.task.timeout_seconds,
            stdin=json.dumps(request).encode(),
            grace_seconds=self._grace_seconds,
            stdout_bytes=OUTPUT_BYTES,
            task_id=run.task.task_id,
        )
        result = await run_process(spec, stop=run.stop, journal=self._journal, on_start=run.started)
        outcome = self._outcome(result, run)
        return dataclasses.replace(outcome, log=str(result.log_path) if result.log_path else None)

    def _outcome(self, result: ProcessResult, run: Run) -> Outcome:
        match result.ended_by:
            case Ending.WALL:
                why = f"{self._reference} was ended after {run.task.timeout_seconds:g} s (timeout_seconds)"
                return Outcome(OutcomeKind.TIMED_OUT, error=why, failure_kind=FailureKind.TIMED_OUT)
            case Ending.EXITED if result.stdout_cut:
                return Outcome.failed(f"{self._reference} returned a value of more than {OUTPUT_BYTES} bytes")
            case Ending.EXITED if result.returncode == 0:
                answer = _answer(result.stdout)
                if answer is not None and "ask" in answer:
                    return asking.outcome_of(answer["ask"], self._reference, self._ask, run)
                if answer is not None:
                    error = answer.get("error")
                    return Outcome.succeeded(answer.get("output")) if error is None else Outcome.failed(str(error))
            case Ending.EXITED:
                pass
            case _:
                return Outcome(OutcomeKind.CANCELLED, error=f"ended on request: {run.stop.cause}")
        stderr = f": {result.stderr_tail}" if result.stderr_tail else ""
        return Outcome.failed(
            f"the process of {self._reference} ended without an answer, by {result.exit_text}{stderr}"
        )


def _answer(stdout: bytes) -> dict[str, object] | None:
    try:
        answer = json.loads(stdout)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None
