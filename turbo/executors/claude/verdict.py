"""What became of a run of the Claude CLI, decided by one table.

The first row that applies decides. These principles sort the rows:

- The result line decides, never the exit code alone: an interrupted CLI exits with 0, and an API error is a `success`.
- So is a run that stopped because a call was deferred: its `stop_reason` is looked at first.
- A fault in the row's content (the prompt) fails the task, at once if a second attempt must fail as well.
- A fault of the login is not the task's: no attempt is counted, and the account is checked.
- A service that is away or overloaded is not the task's fault either: no attempt is counted, and it is probed.
- A fault of this worker (flags, model, configuration, files) is not the task's either: no attempt is counted, up to a
  cap.

Anything unrecognised is an ordinary failure, which counts. docs/executors.md shows the table to users; a test
compares the two.
"""

import re
import time
from collections.abc import Callable

from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.executors.agent.situation import Situation, ended_by_turbo, error_text, first
from turbo.executors.claude.ended import EndedRun
from turbo.executors.claude.reset import reset_in
from turbo.executors.claude.stream import DEFERRED, DEFERRED_UNAVAILABLE, Transcript, window_and_model
from turbo.process.running import Ending

SIGNALLED = 128
"""An exit code from here on tells of a signal."""


LIMIT = re.compile(
    r"Claude AI usage limit reached|You.ve (hit|reached) your|You.re out of usage|Your org is out of usage"
    r"|Your seat type doesn.t include usage|Your usage allocation has been disabled|Your group.s usage limit is set to"
    r"|API Error: Usage credits ran out"
)
LIMIT_ERRORS = frozenset({"usage_limit_reached", "model_requires_usage_credits", "long_context_credits_required"})

LOGIN = re.compile(
    r"Not logged in|Invalid API key|Failed to authenticate|Login expired|API Error: 40[13]\b|Credit balance is too low"
    r"|Your account does not have access|Your organization has (been )?disabled"
    r"|Your ANTHROPIC_API_KEY belongs to a disabled|API Error: 400 This organization has been disabled"
)
LOGIN_ERRORS = frozenset(
    {
        "authentication_failed",
        "oauth_org_not_allowed",
        "account_on_hold",
        "verification_required",
        "billing_error",
        "cloud_credential_error",
        "org_disabled_credential",
        "api_key_auth_disabled",
        "stored_login_refused",
        "oauth_refresh_store_refused",
        "provider_credentials",
        "gateway_signin_required",
        "gateway_session_expired",
        "invalid_credential_header",
        "named_profile_unusable",
    }
)
SERVER_ERRORS = frozenset({"server_error", "overloaded", "connection_failed"})
SERVER_STATUS = (407, 408, 409, *range(500, 600))
"""407 is a proxy's. The service's own 408 and 409 are temporary, and the CLI retries them too."""

NOT_THE_SERVICE = re.compile(
    r"API Error: (API returned an empty or malformed response|400 Bad Request$|405 Method Not Allowed$)"
)
"""Something else answered, such as a proxy, or the answer broke off. The service explains its own refusals."""
TOO_LONG_ERRORS = frozenset({"message_over_context_limit", "autocompact_thrashing"})
POLICY_ERRORS = frozenset({"dlp_request_denied", "safety_monitor_blocked"})

WORKER = re.compile(
    r"^error: |^Error: --json-schema |cannot be used with root|requires --verbose|Session ID \S+ is already in use|Invalid session ID"
    r"|(env|sh|bash|node): .{0,300}(No such file|not found|command not found)",
    re.MULTILINE,
)
OVERSIZED = "piped stdin input exceeds"
CORRUPT = re.compile(r"Configuration error in |Claude configuration file at .{0,4096} is corrupted")


def _stopped_for(reason: str) -> Callable[[EndedRun], bool]:
    return lambda e: e.result is not None and e.result.stop_reason == reason


def _asked(e: EndedRun) -> bool:
    return e.asked is not None and _stopped_for(DEFERRED)(e)


def _answered(e: EndedRun) -> bool:
    # The CLI may have been ended after its result: it does not exit while a background task of the agent runs.
    return bool(e.result and e.result.succeeded) and (e.returncode == 0 or e.ended_by is not Ending.EXITED)


def _limited(e: EndedRun) -> bool:
    if e.named(LIMIT_ERRORS):
        return True
    if not e.failed or e.error not in (None, "rate_limit", "billing_error"):
        return False
    return bool((e.transcript.limit and e.error == "rate_limit") or LIMIT.match(e.text))


def _logged_out(e: EndedRun) -> bool:
    if e.login_refused or e.named(LOGIN_ERRORS):
        return True
    # The text decides if there is no name (older versions), and for errors named `invalid_request` (2.1.197).
    return e.failed and e.error in (None, "invalid_request") and bool(LOGIN.match(e.text))


