"""The `command` executor: runs a program from an argv template, without a shell.

    template + row ──▶ argv ──▶ program, the task as JSON on its stdin ──exit code──▶ outcome
         └── a value that is missing, of the wrong kind, or would be a flag ──▶ failed, nothing runs

For example, `[ruff, check, "{input[path]}"]` takes its last argument from the task's input_data. The row fills
placeholders; it never chooses the program, and no value may begin with `-`.

Exit code 0 is success. 75 (EX_TEMPFAIL) is a fault of the host or a service: no attempt is counted. With `ask:`, 76 asks a
person: the last line of standard output is `{"ask": {"text": "…", "options": […]}}` (turbo.domain.asking). Any other code
is a failure.
"""

import dataclasses
import errno
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from turbo.domain.asking import BadQuestion, pairs, question_of
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind, Probe
from turbo.domain.question import AskPolicy
from turbo.domain.run import Progress, Run
from turbo.domain.task import NO_TASK, Task
from turbo.domain.work import continued_document, messages_document, needs_document
from turbo.executors import asking
from turbo.executors.checks.loop import Checks
from turbo.executors.directories import Directories
from turbo.process.environment import ChildEnvironment, EnvFile, EnvironmentRefused
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.launch import fixed_program, obstacle
from turbo.process.output import LastLine, Tail, text_of
from turbo.process.running import Ending, ProcessResult, ProcessSpec, SpawnFailed, run_process
from turbo.workspaces.area import Exclusive, WorkArea, WorkspaceView, no_lock

EX_TEMPFAIL = 75
ASKS = 76
LINE_BYTES = 2 * 1024 * 1024
"""The longest line that may hold a question: six times a question's bytes, as escapes, and spaces."""

PLACEHOLDER = re.compile(r"\{(?:(task_id|task_type)|input\[([^\[\]{}]+)\])\}")


class BadValue(Exception):
    """A value in the row that a placeholder does not accept."""


