"""Every situation that the real Claude CLI can be brought into: what the API answers, and what must come of it."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from tests.support import messages_api
from tests.support.claude import ALLOWED, KEY, OAUTH, RESETS_AT, Bench, bash
from tests.support.claude_asking import ASKS, approving, calls, question
from tests.support.messages_api import Answer
from tests.support.waiting import until_async
from turbo.domain.outcome import ModelUsage, Outcome
from turbo.domain.run import Run
from turbo.domain.states import StopCause
from turbo.executors.agent.prompts import PREAMBLE


@dataclass(frozen=True)
class Scenario:
    """What the API answers, and what else is special. `flags`: of the operator's own, in the executor's command. `before` gets the
    CLI's home; `act` runs beside the task; `after` checks more."""

    answers: tuple[Answer, ...]
    login: dict[str, str] = field(default_factory=lambda: KEY)
    settings: dict[str, object] = field(default_factory=dict)
    prompt: str = "say hello"
    timeout: float = 60.0
    before: Callable[[Path], None] = lambda _home: None
    act: "Callable[[Bench, Run], object] | None" = None
    after: Callable[[Bench, Outcome], None] = lambda _bench, _outcome: None
    stand_in: str | None = None
    flags: tuple[str, ...] = ()


def reset_is_honoured(_bench: Bench, outcome: Outcome) -> None:
    assert outcome.resets_at == RESETS_AT


def usage_is_told(_bench: Bench, outcome: Outcome) -> None:
    assert outcome.output == "hello there"
    assert [replace(u, model="", cost_usd=None) for u in outcome.usage] == [ModelUsage("", 11, 7, 5, 3)]
    assert "sonnet" in outcome.usage[0].model
    assert (outcome.usage[0].cost_usd or 0) > 0


def tool_was_used(bench: Bench, outcome: Outcome) -> None:
    assert (bench.home / "work" / "made.txt").read_text() == "hi\n"
    assert outcome.output == "done"
    assert outcome.extra["num_turns"] == 2
    assert sum(u.output_tokens for u in outcome.usage) == 27
    assert "I will look." in [p.text for p in bench.progress]


def prompt_is_whole(text: str) -> Callable[[Bench, Outcome], None]:
    def check(bench: Bench, _outcome: Outcome) -> None:
        assert len(bench.api.requests) == 1
        assert bench.api.requests[0].prompt.endswith(f"{PREAMBLE}\n\n{text}")

    return check


def no_request(bench: Bench, _outcome: Outcome) -> None:
    assert bench.api.requests == []


def says(*texts: str) -> Callable[[Bench, Outcome], None]:
    """One of them: versions differ in their words."""

    def check(_bench: Bench, outcome: Outcome) -> None:
        assert any(text in (outcome.error or "") for text in texts), outcome.error

    return check


def corrupt(home: Path) -> None:
    (home / ".claude").mkdir()
    (home / ".claude" / ".claude.json").write_text('{"half')


def defers_everything(home: Path) -> None:
    """A hook of the operator's own."""
    says = {"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "defer"}}
    hook = {"type": "command", "command": f"echo '{json.dumps(says)}'"}
    (home / ".claude").mkdir()
    settings = {"hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": [hook]}]}}
    (home / ".claude" / "settings.json").write_text(json.dumps(settings))


OLDER = {
    "type": "control_response",
    "response": {"subtype": "success", "request_id": "turbo-initialize", "response": {"commands": []}},
}
"""What 2.1.197 answers: it says nothing about what happens when a hook fails."""


async def interrupt(bench: Bench, _run: Run) -> None:
    await until_async(lambda: bool(bench.api.requests))
    os.kill(bench.pids[0], signal.SIGINT)


async def kill(bench: Bench, _run: Run) -> None:
    await until_async(lambda: bool(bench.api.requests))
    os.kill(bench.pids[0], signal.SIGKILL)


async def cancel_while_a_tool_runs(bench: Bench, run: Run) -> None:
    await until_async(lambda: (bench.home / "work" / "begun").exists())
    run.stop.set(StopCause.CANCEL)