def _too_long(e: EndedRun) -> bool:
    if e.result is None:
        return OVERSIZED in e.stderr
    if e.named(TOO_LONG_ERRORS):
        return True
    # 2.1.197 counts tokens itself and prints only this, without a name or a status.
    unnamed = e.error in (None, "invalid_request") and e.text.startswith("Prompt is too long")
    return e.failed and (unnamed or e.result.terminal_reason == "prompt_too_long" or e.result.api_error_status == 413)


def _status(*codes: int) -> Callable[[EndedRun], bool]:
    return lambda e: e.failed and e.result is not None and e.result.api_error_status in codes


def _subtype(name: str) -> Callable[[EndedRun], bool]:
    return lambda e: e.failed and e.result is not None and e.result.subtype == name


def _server(e: EndedRun) -> bool:
    return e.named(SERVER_ERRORS) or _status(*SERVER_STATUS)(e)


def _not_the_service(e: EndedRun) -> bool:
    return e.failed and e.error is None and bool(NOT_THE_SERVICE.match(e.text))


def _kept_retrying(e: EndedRun) -> bool:
    """Its time ran out while it waited for the service: the CLI's last word is that it tries a request again."""
    return e.ended_by in (Ending.WALL, Ending.SILENT) and e.transcript.retrying


def unresumable(e: EndedRun) -> bool:
    """The CLI ended before a resumed session began, for a reason that is neither the service's nor the login's.

    "No conversation found …" is one message of many: the session's file may be gone, unreadable or half written."""
    if not e.resumed or e.transcript.begun or e.ended_by is not Ending.EXITED:
        return False
    by_itself = e.returncode is not None and 0 < e.returncode < SIGNALLED
    return by_itself and judge(e).failure_kind is FailureKind.ERROR


def foreign(e: EndedRun) -> bool:
    """The service refused the first request of a resumed session, as it may if another account has begun the session."""
    return e.resumed and e.transcript.answers == 0 and not _limited(e) and _status(400, 403)(e)