class CommandExecutor:
    """Runs one template for many tasks. `durable`: a program's result is worth an fsync.

    `command` is the template; its first element, the program, has no placeholders. `exclusive` keeps other tasks out
    of the working directory (turbo.executors.exclusive_directories). `work_area` replaces `cwd`, `exclusive` and
    `allowed_roots`: with a workspace per task, for example. `env_file` contains the account's secrets.
    `grace_seconds` pass between TERM and KILL. `silence_seconds` None means no limit. `run_as`: another user than the worker's.
    `ask`: its programs may ask a person; None: exit code 76 is a failure. `checks`: what its work must pass, without another turn.

    Raises ValueError (EnvironmentRefused is one) for a configuration that cannot work.
    """

    durable = True

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        journal: Journal,
        cwd: Path | None = None,
        exclusive: Exclusive = no_lock,
        env: Mapping[str, str] | None = None,
        env_file: EnvFile | Path | None = None,
        allowed_roots: Sequence[Path] = (),
        work_area: WorkArea | None = None,
        grace_seconds: float = 5.0,
        silence_seconds: float | None = None,
        account: str | None = None,
        run_as: Identity | None = None,
        ask: AskPolicy | None = None,
        checks: Checks | None = None,
    ) -> None:
        if not command or not command[0]:
            raise ValueError(f"executor {name}: command is empty: write the program and its arguments as a list")
        if PLACEHOLDER.search(command[0]):
            raise ValueError(
                f"executor {name}: {command[0]!r} would let a row choose the program: write its name instead"
            )
        if any("\0" in part for part in command):
            raise ValueError(f"executor {name}: command contains a NUL character")
        self.name = name
        self.account = account
        self._journal = journal
        self._work_area = work_area or Directories.at(cwd, allowed_roots, exclusive, run_as)
        self._command = fixed_program(command, self._work_area.fixed, name)
        self._run_as = run_as
        self._ask = ask
        self._checks = checks
        self.needs_accounts = checks.accounts if checks is not None else frozenset[str]()
        self._grace_seconds = grace_seconds
        self._silence_seconds = silence_seconds
        file = EnvFile(env_file) if isinstance(env_file, Path) else env_file
        self._environment = ChildEnvironment(env or {}, file, owner=name, run_as=run_as)

    async def run(self, run: Run) -> Outcome:
        """See `Executor.run`."""
        try:
            argv = fill(self._command, run.task)
            environment = self._environment.for_task(run.task)

            async def program(directory: Path, workspace: WorkspaceView | None) -> Outcome:
                if self._checks is None:
                    return await self._attempt(run, argv, environment, directory)
                take = lambda _turn: self._attempt(run, argv, environment, directory)  # noqa: E731
                return await self._checks.run(run, directory, workspace, take)

            return await self._work_area.run(run, environment, program)
        except (BadValue, RecursionError) as error:
            return Outcome.failed(f"executor {self.name}: {error}", FailureKind.BAD_REQUEST, final=True)
        except SpawnFailed as error:
            if error.errno == errno.E2BIG:  # the row's values are too long for any host
                return Outcome.failed(str(error), FailureKind.BAD_REQUEST, final=True)
            return Outcome.infrastructure(str(error))
        except (EnvironmentRefused, OSError) as error:
            return Outcome.infrastructure(f"executor {self.name}: {error}")

    async def _attempt(
        self, run: Run, argv: tuple[str, ...], environment: Mapping[str, str], directory: Path
    ) -> Outcome:
        spec = ProcessSpec(
            argv=argv,
            env=environment,
            cwd=directory,
            log_path=run.log_path,
            wall_seconds=run.task.timeout_seconds,
            stdin=task_json(run.task, answers=self._ask is not None or bool(run.task.answers)),
            silence_seconds=self._silence_seconds,
            grace_seconds=self._grace_seconds,
            task_id=run.task.task_id,
            run_as=self._run_as,
        )
        last, end = LastLine(), Tail(LINE_BYTES)

        def on_stdout(chunk: bytes) -> None:
            last.feed(chunk)
            if self._ask is not None:
                end.feed(chunk)
            run.progress(Progress(last.text))

        def on_line(line: bytes, cut: bool) -> None:
            if cut:
                run.transcript.lost(f"a line of output was longer than {len(line):,} bytes, and is left out")
            else:
                run.transcript.line(line)

        if run.transcript.wanted:
            run.transcript.conceal(self._environment.secrets())
        result = await run_process(
            spec,
            stop=run.stop,
            journal=self._journal,
            on_line=on_line if run.transcript.wanted else None,
            on_stdout=on_stdout,
            on_start=run.started,
        )
        outcome = self._asks(result, end, run) or self._outcome(result, run)
        return dataclasses.replace(outcome, log=str(result.log_path) if result.log_path else None)

    def _asks(self, result: ProcessResult, end: Tail, run: Run) -> Outcome | None:
        """The outcome of a program that asks. None: it does not, or may not and asks nothing that a person could answer."""
        if result.ended_by is not Ending.EXITED or result.returncode != ASKS:
            return None
        stdout = end.data if self._ask is not None else result.stdout
        before, line = _last_line(stdout)
        who = f"{self._command[0]} (exit code {ASKS})"
        try:
            form = _ask_form(line)
            question = question_of(form)
        except (BadQuestion, RecursionError) as error:
            if self._ask is None:
                return None
            return Outcome.failed(f"{who} asks, but not with a question on its last line of output: {error}")
        outcome = asking.asks(question, who, self._ask, run)
        printed = text_of(result.stdout, cut=True) if result.stdout_cut else before
        return dataclasses.replace(outcome, output=printed or None, truncated=result.stdout_cut)

    def missing(self) -> str | None:
        """See `NeedsProgram`."""
        try:
            environment = self._environment.for_task(NO_TASK)
            return (
                self._work_area.missing(environment)
                or obstacle(self._command[0], environment.get("PATH"), self._work_area.fixed, self._run_as)
                or (self._checks.missing() if self._checks is not None else None)
            )
        except (EnvironmentRefused, OSError) as error:
            return str(error)

    def dependencies(self) -> Mapping[str, Probe]:
        """See `Depends`."""
        return self._work_area.dependencies(lambda: self._environment.for_task(NO_TASK))

    def _outcome(self, result: ProcessResult, run: Run) -> Outcome:
        program = self._command[0]
        stderr = f": {result.stderr_tail}" if result.stderr_tail else ""
        match result.ended_by:
            case Ending.STOPPED | Ending.ENOUGH:
                return Outcome(OutcomeKind.CANCELLED, error=f"{program} was ended on request: {run.stop.cause}")
            case Ending.WALL:
                why = f"{program} was ended after {run.task.timeout_seconds:g} s (timeout_seconds){stderr}"
                return Outcome(OutcomeKind.TIMED_OUT, error=why, failure_kind=FailureKind.TIMED_OUT)
            case Ending.SILENT:
                why = f"{program} was ended after {self._silence_seconds:g} s without output (silence_seconds){stderr}"
                return Outcome(OutcomeKind.TIMED_OUT, error=why, failure_kind=FailureKind.SILENT)
            case Ending.EXITED if result.returncode == 0:
                as_text = self._checks is not None and self._checks.reads_answer
                read = text_of if as_text else _output
                return Outcome.succeeded(read(result.stdout, cut=result.stdout_cut), truncated=result.stdout_cut)
            case Ending.EXITED if result.returncode == EX_TEMPFAIL:
                return Outcome.infrastructure(f"{program} asks for a later attempt (exit code 75){stderr}")
            case Ending.EXITED:
                how = "failed with" if (result.returncode or 0) >= 0 else "was killed by"
                return Outcome.failed(f"{program} {how} {result.exit_text}{stderr}")


