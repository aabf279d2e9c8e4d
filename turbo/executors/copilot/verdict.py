"""What became of a run of the Copilot CLI, decided by one table. The first row that applies decides.

- stdout says why a turn failed: a kind of error, the service's code, the HTTP status. How the last answer ended is in the session's
  file: the CLI exits 0 also when the service cut it off.
- A fault in the row's content (the prompt) fails the task, at once if a second attempt must fail as well.
- A fault of the login, of the service or of this worker is not the task's: no attempt is counted.

Anything unrecognised is an ordinary failure, which counts. docs/executors/copilot.md shows the table to users; a test compares the two.
"""

import re
import time

from turbo.domain.dependency import family
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.executors.agent.situation import Situation, ended_by_turbo, error_text, first
from turbo.executors.copilot.ended import EndedCopilot
from turbo.executors.copilot.reset import reset_in
from turbo.process.running import Ending

QUOTA, RATE, CONTEXT = "quota", "rate_limit", "context_limit"
REFUSED_LOGIN = ("authentication", "authorization", "policy")
LOGIN_STATUS = (401, 403)
MONTHLY = ("quota_exceeded", "free_quota_exceeded")
"""Codes of a quota that the next month renews. Any other ends only when a person acts."""

SESSION_BUDGET = "session_quota_exceeded"
OF_ONE_MODEL = ("user_model_rate_limited", "integration_rate_limited")

NO_LOGIN = re.compile(r"No authentication information found|Authentication failed|Access denied by policy")
NO_SERVICE = re.compile(r"Failed to load models")
"""Before the agent begins, the CLI asks which models there are."""

TOO_LONG = re.compile(
    r"exceeds the model's prompt budget|rejected the prompt as too long|maximum context length|token count of \d+ exceeds"
)
TOO_LONG_CODE = ("context_length_exceeded", "model_max_prompt_tokens_exceeded")
NO_MODEL = re.compile(
    r"Model '.{1,200}' (?:not found|from )|model .{0,200}is not (?:supported|available)", re.IGNORECASE
)
REFUSED_STATUS = (400, 413, 422)
PROXY_STATUS = (404, 407, 408, 409)
"""404 is not the service's for a model that it does not know: that has a text. The others are temporary."""

GAVE_UP = re.compile(r"Failed to get response from the AI model|Could not connect to")
UNKNOWN_SESSION = "No session, task, or name matched"
CUT_OFF, FILTERED = "length", "content_filter"


def _turn_over(e: EndedCopilot) -> bool:
    ended = e.stream.exit_code == 0 if e.stream.over else e.stream.idle
    return ended and not e.failed and not e.stream.aborted and (e.returncode == 0 or e.ended_by is not Ending.EXITED)


def _reset(e: EndedCopilot) -> bool:
    return reset_in(e.text, 0.0) is not None


def _limited(e: EndedCopilot) -> bool:
    return (e.kind == QUOTA and e.code in MONTHLY) or (e.kind == RATE and _reset(e))


def _login(e: EndedCopilot) -> bool:
    return e.kind in REFUSED_LOGIN or e.status in LOGIN_STATUS or bool(NO_LOGIN.search(e.startup_output))


def _too_long(e: EndedCopilot) -> bool:
    return e.kind == CONTEXT or (e.failed and (e.code in TOO_LONG_CODE or bool(TOO_LONG.search(e.text))))


def _model(e: EndedCopilot) -> bool:
    return bool(NO_MODEL.search(e.text)) and (e.failed or bool(e.startup_output))


def _away(e: EndedCopilot) -> bool:
    if not e.failed:
        return bool(NO_SERVICE.search(e.startup_output))
    if e.status is None:
        return bool(GAVE_UP.search(e.text))
    return e.status >= 500 or e.status in PROXY_STATUS


def _kept_retrying(e: EndedCopilot) -> bool:
    return e.ended_by in (Ending.WALL, Ending.SILENT) and e.stream.retrying


def unresumable(e: EndedCopilot) -> bool:
    """The session is not here any more: the CLI ended before it had the prompt."""
    return e.resumed and UNKNOWN_SESSION in e.startup_output


def foreign(e: EndedCopilot) -> bool:
    """The service refused the first request of a resumed session, as it may if another account has begun it."""
    return e.resumed and e.stream.items == 0 and e.status in (400, 403)