TABLE: tuple[Situation[EndedRun], ...] = (
    # A result that stopped for a deferred call says `success`, so these are first.
    Situation("a person is asked", _asked, OutcomeKind.ASKED),
    Situation(
        "a call deferred by a hook that is not turbo's",
        _stopped_for(DEFERRED),
        OutcomeKind.FAILED,
        FailureKind.ERROR,
        ends_session=True,
        message="a hook in the CLI's own settings deferred a call, and nobody will answer it: set `ask` for this executor, or "
        "remove that hook",
    ),
    Situation(
        "a deferred call cannot be carried out",
        _stopped_for(DEFERRED_UNAVAILABLE),
        OutcomeKind.FAILED,
        FailureKind.ERROR,
        ends_session=True,
    ),
    Situation(
        "CLI cannot hold calls for approval",
        lambda e: e.unfit is not None,
        OutcomeKind.INFRASTRUCTURE,
        FailureKind.INFRASTRUCTURE,
        message="this Claude CLI gets no task of an executor with `ask`",
    ),
    Situation(
        "a local command of the CLI ran, no agent",
        lambda e: bool(e.result and e.result.local_command),
        OutcomeKind.FAILED,
        FailureKind.BAD_REQUEST,
        final=True,
        message="the CLI took the text for one of its own commands, so no agent has seen it",
    ),
    Situation("answered", _answered, OutcomeKind.SUCCEEDED),
    Situation(
        "credits required",
        lambda e: e.failed and e.transcript.credits_required,
        OutcomeKind.USAGE_LIMITED,
        FailureKind.USAGE_LIMIT,
        message="the service wants credits for this account: buy some or wait for the next period, then turbo resume --account",
    ),
    Situation("usage limit", _limited, OutcomeKind.USAGE_LIMITED, FailureKind.USAGE_LIMIT),
    Situation(
        "login refused, no credit, organisation disabled", _logged_out, OutcomeKind.AUTH_FAILED, FailureKind.AUTH
    ),
    Situation(
        "refused by the model or a policy",
        lambda e: e.named(POLICY_ERRORS) or (e.failed and e.result is not None and e.result.stop_reason == "refusal"),
        OutcomeKind.FAILED,
        FailureKind.REFUSED,
        ends_session=True,
    ),
    Situation("out of turns", _subtype("error_max_turns"), OutcomeKind.FAILED, FailureKind.MAX_TURNS),
    Situation("out of budget", _subtype("error_max_budget_usd"), OutcomeKind.FAILED, FailureKind.BUDGET, final=True),
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
        lambda e: e.named({"model_not_found"}),
        OutcomeKind.INFRASTRUCTURE,
        FailureKind.INFRASTRUCTURE,
        message="the executor's model cannot be used: check `model` in worker.yaml",
    ),
    Situation(
        "CLI too old for the service",
        lambda e: e.named({"claude_code_version_too_old"}),
        OutcomeKind.INFRASTRUCTURE,
        FailureKind.INFRASTRUCTURE,
        message="update the Claude CLI on this host",
    ),
    Situation(
        "rate limited (429)",
        lambda e: e.named({"rate_limit"}) or _status(429)(e),
        OutcomeKind.UNAVAILABLE,
        FailureKind.UNAVAILABLE,
    ),
    Situation("overloaded (529)", _status(529), OutcomeKind.UNAVAILABLE, FailureKind.UNAVAILABLE),
    Situation("server or network error", _server, OutcomeKind.UNAVAILABLE, FailureKind.UNAVAILABLE),
    Situation(
        "answer of a proxy, or a broken one",
        _not_the_service,
        OutcomeKind.UNAVAILABLE,
        FailureKind.UNAVAILABLE,
    ),
    Situation(
        "request refused (400)",
        lambda e: _status(400)(e) and not e.conversation,
        OutcomeKind.FAILED,
        FailureKind.BAD_REQUEST,
        final=True,
    ),
    Situation(
        "conversation refused (400)", _status(400), OutcomeKind.FAILED, FailureKind.BAD_REQUEST, ends_session=True
    ),
    Situation(
        "configuration file corrupt",
        lambda e: bool(CORRUPT.search(e.startup_output)),
        OutcomeKind.INFRASTRUCTURE,
        FailureKind.INFRASTRUCTURE,
        message="repair or remove the file on this host",
    ),
    Situation(
        "CLI refuses its flags, its session id or its surroundings",
        lambda e: bool(WORKER.search(e.startup_output)),
        OutcomeKind.INFRASTRUCTURE,
        FailureKind.INFRASTRUCTURE,
        message="check the executor's section of worker.yaml",
    ),
    Situation(
        "no answer fits the schema",
        _subtype("error_max_structured_output_retries"),
        OutcomeKind.FAILED,
        FailureKind.ERROR,
    ),
    Situation("failed in another way", lambda e: e.failed, OutcomeKind.FAILED, FailureKind.ERROR),
    # From here on there is no result.
    *ended_by_turbo(_kept_retrying),
    Situation(
        "interrupted: exit 0 without a result",
        lambda e: e.returncode == 0 and e.interrupted,
        OutcomeKind.FAILED,
        FailureKind.ERROR,
        message="the CLI ended without a result, as if interrupted",
    ),
    Situation(
        "killed, or crashed",
        lambda _: True,
        OutcomeKind.FAILED,
        FailureKind.ERROR,
        message="the CLI ended without a result",
    ),
)
"""Every situation. The last row always applies."""


def judge(ended: EndedRun) -> Situation[EndedRun]:
    return first(TABLE, ended)


def outcome(ended: EndedRun, *, now: float | None = None) -> Outcome:
    """The outcome of a run, without usage, session and log. `now` is Unix seconds, for reset times given as text."""
    row = judge(ended)
    transcript = ended.transcript
    if row.kind is OutcomeKind.SUCCEEDED:
        assert ended.result is not None
        return Outcome.succeeded(ended.result.text or "", truncated=transcript.truncated)
    if row.kind is OutcomeKind.ASKED:
        return Outcome(row.kind, output=transcript.text or None, truncated=transcript.truncated)
    resets_at = None
    if row.kind is OutcomeKind.USAGE_LIMITED:
        reported = transcript.limit.resets_at if transcript.limit else None
        resets_at = reported if reported is not None else reset_in(ended.text, time.time() if now is None else now)
    return Outcome(
        row.kind,
        output=transcript.text or None,  # the agent's last text: a reader may still want it
        error=_error_text(row, ended),
        failure_kind=row.failure_kind,
        final=row.final,
        truncated=transcript.truncated,
        resets_at=resets_at,
        limited_model=_limited_model(row, transcript),
        needs_credits=row.kind is OutcomeKind.USAGE_LIMITED and transcript.credits_required,
    )


def _limited_model(row: Situation[EndedRun], transcript: Transcript) -> str | None:
    if row.kind is not OutcomeKind.USAGE_LIMITED or transcript.limit is None or transcript.limit.window is None:
        return None
    return window_and_model(transcript.limit.window)[1] or None


def _error_text(row: Situation[EndedRun], ended: EndedRun) -> str:
    how = ended.exit_text if ended.result is None and ended.ended_by is Ending.EXITED else ""
    return error_text(row.message or f"Claude: {row.name}", ended.unfit, how, ended.text.strip())