def fill(template: Sequence[str], task: Task) -> tuple[str, ...]:
    """The argv of one task. Raises BadValue. Values are inserted once: a placeholder inside a value stays text."""

    def substitute(match: re.Match[str]) -> str:
        text = _value(match, task)
        if text.startswith("-"):
            raise BadValue(f"the value of {match[0]} begins with '-', so it would be a flag")
        if "\0" in text:
            raise BadValue(f"the value of {match[0]} contains a NUL character, which an argument cannot")
        return text

    return tuple(PLACEHOLDER.sub(substitute, part) for part in template)


def _value(match: re.Match[str], task: Task) -> str:
    field, key = match[1], match[2]
    if field is not None:
        return task.task_id if field == "task_id" else task.task_type
    if not isinstance(task.input_data, dict) or key not in task.input_data:
        raise BadValue(f"input_data has no {key!r}, which {match[0]} needs")
    value = task.input_data[key]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _json(value)
    if not isinstance(value, str):
        raise BadValue(f"input_data[{key!r}] must be text, a number or a boolean, not {_json_name(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadValue(f"input_data[{key!r}] contains half a character (a lone surrogate)") from None
    return value


def _json_name(value: object) -> str:
    return {dict: "an object", list: "a list", type(None): "null"}.get(type(value), type(value).__name__)


def task_json(task: Task, *, answers: bool = False) -> bytes:
    """The task as programs get it on stdin: one JSON object in UTF-8. Raises as `_json`. `answers`: with what earlier runs
    asked, in that order, and the last of it once more. What a task does not use is left out."""
    fields: dict[str, object] = {
        "task_id": task.task_id,
        "task_type": task.task_type,
        "task_description": task.task_description,
        "input_data": task.input_data,
        "attempt": task.attempt,
        "queue": task.queue,
    }
    if answers:
        last = task.answers[-1] if task.answers else None
        fields |= {
            "question": last.question.text if last else None,
            "answer": task.answer,
            "answers": pairs(task.answers),
        }
    if task.needs:
        fields["needs"] = needs_document(task.needs)
    if task.continued is not None:
        fields["continues"] = continued_document(task.continued)
    if task.messages:
        fields["messages"] = messages_document(task.messages)
    # Inside a JSON string, the backslash form of a lone surrogate is also its JSON escape.
    return _json(fields).encode("utf-8", "backslashreplace")


def _json(value: object) -> str:
    """Raises BadValue for a number that JSON does not have; RecursionError for nesting near Python's limit."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise BadValue("input_data, or an output that it was handed, contains a number out of range") from None


def _output(stdout: bytes, *, cut: bool) -> object:
    """The text of stdout, or the object if stdout is exactly one JSON object."""
    text = text_of(stdout, cut=cut)
    if cut or not text.lstrip().startswith("{"):
        return text
    try:
        parsed = json.loads(text, parse_constant=_not_json)
    except (ValueError, RecursionError):
        return text
    return parsed if isinstance(parsed, dict) else text


def _last_line(stdout: bytes) -> tuple[str, str]:
    """What was printed before the last line that is not blank, and that line."""
    before, _, line = text_of(stdout, cut=False).rstrip().rpartition("\n")
    return before, line.strip()


def _ask_form(line: str) -> object:
    """The value of `{"ask": …}`. Raises BadQuestion, RecursionError."""
    try:
        found = json.loads(line, parse_constant=_not_json)
    except ValueError:
        raise BadQuestion(f"it is not JSON: {line[:200]!r}" if line else "it printed nothing") from None
    if not isinstance(found, dict) or set(found) != {"ask"}:
        raise BadQuestion('expected an object with the one key "ask"')
    return found["ask"]


def _not_json(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")