TABLE: tuple[Situation[EndedCopilot], ...] = (
    Situation(
        "refused by a policy",
        lambda e: _turn_over(e) and e.used.finish == FILTERED,
        OutcomeKind.FAILED,
        FailureKind.REFUSED,
        ends_session=True,
        message="the service's content filter has cut the answer off",
    ),
    Situation(
        "answer cut off by its length",
        lambda e: _turn_over(e) and e.used.finish == CUT_OFF,
        OutcomeKind.FAILED,
        FailureKind.ERROR,
        message="the agent's last answer has reached the model's limit, and is not whole",
    ),
    Situation("answered", _turn_over, OutcomeKind.SUCCEEDED),
    Situation(
        "spending limit of the session",
        lambda e: e.failed and (e.stream.spent is not None or (e.kind == QUOTA and e.code == SESSION_BUDGET)),
        OutcomeKind.FAILED,
        FailureKind.BUDGET,
        final=True,
        ends_session=True,
    ),
    Situation("usage limit", _limited, OutcomeKind.USAGE_LIMITED, FailureKind.USAGE_LIMIT),
    Situation(
        "no plan, no billing, or a spend cap",
        lambda e: e.kind == QUOTA or e.status == 402,
        OutcomeKind.USAGE_LIMITED,
        FailureKind.USAGE_LIMIT,
        message="the service takes no more requests of this account until somebody pays or raises a cap: do that, then turbo resume "
        "--account",
    ),
    Situation("rate limited (429)", lambda e: e.kind == RATE, OutcomeKind.UNAVAILABLE, FailureKind.UNAVAILABLE),
    Situation("login refused", _login, OutcomeKind.AUTH_FAILED, FailureKind.AUTH),
    Situation(
        "prompt too long",
        lambda e: _too_long(e) and not e.conversation,
        OutcomeKind.FAILED,
        FailureKind.BAD_REQUEST,
        final=True,
    ),
    Situation("conversation grown too long", _too_long, OutcomeKind.FAILED, FailureKind.BAD_REQUEST, ends_session=True),
    Situation(
        "model unknown or not for this account",
        _model,
        OutcomeKind.INFRASTRUCTURE,
        FailureKind.INFRASTRUCTURE,
        message="the executor's model cannot be used: check `model` in worker.yaml",
    ),
    Situation(
        "request refused",
        lambda e: e.status in REFUSED_STATUS and not e.conversation,
        OutcomeKind.FAILED,
        FailureKind.BAD_REQUEST,
        final=True,
    ),
    Situation(
        "conversation refused",
        lambda e: e.status in REFUSED_STATUS,
        OutcomeKind.FAILED,
        FailureKind.BAD_REQUEST,
        ends_session=True,
    ),
    Situation("server or network error", _away, OutcomeKind.UNAVAILABLE, FailureKind.UNAVAILABLE),
    Situation("failed in another way", lambda e: e.failed, OutcomeKind.FAILED, FailureKind.ERROR),
    # From here on the CLI has not said how the turn ended.
    *ended_by_turbo(_kept_retrying),
    Situation(
        "CLI refuses its flags, its configuration or its directory",
        lambda e: bool(e.startup_output),
        OutcomeKind.INFRASTRUCTURE,
        FailureKind.INFRASTRUCTURE,
        message="check the executor's section of worker.yaml, and the files in COPILOT_HOME",
    ),
    Situation(
        "interrupted: the turn has no end",
        lambda e: e.returncode is not None and e.returncode >= 0,
        OutcomeKind.FAILED,
        FailureKind.ERROR,
        message="the CLI ended in the middle of a turn, as if interrupted",
    ),
    Situation(
        "killed, or crashed",
        lambda _: True,
        OutcomeKind.FAILED,
        FailureKind.ERROR,
        message="the CLI ended in the middle of a turn",
    ),
)
"""Every situation. The last row always applies."""


def judge(ended: EndedCopilot) -> Situation[EndedCopilot]:
    return first(TABLE, ended)


def outcome(ended: EndedCopilot, *, now: float | None = None) -> Outcome:
    """The outcome of a run, without usage, session and log. `now` is Unix seconds, for reset times given as text."""
    row, stream = judge(ended), ended.stream
    if row.kind is OutcomeKind.SUCCEEDED:
        return Outcome.succeeded(stream.text, truncated=stream.truncated)
    limited = row.kind is OutcomeKind.USAGE_LIMITED
    needs_credits = limited and not _limited(ended)
    how = ended.exit_text if not ended.failed and ended.ended_by is Ending.EXITED else ""
    return Outcome(
        row.kind,
        output=stream.text or None,  # the agent's last text: a reader may still want it
        error=error_text(row.message or f"Copilot: {row.name}", how, stream.spent or ended.text.strip()),
        failure_kind=row.failure_kind,
        final=row.final,
        truncated=stream.truncated,
        resets_at=reset_in(ended.text, time.time() if now is None else now) if limited else None,
        limited_model=family(stream.model) if limited and ended.code in OF_ONE_MODEL else None,
        needs_credits=needs_credits,
    )