def no_tool_is_left(bench: Bench, _outcome: Outcome) -> None:
    home = str(bench.home)
    left = [p for p in psutil.process_iter(["cmdline", "cwd"]) if (p.info["cwd"] or "").startswith(home)]
    assert [p for p in left if p.status() != psutil.STATUS_ZOMBIE] == []


MEGABYTE = "0123456789abcdef" * 65536

SCENARIOS = {
    "a question of the agent's": Scenario((calls(question("Which database?")),), settings={"ask": ASKS}),
    "a hook of the operator's own that defers": Scenario(
        (bash("true"),), settings=ALLOWED, before=defers_everything, after=says("a hook in the CLI's own settings")
    ),
    "an approval, with an older CLI (a stand-in for the CLI)": Scenario(
        (messages_api.text("hello"),),
        settings=approving(),
        stand_in=f"read -r line; echo '{json.dumps(OLDER)}'; exec sleep 60",
        after=says("cannot hold calls"),
    ),
    "an answer, with its usage": Scenario(
        (messages_api.text("hello there", cache_read=5, cache_write=3),), after=usage_is_told
    ),
    "a tool is used": Scenario(
        (bash("echo hi > made.txt"), messages_api.text("done")), settings=ALLOWED, after=tool_was_used
    ),
    "a prompt of 1 MB": Scenario(
        (messages_api.text("hello"),),
        settings={"model": "sonnet[1m]"},
        prompt=MEGABYTE,
        after=prompt_is_whole(MEGABYTE),
    ),
    "a prompt that begins with `-`": Scenario(
        (messages_api.text("hello"),), prompt="--model nope -x", after=prompt_is_whole("--model nope -x")
    ),
    "a prompt that begins with `/`": Scenario(
        (messages_api.text("hello"),), prompt="/cost", after=prompt_is_whole("/cost")
    ),
    "a background task outlives the answer": Scenario(
        (bash("sleep 300", run_in_background=True), messages_api.text("hello there")),
        settings={**ALLOWED, "env": {"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "0"}, "leave_seconds": 1.0},
        timeout=600.0,
        after=no_tool_is_left,
    ),
    "the 5-hour limit": Scenario(
        (messages_api.usage_limit("five_hour", RESETS_AT),), login=OAUTH, after=reset_is_honoured
    ),
    "the weekly limit": Scenario(
        (messages_api.usage_limit("seven_day", RESETS_AT),), login=OAUTH, after=reset_is_honoured
    ),
    "the Opus limit": Scenario(
        (messages_api.usage_limit("seven_day_opus", RESETS_AT),),
        login=OAUTH,
        settings={"model": "opus"},
        after=reset_is_honoured,
    ),
    "credits used up": Scenario((messages_api.credits_required(),), login=OAUTH),
    "401 with an API key": Scenario((messages_api.invalid_key(),), after=says("Invalid API key")),
    "an expired OAuth token": Scenario((messages_api.expired_token(),), login=OAUTH, after=says("has expired")),
    "a revoked OAuth token": Scenario(
        (messages_api.revoked_token(),), login=OAUTH, after=says("revoked", "does not have access")
    ),
    "no login": Scenario((messages_api.text("hello"),), login={}, after=no_request),
    "403 for this request": Scenario((messages_api.error(403, "permission_error", "Not with this content."),)),
    "subscription access disabled by the organisation": Scenario(
        (
            messages_api.error(
                403, "permission_error", "OAuth authentication is currently not allowed for this organization."
            ),
        ),
        login=OAUTH,
        after=says("Your organization has disabled Claude subscription access"),
    ),
    "the key's organisation disabled": Scenario(
        (messages_api.error(400, "invalid_request_error", "This organization has been disabled."),),
        after=says("This organization has been disabled"),
    ),
    "credit too low": Scenario(
        (
            messages_api.error(
                400,
                "invalid_request_error",
                "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.",
            ),
        ),
        after=says("Credit balance is too low"),
    ),
    "a refusal": Scenario((messages_api.refusal(),), after=says("safeguards", "Usage Policy")),
    "out of turns": Scenario(
        (bash("true"),), settings={**ALLOWED, "max_turns": 2}, after=says("maximum number of turns")
    ),
    "out of budget": Scenario(
        (messages_api.text("an answer that is dropped", output_tokens=100_000),),
        settings={"max_budget_usd": 0.01},
        after=says("maximum budget"),
    ),
    "a prompt beyond the model's context": Scenario(
        (messages_api.error(400, "invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum"),),
        after=says("Prompt is too long"),
    ),
    "a prompt over 10 MB": Scenario((messages_api.text("hello"),), prompt=MEGABYTE * 11, after=no_request),
    "a model that does not exist": Scenario((messages_api.error(404, "not_found_error", "model: nope"),)),
    "429 with an API key": Scenario((messages_api.error(429, "rate_limit_error", "Too many requests"),)),
    "429 with an OAuth token": Scenario(
        (messages_api.error(429, "rate_limit_error", "Too many requests"),),
        login=OAUTH,
        after=says("not your usage limit"),
    ),
    "529": Scenario((messages_api.error(529, "overloaded_error", "Overloaded"),)),
    "500": Scenario((messages_api.error(500, "api_error", "Internal server error"),)),
    "503": Scenario((messages_api.page(503),)),
    "408": Scenario((messages_api.error(408, "timeout_error", "Request timeout"),)),
    "407 of a proxy": Scenario((messages_api.page(407),)),
    "a connection refused": Scenario(
        (messages_api.text("hello"),),
        settings={"env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}},
        after=says("ECONNREFUSED"),
    ),
    "a name that does not resolve": Scenario(
        (messages_api.text("hello"),),
        settings={"env": {"ANTHROPIC_BASE_URL": "http://no-such-host.invalid"}},
        after=says("DNS"),
    ),
    "no answer within the CLI's time": Scenario(
        (messages_api.silent(),), settings={"env": {"API_TIMEOUT_MS": "1500"}}, after=says("Request timed out")
    ),
    "200 with a page of a proxy": Scenario((messages_api.page(200),)),
    "400 with a page of a proxy": Scenario((messages_api.page(400),)),
    "an answer that breaks off": Scenario((messages_api.broken_off(),)),
    "an overload in the middle of an answer": Scenario((messages_api.overloaded_midway(),)),
    "a task over its timeout during retries": Scenario(
        (messages_api.error(529, "overloaded_error", "Overloaded"),), settings={"cli_max_retries": 10}, timeout=8.0
    ),
    "a connection reset": Scenario((messages_api.reset(),), after=says("ECONNRESET")),
    "400": Scenario((messages_api.error(400, "invalid_request_error", "messages.0: something is wrong"),)),
    "a cancel while a tool runs": Scenario(
        (bash("touch begun; sleep 300"), messages_api.text("done")),
        settings=ALLOWED,
        act=cancel_while_a_tool_runs,
        after=no_tool_is_left,
    ),
    "a task over its timeout": Scenario((messages_api.silent(),), timeout=3.0, after=says("3 s (timeout_seconds)")),
    "no byte of an answer": Scenario((messages_api.silent(),), settings={"silence_seconds": 4.0}),
    "an answer that stalls": Scenario((messages_api.stalled(),), settings={"silence_seconds": 4.0}),
    "a corrupt configuration file": Scenario(
        (messages_api.text("hello"),), before=corrupt, after=says("JSON Parse error")
    ),
    "a flag the CLI does not know": Scenario(
        (messages_api.text("hello"),), settings={"permission_mode": "bogus"}, after=says("acceptEdits")
    ),
    "a schema that the CLI refuses": Scenario(
        (messages_api.text("hello"),),
        flags=("--json-schema", '{"type": 7}'),
        after=says("--json-schema is not a valid JSON Schema"),
    ),
    "answers that fit no schema": Scenario(
        (messages_api.tool("StructuredOutput", {"n": "x"}),),
        flags=("--json-schema", '{"type": "object", "properties": {"n": {"type": "integer"}}}'),
        after=says("Failed to provide valid structured output"),
    ),
    "SIGINT, exit 0": Scenario((messages_api.silent(),), act=interrupt),
    "exit 0, nothing said (a stand-in for the CLI)": Scenario((messages_api.text("hello"),), stand_in="exit 0"),
    "SIGKILL": Scenario((messages_api.silent(),), act=kill, after=says("SIGKILL")),
}
