"""Every situation that the real Copilot CLI can be brought into: what its services answer, and what must come of it."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support import copilot_api
from tests.support.codex_scenarios import left_in
from tests.support.copilot import GITHUB, MODEL, OWN_KEY, CopilotBench
from tests.support.copilot_api import Answer, error, shell, text
from tests.support.waiting import until_async
from turbo.domain.outcome import ModelUsage, Outcome
from turbo.domain.run import Run
from turbo.domain.states import StopCause
from turbo.executors.agent.prompts import PREAMBLE

HELLO = text("hello there")
HOSTILE = "--model nope -x\n/help\n@/etc/passwd"


@dataclass(frozen=True)
class CopilotScenario:
    """What the model answers, and what else is special. `github`: the CLI has a token of GitHub's; else a key of its own. `served`:
    what GitHub answers, by path. `begun`: an earlier turn, so the run goes on with its session. `act` runs beside the task; `after`
    checks more. `stand_in`: a shell text in place of the CLI. `slow`: the CLI's own retries take half a minute."""

    answers: tuple[Answer, ...]
    github: bool = False
    served: dict[str, Answer] = field(default_factory=dict)
    login: dict[str, str] | None = None
    settings: dict[str, object] = field(default_factory=dict)
    prompt: str = "say hello"
    timeout: float = 60.0
    begun: bool = False
    act: "Callable[[CopilotBench, Run], object] | None" = None
    after: Callable[[CopilotBench, Outcome], None] = lambda _bench, _outcome: None
    stand_in: str | None = None
    slow: bool = False

    @property
    def with_login(self) -> dict[str, str]:
        return self.login if self.login is not None else GITHUB if self.github else OWN_KEY


def says(*texts: str) -> Callable[[CopilotBench, Outcome], None]:
    def check(_bench: CopilotBench, outcome: Outcome) -> None:
        assert all(text in (outcome.error or "") for text in texts), outcome.error

    return check


def usage_is_told(bench: CopilotBench, outcome: Outcome) -> None:
    assert outcome.output == "hello there"
    assert outcome.usage == (ModelUsage(MODEL, 60, 7, 40, 0),)
    assert bench.sessions == [outcome.session_id]
    assert "premium_requests" not in outcome.extra


def charge_is_told(_bench: CopilotBench, outcome: Outcome) -> None:
    assert outcome.usage == (ModelUsage(MODEL, 60, 7, 40, 0),)
    assert outcome.extra["premium_requests"] == 1.0


def tool_was_used(bench: CopilotBench, outcome: Outcome) -> None:
    """And has not seen the key."""
    printed = (bench.home / "work" / "made.txt").read_text()
    assert "COPILOT_HOME=" in printed
    assert OWN_KEY["COPILOT_PROVIDER_API_KEY"] not in printed
    assert outcome.output == "done"
    assert [used.output_tokens for used in outcome.usage] == [14]


def prompt_is_whole(bench: CopilotBench, _outcome: Outcome) -> None:
    assert len(bench.api.requests) == 1
    assert bench.api.requests[0].prompt.endswith(f"{PREAMBLE}\n\n{HOSTILE}")


def call_was_denied(bench: CopilotBench, outcome: Outcome) -> None:
    assert outcome.extra["permission_denials"] == 1
    assert not (bench.home / "work" / "copy.txt").exists()


def no_request(bench: CopilotBench, _outcome: Outcome) -> None:
    assert bench.api.requests == []


def resets_in_an_hour(_bench: CopilotBench, outcome: Outcome) -> None:
    assert outcome.resets_at is not None, outcome.error
    assert 3400 < outcome.resets_at - time.time() < 3700
    assert outcome.limited_model is None


def one_model_is_limited(_bench: CopilotBench, outcome: Outcome) -> None:
    """In more than a day the CLI tells a date, in UTC whatever its zone is."""
    assert outcome.limited_model == MODEL, outcome.error
    assert outcome.resets_at is not None
    assert abs(outcome.resets_at - time.time() - 200_000) < 200


def limit_is_told(bench: CopilotBench, outcome: Outcome) -> None:
    assert len(bench.api.requests) == 1
    assert outcome.extra["ai_credits"] == 50.0
    assert "50/30 AI credits used" in (outcome.error or "")


def resets_some_day(_bench: CopilotBench, outcome: Outcome) -> None:
    assert (outcome.needs_credits, outcome.resets_at) == (False, None)


def a_person_must_act(_bench: CopilotBench, outcome: Outcome) -> None:
    assert (outcome.needs_credits, outcome.resets_at) == (True, None)


async def interrupt(bench: CopilotBench, _run: Run) -> None:
    await until_async(lambda: bool(bench.api.requests))
    os.kill(bench.pids[0], signal.SIGINT)


async def kill_while_a_tool_runs(bench: CopilotBench, _run: Run) -> None:
    await until_async(lambda: (bench.home / "work" / "begun").exists())
    os.kill(bench.pids[0], signal.SIGKILL)


async def cancel_while_a_tool_runs(bench: CopilotBench, run: Run) -> None:
    await until_async(lambda: (bench.home / "work" / "begun").exists())
    run.stop.set(StopCause.CANCEL)


def killed_with_its_tools(bench: CopilotBench, outcome: Outcome) -> None:
    says("SIGKILL")(bench, outcome)
    no_tool_is_left(bench, outcome)


def no_tool_is_left(bench: CopilotBench, _outcome: Outcome) -> None:
    assert left_in(bench.home) == []


AT_WORK = (shell("touch begun; sleep 300"), text("done"))
TOO_LONG = error(400, "This model's maximum context length is 128000 tokens", "context_length_exceeded")

