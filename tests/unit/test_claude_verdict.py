"""What becomes of a run of the Claude CLI. The texts are the CLI's own, from 2.1.330, 2.1.197 and older versions."""

import json

import pytest

from tests.support.markdown import EXECUTORS, table_under
from tests.support.situations import page_row
from turbo.domain.outcome import FailureKind, OutcomeKind
from turbo.executors.claude.ended import EndedRun
from turbo.executors.claude.stream import Transcript
from turbo.executors.claude.verdict import TABLE, judge, outcome
from turbo.process.running import Ending

NOW = 1795460400.0  # 2026-11-23 19:00:00 UTC


def ended(
    *lines: dict[str, object],
    code: int | None = 1,
    by: Ending = Ending.EXITED,
    stderr: str = "",
    login_refused: bool = False,
) -> EndedRun:
    transcript = Transcript()
    for line in lines:
        transcript.read(json.dumps(line).encode())
    return EndedRun(by, code, transcript, stderr=stderr, exit_text=f"exit code {code}", login_refused=login_refused)


def answer(text: str = "half the work") -> dict[str, object]:
    return {"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": text}]}}


def success(text: str = "done", **more: object) -> dict[str, object]:
    return {"type": "result", "subtype": "success", "is_error": False, "result": text, **more}


def api_error(
    text: str, *, status: int | None = None, error: str | None = None, **more: object
) -> list[dict[str, object]]:
    """The message and the result with which the CLI ends on an API error."""
    body = {"model": "<synthetic>", "content": [{"type": "text", "text": text}]}
    message = {"type": "assistant", "message": body, "error": error}
    result = {"type": "result", "subtype": "success", "is_error": True, "result": text, "api_error_status": status}
    return [message | {k: v for k, v in more.items() if k == "api_error"}, result | more]


def limit_event(**info: object) -> dict[str, object]:
    return {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", **info}}


LOGIN = "login refused, no credit, organisation disabled"
LIMIT = "usage limit"
FLAGS = "CLI refuses its flags, its session id or its surroundings"
INTERRUPTED = "interrupted: exit 0 without a result"
BROKEN = "killed, or crashed"


# ── success ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_result_without_error_and_exit_0_is_success() -> None:
    made = outcome(ended(answer(), success("the answer"), code=0))
    assert (made.kind, made.output, made.error) == (OutcomeKind.SUCCEEDED, "the answer", None)


def test_empty_answer_is_an_answer() -> None:
    assert outcome(ended(success(""), code=0)).output == ""


@pytest.mark.parametrize("by", [Ending.ENOUGH, Ending.STOPPED, Ending.WALL, Ending.SILENT])
def test_cli_ended_after_its_result_has_succeeded(by: Ending) -> None:
    assert judge(ended(success(), code=143, by=by)).kind is OutcomeKind.SUCCEEDED


def test_success_with_an_error_exit_is_a_failure() -> None:
    assert judge(ended(success(), code=3)).name == BROKEN


def test_last_result_decides() -> None:
    broken = {"type": "result", "subtype": "error_max_turns", "is_error": True, "errors": ["Reached …"]}
    assert judge(ended(broken, success(), code=0)).kind is OutcomeKind.SUCCEEDED
    assert judge(ended(success(), broken, code=1)).name == "out of turns"


def test_limit_met_on_the_way_is_not_the_verdict() -> None:
    limited = limit_event(resetsAt=NOW, rateLimitType="five_hour")
    assert judge(ended(limited, answer(), success(), code=0)).kind is OutcomeKind.SUCCEEDED
    broken = api_error("API Error: 500 Internal server error", status=500, error="server_error")
    assert judge(ended(limited, *broken)).name == "server or network error"


# ── the login ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "status", "error"),
    [
        ("Not logged in · Please run /login", None, "authentication_failed"),
        ("Invalid API key · Fix external API key", 401, "authentication_failed"),
        ("Failed to authenticate. API Error: 401 OAuth token has expired.", 401, "authentication_failed"),
        ("Failed to authenticate: OAuth session expired and could not be refreshed", None, "authentication_failed"),
        ("Your organization has disabled Claude subscription access", 403, "oauth_org_not_allowed"),
        ("Credit balance is too low", 400, "billing_error"),
        ("Your ANTHROPIC_API_KEY belongs to a disabled organization · Update …", 400, "invalid_request"),
        ("Something new about a held account", 403, "account_on_hold"),
        # older versions, whose messages carry no name
        ("Invalid API key · Please run /login", None, None),
        ('API Error: 401 {"type":"error","error":{"type":"authentication_error"}} · Please run /login', None, None),
        ("Login expired · Please run /login", None, None),
        ("Your account does not have access to Claude. Please login again", 403, None),
    ],
)
def test_refused_login_is_the_accounts_and_uses_no_attempt(text: str, status: int | None, error: str | None) -> None:
    made = outcome(ended(*api_error(text, status=status, error=error)))
    assert (made.kind, made.failure_kind) == (OutcomeKind.AUTH_FAILED, FailureKind.AUTH)
    assert text in (made.error or "")


