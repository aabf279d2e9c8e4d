"""What became of a run of the Codex CLI, decided by one table. The first row that applies decides.

- stdout says that a turn failed, the rollout file says why: an error's name, and the status of the service.
- A fault in the row's content (the prompt) fails the task, at once if a second attempt must fail as well.
- A fault of the login, of the service or of this worker is not the task's: no attempt is counted.

Anything unrecognised is an ordinary failure, which counts. docs/executors/codex.md shows the table to users; a test compares the two.
"""

import json
import re
import time
from collections.abc import Callable

from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.executors.agent.situation import Situation, ended_by_turbo, error_text, first
from turbo.executors.codex.ended import EndedCodex
from turbo.executors.codex.reset import reset_in
from turbo.process.running import Ending

LIMIT = re.compile(r"You.ve hit your usage limit(?: for (?P<model>\S{1,200})\.)?")
LIMITED = "usage_limit_exceeded"
PERSON = (
    "workspace_owner_credits_depleted",
    "workspace_member_credits_depleted",
    "workspace_member_usage_limit_reached",
)
"""Kinds of limits that end only when a person acts."""

NO_KEY = re.compile(r"Missing environment variable: ")
POLICY = ("cyber_policy", "bio_policy", "invalid_prompt")
OVERSIZED = "Input exceeds the maximum length of"
NOT_THIS_MODEL = re.compile(r"is not supported when using Codex")
NETWORK = re.compile(
    r"stream disconnected|Connection failed|.{0,200}idle timeout waiting for SSE|error sending request"
)
AWAY = (
    "internal_server_error",
    "http_connection_failed",
    "response_stream_connection_failed",
    "response_stream_disconnected",
)
RETRIED_429 = "last status: 429"
REFUSED_STATUS = (400, 413, 422)
PROXY_STATUS = (404, 407, 408, 409)
"""404 is not the service's for a model that it does not know: that has a name. The others are temporary."""

LOGIN_STATUS = (401, 403)

UNKNOWN_THREAD = "no rollout found for thread id"
IN_USE = "already has an active writer"
USAGE_EXIT = 2


def _info(*names: str) -> Callable[[EndedCodex], bool]:
    return lambda e: e.info in names


def _status(*codes: int) -> Callable[[EndedCodex], bool]:
    return lambda e: e.status in codes


def _asked(e: EndedCodex) -> bool:
    return e.asks and bool(e.rollout.questions) and _turn_over(e)


def _turn_over(e: EndedCodex) -> bool:
    return e.stream.completed and (e.returncode == 0 or e.ended_by is not Ending.EXITED)


def _limited(e: EndedCodex) -> bool:
    return e.info == LIMITED or (e.failed and e.info is None and bool(LIMIT.match(e.text)))


def _a_person_must_act(e: EndedCodex) -> bool:
    if e.status == 402:
        return True
    return _limited(e) and (e.rollout.reached in PERSON or not LIMIT.match(e.text))


def _too_long(e: EndedCodex) -> bool:
    return e.info == "context_window_exceeded" or OVERSIZED in e.startup_output


def _model(e: EndedCodex) -> bool:
    return e.info == "model_not_found" or (e.failed and bool(NOT_THIS_MODEL.search(e.text)))


def _refused(e: EndedCodex) -> bool:
    return e.status in REFUSED_STATUS or (e.info == "other" and _is_object(e.text))


def _is_object(text: str) -> bool:
    try:
        return text.startswith("{") and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _away(e: EndedCodex) -> bool:
    theirs = e.status is None or e.status >= 500 or e.status in PROXY_STATUS
    return e.gave_up or (e.info in AWAY and theirs) or (e.failed and bool(NETWORK.match(e.text)))


def _kept_retrying(e: EndedCodex) -> bool:
    return e.ended_by in (Ending.WALL, Ending.SILENT) and e.stream.retrying


def unresumable(e: EndedCodex) -> bool:
    """The thread is not here any more: the CLI ended before it began."""
    return e.resumed and UNKNOWN_THREAD in e.startup_output


def foreign(e: EndedCodex) -> bool:
    """The service refused the first request of a resumed thread, as it may if another account has begun the thread."""
    return e.resumed and e.stream.items == 0 and e.status in (400, 403)


def in_use(e: EndedCodex) -> bool:
    """Another process writes to the thread."""
    return e.resumed and IN_USE in f"{e.startup_output}{e.stream.failed or ''}"