COPILOT_SCENARIOS = {
    "an answer cut off by the content filter": CopilotScenario((text("half", "content_filter"),)),
    "an answer cut off by its length": CopilotScenario((text("half", "length"),)),
    "an answer, with its usage": CopilotScenario((HELLO,), after=usage_is_told),
    "an answer through GitHub, with what it was charged": CopilotScenario((HELLO,), github=True, after=charge_is_told),
    "a tool is used": CopilotScenario((shell("env > made.txt"), text("done")), after=tool_was_used),
    "a prompt that looks like flags, a command and a file": CopilotScenario(
        (HELLO,), prompt=HOSTILE, after=prompt_is_whole
    ),
    "a call that is not allowed": CopilotScenario((shell("cat /etc/hosts > copy.txt"), HELLO), after=call_was_denied),
    "a background command outlives the answer": CopilotScenario(
        (shell("sleep 300", mode="async"), HELLO),
        settings={"env": {"COPILOT_TASK_WAIT_TIMEOUT_SECONDS": "1"}},
        after=no_tool_is_left,
    ),
    "the spending limit of a session": CopilotScenario(
        (error(402, "The session's limit is reached", "session_quota_exceeded"),), github=True
    ),
    "the executor's `max_ai_credits`": CopilotScenario(
        (copilot_api.charged(50), HELLO), github=True, settings={"max_ai_credits": 30}, after=limit_is_told
    ),
    "the month's quota": CopilotScenario(
        (error(402, "You have exceeded your quota", "quota_exceeded"),), github=True, after=resets_some_day
    ),
    "a weekly limit": CopilotScenario(
        (error(429, "weekly", "user_weekly_rate_limited", retry_after="3600"),),
        github=True,
        settings={"leave_seconds": 1.0},
        after=resets_in_an_hour,
    ),
    "a limit of one model": CopilotScenario(
        (error(429, "model", "user_model_rate_limited", retry_after="200000"),),
        github=True,
        settings={"leave_seconds": 1.0, "env": {"TZ": "Asia/Tokyo"}},
        after=one_model_is_limited,
    ),
    "an account without billing": CopilotScenario(
        (error(402, "Billing is not configured", "billing_not_configured"),), github=True, after=a_person_must_act
    ),
    "429": CopilotScenario((error(429, "Too many requests", retry_after="3600"),), after=says("429")),
    "401 of a provider": CopilotScenario((error(401, "Incorrect API key"),), after=says("HTTP 401")),
    "no login": CopilotScenario(
        (HELLO,),
        login={},
        settings={"env": {"COPILOT_PROVIDER_BASE_URL": "", "COPILOT_OFFLINE": ""}},
        after=says("No authentication information found"),
    ),
    "a token that GitHub refuses": CopilotScenario(
        (HELLO,),
        github=True,
        served={"/copilot_internal/user": copilot_api.refused(401), "/models": copilot_api.refused(401)},
        after=no_request,
    ),
    "an organization's policy": CopilotScenario(
        (HELLO,), github=True, served={"/models": copilot_api.refused(403)}, after=says("Access denied by policy")
    ),
    "no license": CopilotScenario((error(403, "You are not licensed to use Copilot."),), github=True),
    "a prompt beyond the model's context": CopilotScenario((TOO_LONG,)),
    "a conversation beyond the model's context": CopilotScenario((TOO_LONG,), begun=True),
    "a model that the provider does not know": CopilotScenario(
        (error(404, "no such model", "model_not_found"),), after=says("check `model`")
    ),
    "a model that the account may not use": CopilotScenario(
        (HELLO,), github=True, settings={"model": "gpt-99"}, after=says("check `model`", "gpt-99")
    ),
    "400": CopilotScenario((error(400, "something is wrong"),), after=says("something is wrong")),
    "400 in a conversation": CopilotScenario((error(400, "something is wrong"),), begun=True),
    "503": CopilotScenario((copilot_api.page(503),), slow=True),
    "an answer that breaks off": CopilotScenario((copilot_api.broken_off(),)),
    "a connection refused": CopilotScenario(
        (HELLO,), settings={"env": {"COPILOT_PROVIDER_BASE_URL": "http://127.0.0.1:9"}}, slow=True
    ),
    "GitHub cannot tell its models": CopilotScenario(
        (HELLO,), github=True, served={"/models": copilot_api.page(503)}, after=says("Failed to load models")
    ),
    "another status": CopilotScenario((error(418, "I am a teapot"),), after=says("teapot")),
    "a cancel while a tool runs": CopilotScenario(AT_WORK, act=cancel_while_a_tool_runs, after=no_tool_is_left),
    "a task over its timeout during retries": CopilotScenario((error(429, "Too many requests"),), timeout=6.0),
    "a task over its timeout": CopilotScenario(
        (copilot_api.silent(),), timeout=5.0, after=says("5 s (timeout_seconds)")
    ),
    "no byte of an answer": CopilotScenario((copilot_api.silent(),), settings={"silence_seconds": 4.0}),
    "a flag the CLI does not know": CopilotScenario(
        (HELLO,), settings={"command": ["{copilot}", "--nope"]}, after=says("unexpected argument")
    ),
    "SIGINT": CopilotScenario((copilot_api.silent(),), act=interrupt),
    "exit 0, nothing said (a stand-in for the CLI)": CopilotScenario((HELLO,), stand_in="exit 0"),
    "half a line and garbage (a stand-in for the CLI)": CopilotScenario(
        (HELLO,), stand_in=r"""cat >/dev/null; echo nonsense; printf '\377\376\n{"type": "user.mess'"""
    ),
    "SIGKILL while a tool runs": CopilotScenario(AT_WORK, act=kill_while_a_tool_runs, after=killed_with_its_tools),
}
