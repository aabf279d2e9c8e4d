"""The end of one run in the form that the spool keeps and the database gets."""

from dataclasses import dataclass, field
from typing import Any

from turbo.domain.usage import UsageRow


@dataclass(slots=True)  # written once; frozen, it would cost a light run 1.6 us more
class RunResult:
    """The end of one run.

    `outcome` is an OutcomeKind's value. `output` is the whole of output_data. `execution_ms` is in milliseconds,
    `retry_delay_seconds` in seconds. `final`: no further attempt. `uncounted`: the task goes back as it was, because its
    account is paused; if `unavailable`, it rests for the delay first. `agent_session_id`: the session a retry resumes; '' forbids
    that, None leaves it open.
    `question` is what the outcome `asked` asks (turbo.domain.question), `answer_within` how long its answer counts, in seconds;
    None: for ever. `checks`: for the rows `checked` of the audit trail (turbo.domain.check.WorkCheck.trail). `usage`: what the run
    used, for the ledger. `finished_at` is the host's clock when the result was put on disk, for people.
    """

    task_id: str
    fencing_token: int
    outcome: str
    output: dict[str, Any] | None = None
    error: str | None = None
    failure_kind: str | None = None
    execution_ms: int = 0
    retry_delay_seconds: float = 0.0
    final: bool = False
    uncounted: bool = False
    agent_session_id: str | None = None
    finished_at: str = ""
    worker_id: str = ""
    queue: str = "default"
    executor: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    question: dict[str, Any] | None = None
    answer_within: float | None = None
    checks: list[dict[str, Any]] = field(default_factory=list)
    usage: tuple[UsageRow, ...] = ()