TABLE: tuple[Situation[EndedCodex], ...] = (
    Situation("a person is asked", _asked, OutcomeKind.ASKED),
    Situation(
        "no sandbox on this host",
        lambda e: e.stream.sandbox_refused is not None,
        OutcomeKind.INFRASTRUCTURE,
        FailureKind.INFRASTRUCTURE,
        message="the sandbox of Codex cannot be made here, so no command of the agent ran: allow user namespaces, or set sandbox: "
        "danger-full-access where a container is the wall",
    ),
    Situation("answered", _turn_over, OutcomeKind.SUCCEEDED),
    Situation(
        "no credits, no plan, or a spend cap",
        _a_person_must_act,
        OutcomeKind.USAGE_LIMITED,
        FailureKind.USAGE_LIMIT,
        message="the service takes no more requests of this account until somebody pays or raises a cap: do that, then turbo resume "
        "--account",
    ),
    Situation("usage limit", _limited, OutcomeKind.USAGE_LIMITED, FailureKind.USAGE_LIMIT),
    Situation(
        "login refused",
        lambda e: e.info == "unauthorized" or e.status in LOGIN_STATUS or (e.failed and bool(NO_KEY.match(e.text))),
        OutcomeKind.AUTH_FAILED,
        FailureKind.AUTH,
    ),
    Situation("refused by a policy", _info(*POLICY), OutcomeKind.FAILED, FailureKind.REFUSED, ends_session=True),
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
        "rate limited (429)",
        lambda e: e.info == "rate_limit_exceeded" or e.status == 429 or (e.gave_up and RETRIED_429 in e.text),
        OutcomeKind.UNAVAILABLE,
        FailureKind.UNAVAILABLE,
    ),
    Situation("overloaded", _info("server_overloaded"), OutcomeKind.UNAVAILABLE, FailureKind.UNAVAILABLE),
    Situation(
        "request refused",
        lambda e: _refused(e) and not e.conversation,
        OutcomeKind.FAILED,
        FailureKind.BAD_REQUEST,
        final=True,
    ),
    Situation("conversation refused", _refused, OutcomeKind.FAILED, FailureKind.BAD_REQUEST, ends_session=True),
    Situation("server or network error", _away, OutcomeKind.UNAVAILABLE, FailureKind.UNAVAILABLE),
    Situation("failed in another way", lambda e: e.failed, OutcomeKind.FAILED, FailureKind.ERROR),
    # From here on the CLI has not said how the turn ended.
    *ended_by_turbo(_kept_retrying),
    Situation(
        "CLI refuses its flags, its configuration or its directory",
        lambda e: e.returncode == USAGE_EXIT or (e.returncode == 1 and bool(e.startup_output)),
        OutcomeKind.INFRASTRUCTURE,
        FailureKind.INFRASTRUCTURE,
        message="check the executor's section of worker.yaml, and config.toml in CODEX_HOME",
    ),
    Situation(
        "interrupted: the turn has no end",
        lambda e: e.returncode in (0, 1),
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


def judge(ended: EndedCodex) -> Situation[EndedCodex]:
    return first(TABLE, ended)


def outcome(ended: EndedCodex, *, now: float | None = None) -> Outcome:
    """The outcome of a run, without usage, session and log. `now` is Unix seconds, for reset times given as text."""
    row, stream = judge(ended), ended.stream
    if row.kind is OutcomeKind.SUCCEEDED:
        return Outcome.succeeded(stream.text, truncated=stream.truncated)
    if row.kind is OutcomeKind.ASKED:
        return Outcome(row.kind, output=stream.text or None, truncated=stream.truncated)
    limited = row.kind is OutcomeKind.USAGE_LIMITED
    needs_credits = limited and _a_person_must_act(ended)
    how = ended.exit_text if not ended.failed and ended.ended_by is Ending.EXITED else ""
    return Outcome(
        row.kind,
        output=stream.text or None,  # the agent's last text: a reader may still want it
        error=error_text(row.message or f"Codex: {row.name}", stream.sandbox_refused, how, ended.text.strip()),
        failure_kind=row.failure_kind,
        final=row.final,
        truncated=stream.truncated,
        resets_at=_resets_at(ended, now) if limited and not needs_credits else None,
        limited_model=_limited_model(ended) if limited and not needs_credits else None,
        needs_credits=needs_credits,
    )


def _resets_at(ended: EndedCodex, now: float | None) -> float | None:
    """The latest reset of the windows that are full; else what the text says."""
    model = _limited_model(ended) or ""
    known = [one.resets_at for one in ended.rollout.full if one.model in ("", model) and one.resets_at is not None]
    return max(known) if known else reset_in(ended.text, time.time() if now is None else now, ended.zone)


def _limited_model(ended: EndedCodex) -> str | None:
    match = LIMIT.match(ended.text)
    return match["model"].lower() if match is not None and match["model"] else None
