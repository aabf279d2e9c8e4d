"""What is known of a task's checks, kept beside its logs for the runs after this one.

    the agent is done ──written──▶ check ──written──▶ feedback is due ──▶ the agent's next turn …      verdict ──▶ removed
         └── the worker stops or dies ──▶ the next run goes straight to the check      └── … ──▶ it resumes the session with it

A program may have written the file, because it often runs as the worker's user. So nothing in it passes a check: a check that
passed is not taken over, and what was judged before is history. A file that is too large, damaged, or of another text of the
task counts as none; then the run begins as any other.

What was used is told by one run only. The file has what no run has told yet, and whose it is: the claim's whose token it has. A
later claim takes it over (`take_over`); a run that is lost, or killed while its worker goes on, takes it out (`take_usage`), unless
a later claim was there first. So none writes, or removes, the file of a claim later than its own.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import Any

from turbo.domain.check import FILES_NAMED, OUTPUT_BYTES, WHY_CHARACTERS, Baseline, CheckResult, WorkCheck, cut_at_start
from turbo.domain.outcome import ModelUsage, Outcome
from turbo.domain.task import Task
from turbo.executors.checks.kept_usage import MOST_KEPT, documents, usage_in
from turbo.host import json_file
from turbo.host.atomic_file import write_atomically

log = logging.getLogger(__name__)

NAME = "check.json"
FORMAT = 1
MOST_BYTES = 64 * 1024 * 1024
"""The longest line of an agent, 16 MiB, takes three times as much here; the rest is little beside it."""

MOST_CHECKS = 1000
MOST_SECONDS = 1e9
MOST_NUMBER = 10**6
FEEDBACK_CHARACTERS = 256 * 1024
SESSION_CHARACTERS = 200
KEPT = ("session_id", "model", "num_turns", "permission_denials")
"""What of `Outcome.extra` is kept with an outcome."""


@dataclass(frozen=True, slots=True)
class Known:
    """`checks`: without what earlier ones than the last have printed. `done`: the agent's outcome, if it was done and is to be judged.
    `feedback`: what it is to be told next, '' where only messages wait; None: nothing is due. `session`: in which. `usage`: what no
    run has told yet. `begun`: the agent may have begun, so that no baseline can be taken any more. `rests`: how often in a row the
    check could not be made."""

    checks: tuple[WorkCheck, ...] = ()
    baseline: Baseline | None = None
    done: Outcome | None = None
    feedback: str | None = None
    session: str | None = None
    usage: tuple[ModelUsage, ...] = ()
    begun: bool = False
    rests: int = 0


class Noted(Enum):
    """What became of a state that was to be kept."""

    KEPT = auto()
    LATER = auto()  # a later claim's state is there, and stays
    LOST = auto()  # nothing is there


class StateFile:
    """Of one task on this host, for one of its runs. `directory` has its logs. Blocks on the disk. May be used by several threads: a
    run that is killed does not wait for the one that writes for it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._one_by_one = threading.Lock()
        self._over = False  # the run has told what it used

    def take_over(self, task: Task) -> Known | None:
        """`read`, and from now on this run tells what was used."""
        known = self.read(task)
        if known is not None and known.usage:
            self.write(task, known)
        return known

    def read(self, task: Task) -> Known | None:
        """What an earlier run of this task has left; None: nothing, or nothing that can be used."""
        try:
            fields = json_file.read(self._path, MOST_BYTES)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("what is known of its checks cannot be used: %s", error, extra={"task": task.task_id})
            return None
        try:
            return _known(fields, task)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            log.warning("%s is not turbo's: %s", self._path, error, extra={"task": task.task_id})
            return None

    def write(self, task: Task, known: Known) -> Noted:
        """On disk when it returns. Never raises: without it, a later run begins with the agent, as it does where the answer is too
        large to be kept."""
        earlier, last = known.checks[-MOST_CHECKS:-1], known.checks[-1:]
        document = {
            "format": FORMAT,
            "text": text_hash(task),
            "token": task.fencing_token,
            "checks": [asdict(replace(check, output="")) for check in earlier] + [asdict(check) for check in last],
            "baseline": None if known.baseline is None else asdict(known.baseline),
            "done": None if known.done is None else _done(known.done),
            "feedback": None if known.feedback is None else known.feedback[:FEEDBACK_CHARACTERS],
            "session": known.session,
            "begun": known.begun,
            "rests": known.rests,
            "usage": documents(known.usage),
        }
        with self._one_by_one:
            if self._over or self._is_later(task):
                return Noted.LATER
            return self._replace(task, document)

    def take_usage(self, task: Task) -> bool:
        """Take out what was used: the run of `task` tells it, and writes no more. False where another run does, because a later claim
        has the file, or has removed it. Never raises."""
        with self._one_by_one:
            self._over = True
            return self._take_usage(task)

    def _take_usage(self, task: Task) -> bool:
        try:
            fields = json_file.read(self._path, MOST_BYTES)
            if json_file.whole(fields, "token", 0, 2**63 - 1) > task.fencing_token:
                return False
        except FileNotFoundError:
            return False
        except (OSError, ValueError):
            return True  # no run can read it
        self._replace(task, {**fields, "usage": []})
        return True

    def remove(self, task: Task) -> None:
        """Unless it is a later claim's. Never raises."""
        if not self._is_later(task):
            self._unlink()

    def _is_later(self, task: Task) -> bool:
        try:
            fields = json_file.read(self._path, MOST_BYTES)
            return json_file.whole(fields, "token", 0, 2**63 - 1) > task.fencing_token
        except (OSError, ValueError):
            return False

    def _replace(self, task: Task, document: Mapping[str, object]) -> Noted:
        try:
            text = json.dumps(document)
            if len(text) > MOST_BYTES:
                what = f"its answer takes {len(text):,} bytes, more than {MOST_BYTES:,}: if this run is cut off, its agent begins again"
                log.warning(
                    "the state of its checks is kept without the answer: %s", what, extra={"task": task.task_id}
                )
                text = json.dumps({**document, "done": None})
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self._path, text, durable=True)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            log.warning("what is known of its checks cannot be kept: %s", error, extra={"task": task.task_id})
            self._unlink()
            return Noted.LOST
        return Noted.KEPT

    def _unlink(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be removed: %s", self._path, error)


def text_hash(task: Task) -> str:
    """Of what the task asks for: a state belongs to one text."""
    data = json.dumps([task.task_id, task.task_description, task.input_data], sort_keys=True, default=str)
    return hashlib.sha256(data.encode("utf-8", "surrogatepass")).hexdigest()


def _done(outcome: Outcome) -> dict[str, object]:
    return {
        "output": outcome.output,
        "truncated": outcome.truncated,
        "extra": {name: outcome.extra[name] for name in KEPT if name in outcome.extra},
    }


def _known(fields: Mapping[str, Any], task: Task) -> Known | None:
    """Raises ValueError, TypeError, KeyError."""
    if json_file.whole(fields, "format", 0, 2**31) != FORMAT or fields.get("text") != text_hash(task):
        return None
    if json_file.whole(fields, "token", 0, 2**63 - 1) > task.fencing_token:
        return None
    session = _optional_text(fields, "session", SESSION_CHARACTERS)
    if session is not None and session != (task.agent_session_id or (session if task.infra_count else None)):
        return None  # a worker that died could not write it into the row; otherwise a person has asked for another one
    checks = [_check(one, task) for one in _list(fields, "checks", MOST_CHECKS)]
    known = Known(
        checks=tuple(check for check in checks if not check.passed),
        baseline=None if fields["baseline"] is None else _baseline(_object(fields, "baseline")),
        feedback=_optional_text(fields, "feedback", FEEDBACK_CHARACTERS),
        session=session,
        begun=fields.get("begun") is not False,
        rests=json_file.whole(fields, "rests", 0, MOST_NUMBER, 0),
        usage=usage_in(_list(fields, "usage", MOST_KEPT)),
    )
    if fields["done"] is None:
        return known
    done = _object(fields, "done")
    outcome = replace(
        Outcome.succeeded(done["output"], truncated=done.get("truncated") is True),
        session_id=session,
        extra={name: value for name, value in _object(done, "extra").items() if name in KEPT and _plain(value)},
    )
    return replace(known, done=outcome)


def _check(fields: Any, task: Task) -> WorkCheck:
    if not isinstance(fields, dict):
        raise ValueError("a check is not an object")
    code = fields.get("exit_code")
    return WorkCheck(
        number=json_file.whole(fields, "number", 1, MOST_NUMBER),
        fencing_token=json_file.whole(fields, "fencing_token", 1, max(1, task.fencing_token)),
        result=CheckResult(json_file.text(fields, "result")),
        why=json_file.text(fields, "why")[:WHY_CHARACTERS],
        exit_code=None if code is None else json_file.whole(fields, "exit_code", -1000, 1000),
        seconds=json_file.real(fields, "seconds", 0.0, MOST_SECONDS),
        output=cut_at_start(json_file.text(fields, "output"), OUTPUT_BYTES),
        requires=_texts(fields, "requires"),
        protect=_texts(fields, "protect"),
        by=None if fields.get("by") is None else json_file.text(fields, "by")[:SESSION_CHARACTERS],
        log=_optional_text(fields, "log", 4096),
        ended_at=json_file.text(fields, "ended_at", "")[:40],
    )


def _baseline(fields: Mapping[str, Any]) -> Baseline:
    code = fields.get("exit_code")
    return Baseline(
        passed=fields.get("passed") is True,
        exit_code=None if code is None else json_file.whole(fields, "exit_code", -1000, 1000),
        seconds=json_file.real(fields, "seconds", 0.0, MOST_SECONDS),
        output=cut_at_start(json_file.text(fields, "output"), OUTPUT_BYTES),
    )


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(fields[name], dict):
        raise ValueError(f"{name} is not an object")
    found: Mapping[str, Any] = fields[name]
    return found


def _list(fields: Mapping[str, Any], name: str, most: int) -> list[Any]:
    if not isinstance(fields[name], list) or len(fields[name]) > most:
        raise ValueError(f"{name} is not a list of at most {most}")
    return list(fields[name])


def _texts(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    texts = _list(fields, name, FILES_NAMED)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} is not a list of texts")
    return tuple(text[:SESSION_CHARACTERS] for text in texts)


def _optional_text(fields: Mapping[str, Any], name: str, most: int) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"{name} is not a text of at most {most} characters")
    return value


def _plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= SESSION_CHARACTERS
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**31
