"""Checked work: what must be true of a run's work before its task is completed, and what was found.

    the agent's turn ──succeeded──▶ judged ──all passed──▶ completed
         ▲                            │ one did not pass
         └── feedback, `rounds` times ┤
                                      └── no round left: failed, `unverified`, final

A check is one judgement of the whole, numbered from 1. `output_data.check` tells of the last one, the audit trail of each.
What a check prints, and the names of the files it finds, were written by an agent: hostile text wherever they are shown.
"""

from dataclasses import dataclass
from enum import StrEnum

OUTPUT_BYTES = 16 * 1024
"""How much of a check's output is kept: its end."""

WHY_CHARACTERS = 2000
"""Of `WorkCheck.why`."""

FILES_NAMED = 20
"""Protected files that a check names; then their number."""

SECONDS = 900.0
ROUNDS = 3
SCHEMA_ROUNDS = 2
"""Without a `check:` section: so often an answer that does not fit `output_schema` goes back to the agent."""

MOST_ROUNDS = 100


class CheckResult(StrEnum):
    """What a check found: the label `result` of turbo_checks_total, and `detail.result` of the audit trail."""

    PASSED = "passed"
    FAILED = "failed"  # the command ended, but not with exit code 0
    TIMED_OUT = "timed_out"  # the command did not end in time
    UNMET = "unmet"  # something that `requires` names is missing
    PROTECTED = "protected"  # a protected file was changed
    UNFIT = "unfit"  # the answer does not fit `output_schema`
    REJECTED = "rejected"  # the reviewer said no


class Requirement(StrEnum):
    """What `check.requires` may ask of a workspace."""

    COMMIT = "commit"  # the task has made a commit
    CHANGES = "changes"  # it has changed a file, committed or not
    CLEAN = "clean"  # nothing is uncommitted


@dataclass(frozen=True, slots=True)
class CheckPolicy:
    """The section `check:` of an executor. `command`: argv, empty for none. `executor`: the name of the one that reviews. `seconds`
    limits either. `rounds`: how often the agent gets another turn. `protect`: patterns of files that the task must not change.
    `baseline`: the command also runs once before the agent."""

    command: tuple[str, ...] = ()
    executor: str | None = None
    seconds: float = SECONDS
    rounds: int = ROUNDS
    requires: tuple[Requirement, ...] = ()
    protect: tuple[str, ...] = ()
    baseline: bool = False


@dataclass(frozen=True, slots=True)
class WorkCheck:
    """One check. `number` counts those of a task from 1; `fencing_token` is the claim in which it was made. `exit_code`: of the
    command, negative for a signal; None where none ran to its end. `output`: the end of what it printed, at most OUTPUT_BYTES.
    `requires`: what is missing of it. `protect`: the protected files that were changed, at most FILES_NAMED. `why`: for people
    and for the agent, empty where it passed. `by`: the reviewing executor. `log`: the file with all that the command
    printed. `ended_at`: ISO 8601, on the host's clock."""

    number: int
    fencing_token: int
    result: CheckResult
    why: str = ""
    exit_code: int | None = None
    seconds: float = 0.0
    output: str = ""
    requires: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    by: str | None = None
    log: str | None = None
    ended_at: str = ""

    @property
    def passed(self) -> bool:
        return self.result is CheckResult.PASSED

    def trail(self, executor: str) -> dict[str, object]:
        """For the row `checked` of the audit trail (turbo/sql/tasks/checked.sql). `executor`: whose work was checked."""
        detail: dict[str, object] = {
            "executor": executor,
            "number": self.number,
            "passed": self.passed,
            "result": self.result.value,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 3),
            "why": self.why or None,
            "reviewer": self.by,
            "ended_at": self.ended_at or None,
        }
        return {"token": self.fencing_token, "detail": {k: v for k, v in detail.items() if v is not None}}


@dataclass(frozen=True, slots=True)
class Baseline:
    """The command's run before the agent's first turn. `output`, `exit_code`: as of a WorkCheck."""

    passed: bool
    exit_code: int | None
    seconds: float
    output: str

    def document(self) -> dict[str, object]:
        return {
            "passed": self.passed,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 3),
            "output": self.output,
        }


@dataclass(frozen=True, slots=True)
class Checked:
    """All checks of a task so far, those of its earlier runs included, in their order. `decided`: the last one decided what became
    of the task; otherwise its run ended before a check could. `unmade`: the check that could not be made, with what its program
    printed; it is not one of `checks`."""

    checks: tuple[WorkCheck, ...] = ()
    baseline: Baseline | None = None
    decided: bool = False
    unmade: WorkCheck | None = None

    @property
    def passed(self) -> bool:
        return self.decided and bool(self.checks) and self.checks[-1].passed

    def document(self) -> dict[str, object]:
        """`output_data.check`."""
        last = self.unmade or (self.checks[-1] if self.checks else None)
        document: dict[str, object] = {
            "passed": self.passed,
            "rounds": self.checks[-1].number if self.checks else 0,
            "exit_code": last.exit_code if last else None,
            "output": last.output if last else "",
            "seconds": round(last.seconds, 3) if last else 0.0,
            "requires": list(last.requires) if last else [],
            "protect": list(last.protect) if last else [],
            "why": (last.why or None) if last else None,
        }
        if last is not None and last.by is not None:
            document["reviewer"] = last.by
        if last is not None and last.log is not None:
            document["log"] = last.log
        if self.baseline is not None:
            document["baseline"] = self.baseline.document()
        return document


def cut_at_start(text: str, most_bytes: int = OUTPUT_BYTES) -> str:
    """The end of a text, at most that many bytes of UTF-8."""
    data = text.encode("utf-8", "replace")
    return text if len(data) <= most_bytes else data[-most_bytes:].decode("utf-8", "ignore")