def test_typed_error_counts_even_with_unknown_text() -> None:
    lines = api_error("Something new", status=400, error="invalid_request", api_error="org_disabled_credential")
    assert judge(ended(*lines)).name == LOGIN


def test_cli_ended_during_login_retries_is_a_refused_login() -> None:
    assert judge(ended(code=143, by=Ending.ENOUGH, login_refused=True)).name == LOGIN


def test_agent_that_mentions_logins_has_succeeded() -> None:
    assert judge(ended(answer("Not logged in"), success("Not logged in · Please run /login"), code=0)).kind is (
        OutcomeKind.SUCCEEDED
    )


# ── usage limits ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_reset_comes_from_the_event_not_the_text() -> None:
    lines = api_error("You've hit your 5-hour limit · resets 9:47pm (UTC)", status=429, error="rate_limit")
    made = outcome(ended(limit_event(resetsAt=NOW + 5, rateLimitType="five_hour"), *lines), now=NOW)
    assert (made.kind, made.failure_kind) == (OutcomeKind.USAGE_LIMITED, FailureKind.USAGE_LIMIT)
    assert made.resets_at == NOW + 5


@pytest.mark.parametrize(
    ("text", "error", "resets_in"),
    [
        ("You've hit your limit · resets 10pm (UTC)", "rate_limit", 3 * 3600),
        ("You've hit your weekly limit · resets Nov 24, 7pm (UTC)", "rate_limit", 86400),
        ("Claude AI usage limit reached|1795460460", None, 60),
        ("You're out of usage credits", "rate_limit", None),
        ("Your org is out of usage · add funds to continue", "rate_limit", None),
        ("You've hit your monthly spend limit.", "rate_limit", None),
        ("API Error: Usage credits ran out before the response was finished.", "unknown", None),
    ],
)
def test_limit_is_read_from_the_text_without_an_event(text: str, error: str | None, resets_in: float | None) -> None:
    made = outcome(ended(*api_error(text, status=429, error=error)), now=NOW)
    assert made.kind is OutcomeKind.USAGE_LIMITED
    assert made.resets_at == (None if resets_in is None else NOW + resets_in)


def test_plain_429_is_not_a_usage_limit() -> None:
    text = "API Error: Server is temporarily limiting requests (not your usage limit) · Number of requests"
    assert judge(ended(limit_event(), *api_error(text, status=429, error="rate_limit"))).name == "rate limited (429)"


# ── the rest ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("lines", "situation"),
    [
        (
            api_error("API Error: Request rejected (429) · slow down", status=429, error="rate_limit"),
            "rate limited (429)",
        ),
        (api_error("API Error: Repeated 529 Overloaded errors.", status=529, error="server_error"), "overloaded (529)"),
        (api_error("API Error: Repeated 529 Overloaded errors.", error="overloaded"), "server or network error"),
        (api_error("API Error: 503 Service unavailable", status=503), "server or network error"),
        (api_error("API Error: Connection dropped (ECONNRESET).", error="server_error"), "server or network error"),
        (api_error("Request timed out.", error="server_error"), "server or network error"),
        (api_error("Prompt is too long", status=400, terminal_reason="prompt_too_long"), "prompt too long"),
        (api_error("Prompt is too long", error="invalid_request"), "prompt too long"),
        ([answer(), *api_error("new words", api_error="message_over_context_limit")], "conversation grown too long"),
        ([answer(), *api_error("Too long", terminal_reason="prompt_too_long")], "conversation grown too long"),
        (api_error("Request too large (max 32MB).", status=413, error="invalid_request"), "prompt too long"),
        (api_error("API Error: 400 messages.0: bad", status=400, error="unknown"), "request refused (400)"),
        ([answer(), *api_error("API Error: 400 bad", status=400)], "conversation refused (400)"),
        (api_error("flagged", error="invalid_request", stop_reason="refusal"), "refused by the model or a policy"),
        (api_error("blocked", api_error="dlp_request_denied"), "refused by the model or a policy"),
        (
            api_error("There's an issue with the selected model (x).", status=404, error="model_not_found"),
            "model unknown or not for this account",
        ),
        (api_error("too old", api_error="claude_code_version_too_old"), "CLI too old for the service"),
        (api_error("something nobody has seen before", error="quantum_flux"), "failed in another way"),
        ([{"type": "result", "subtype": "error_of_the_future", "is_error": True}], "failed in another way"),
        ([success(local_command="cost")], "a local command of the CLI ran, no agent"),
    ],
)
def test_every_cli_ending_has_a_row(lines: list[dict[str, object]], situation: str) -> None:
    assert judge(ended(*lines)).name == situation


@pytest.mark.parametrize(
    ("seen", "situation"),
    [
        (ended(code=0), INTERRUPTED),
        (ended(answer(), code=0), INTERRUPTED),
        (
            ended({"type": "result", "is_error": True, "terminal_reason": "aborted_streaming"}, code=0),
            INTERRUPTED,
        ),
        (ended(answer(), code=143), BROKEN),
        (ended(code=-9), BROKEN),
        (ended(code=1, stderr="something nobody has seen before"), BROKEN),
        (ended(code=1, stderr="Error: Session ID 1b2c is already in use."), FLAGS),
        (ended(code=1, stderr="error: unknown option '--x'"), FLAGS),
        (ended(code=1, stderr="--dangerously-skip-permissions cannot be used with root/sudo privileges"), FLAGS),
        (ended(code=127, stderr="env: node: No such file or directory"), FLAGS),
        (ended(code=1, stderr="Error: piped stdin input exceeds 10MB. Pass large content"), "prompt too long"),
        (
            ended(code=1, stderr="Claude configuration file at /x/.claude.json is corrupted: JSON Parse error"),
            "configuration file corrupt",
        ),
        (ended(answer(), code=143, by=Ending.WALL), "over its time"),
        (ended(code=143, by=Ending.SILENT), "silent for too long"),
        (ended(answer(), code=143, by=Ending.STOPPED), "ended on request (cancel, drain, lost lease)"),
        (ended(code=None, by=Ending.STOPPED), "ended on request (cancel, drain, lost lease)"),
    ],
)
def test_every_ending_without_a_result_has_a_row(seen: EndedRun, situation: str) -> None:
    assert judge(seen).name == situation


def test_early_result_may_blame_the_worker() -> None:
    told = {
        "type": "result",
        "subtype": "error_during_execution",
        "is_error": True,
        "errors": ["Configuration error in /x"],
    }
    assert judge(ended(told)).name == "configuration file corrupt"
    assert judge(ended({"type": "system", "subtype": "init"}, told)).name == "failed in another way"


def test_agent_stderr_is_not_taken_for_the_clis_after_an_answer() -> None:
    text = "Claude configuration file at /x is corrupted"
    assert judge(ended(answer(), success(), code=0, stderr=text)).kind is OutcomeKind.SUCCEEDED


def test_failure_keeps_what_the_agent_said() -> None:
    exhausted = {"type": "result", "subtype": "error_max_budget_usd", "is_error": True, "errors": ["Reached $5"]}
    made = outcome(ended(answer("a finished answer"), exhausted))
    assert (made.output, made.failure_kind, made.final) == ("a finished answer", FailureKind.BUDGET, True)
    assert "Reached $5" in (made.error or "")


def test_error_tells_the_exit_and_the_cli_output() -> None:
    assert outcome(ended(code=-9, stderr="boom")).error == "the CLI ended without a result: exit code -9: boom"


def test_very_long_error_is_cut() -> None:
    assert len(outcome(ended(code=1, stderr="x" * 100_000)).error or "") == 4000


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_page_shows_the_table_as_it_is() -> None:
    assert table_under(EXECUTORS, "| situation |") == [page_row(row) for row in TABLE]


def test_every_row_was_seen_with_the_real_cli_or_is_listed() -> None:
    """The second table lists what tests/integration/test_claude_cli.py shows with the real CLI."""
    never_seen = {
        "a deferred call cannot be carried out",  # the same run begins a new session
        "conversation grown too long",
        "CLI too old for the service",
        "conversation refused (400)",
        "failed in another way",
        "a local command of the CLI ran, no agent",  # the preamble prevents it
    }
    seen = {cells[1] for cells in table_under(EXECUTORS, "| shown with the real CLI |")}
    assert {row.name for row in TABLE} - seen == never_seen
