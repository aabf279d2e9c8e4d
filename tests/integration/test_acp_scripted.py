"""The acp executor and an agent that behaves well or badly, in every way that its argument can say (programs/acp_agent.py)."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.acp import AcpBench, scripted
from tests.support.checks import checks, results
from tests.support.mailboxes import Told
from tests.support.waiting import until_async
from turbo.config.acp import Permissions
from turbo.domain.outcome import FailureKind, ModelUsage, OutcomeKind
from turbo.domain.question import Answered, AskPolicy
from turbo.domain.states import StopCause
from turbo.executors.acp.verdict import TABLE
from turbo.executors.agent.prompts import PREAMBLE, RESUME_PROMPT
from turbo.executors.held_calls import HeldCalls

ANSWERED = "answered"
MISFIT = "not an agent that turbo can speak to"


@pytest.fixture
def bench(tmp_path: Path) -> AcpBench:
    return AcpBench(tmp_path)


@dataclass(frozen=True)
class Misbehaviour:
    """A scenario of the scripted agent, the situation that it is, and the agent's last words."""

    situation: str
    output: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    denied: int | None = None
    says: str = ""
    timeout: float = 30.0


def errs(code: int, message: str, data: object = None) -> dict[str, Any]:
    return {"code": code, "message": message, "data": data}


CASES = {
    "good": Misbehaviour(ANSWERED, "hello there"),
    "tool alone": Misbehaviour(ANSWERED),
    "refused but done": Misbehaviour("login refused", "Error: Authentication failed with provider x"),
    "refused but done, unknown": Misbehaviour(
        "says it is done, which nothing confirms", settings={"profile": None}, says="add check"
    ),
    "mute": Misbehaviour("ended without a word"),
    "error: login": Misbehaviour("login refused", error=errs(-32000, "Authentication required")),
    "error: limit": Misbehaviour("usage limit", error=errs(-32603, "Your usage limit is reached. Retry in 2h")),
    "error: credits": Misbehaviour("no credits, no plan, or a spend cap", error=errs(-32603, "Payment required")),
    "error: model": Misbehaviour(
        "model unknown or not for this account", error=errs(1, "no", {"reason": {"kind": "model"}})
    ),
    "error: long": Misbehaviour("prompt too long", error=errs(-32077, "x")),
    "error: rate": Misbehaviour("rate limited (429)", error=errs(-32603, "x", "Too many requests")),
    "error: request": Misbehaviour("request refused", error=errs(-32603, "x", {"details": "invalid request: y"})),
    "error: policy": Misbehaviour("refused by a policy", error=errs(-32603, "refused by our policy")),
    "error: away": Misbehaviour("server or network error", error=errs(-32603, "overloaded")),
    "error: another": Misbehaviour("failed in another way", error=errs(-32602, "overloaded"), says="overloaded"),
    "error: odd": Misbehaviour("failed in another way", error={"code": "x", "message": 7, "data": [[[]]]}),
    "ids out of order": Misbehaviour(ANSWERED, "hello there"),
    "an early answer": Misbehaviour(ANSWERED, "hello there"),
    "50 MB update": Misbehaviour(ANSWERED, "hello there"),
    "50 MB request": Misbehaviour(ANSWERED, "code -32600"),
    "update after the end": Misbehaviour(ANSWERED, "hello there"),
    "asks and never goes on": Misbehaviour(ANSWERED, "chosen: cancelled", denied=1),
    "writes outside": Misbehaviour(ANSWERED, "chosen: no", denied=1),
    "writes outside by a link": Misbehaviour(ANSWERED, "chosen: no", denied=1),
    "writes outside in a diff": Misbehaviour(ANSWERED, "chosen: no", denied=1),
    "writes somewhere": Misbehaviour(ANSWERED, "chosen: no", denied=1),
    "writes inside": Misbehaviour(ANSWERED, "chosen: once"),
    "gives up": Misbehaviour("gave up after a call was not allowed", denied=1, says="permissions in worker.yaml"),
    "gives up, allowed": Misbehaviour(ANSWERED, "pushed", {"permissions": Permissions(execute="allow")}),
    "wants files": Misbehaviour(ANSWERED, "[-32601]"),
    "garbage": Misbehaviour(ANSWERED, "hello there"),
    "another session": Misbehaviour(ANSWERED, "hello there"),
    "loops": Misbehaviour("caught in a loop"),
    "asks for ever": Misbehaviour("caught in a loop"),
    "dies": Misbehaviour("killed, or crashed", says="exit code 3"),
    "silent": Misbehaviour("silent for too long", settings={"silence_seconds": 1.0}, says="silence_seconds"),
    "silent, while it retries": Misbehaviour(
        "out of time while the CLI retried a request",
        settings={"silence_seconds": 1.0, "profile": scripted(retries_in_silence=True)},
    ),
    "ignores cancel": Misbehaviour("over its time", settings={"grace_seconds": 0.2}, timeout=1.5),
    "exits": Misbehaviour("CLI refuses its flags, its configuration or its directory", says="no such flag"),
    "another version": Misbehaviour(MISFIT, says="version 2 of the protocol"),
    "no id": Misbehaviour(MISFIT),
    "a bad id": Misbehaviour(MISFIT),
    "no login": Misbehaviour("login refused"),
    "stops: refusal": Misbehaviour("refused by a policy"),
    "stops: max_turn_requests": Misbehaviour("at its limit of turns"),
    "stops: max_tokens": Misbehaviour("failed in another way", says="max_tokens"),
    "stops: cancelled": Misbehaviour("failed in another way"),
    "good, in no such mode": Misbehaviour(
        "agent refuses its session, its mode or its model", settings={"mode": "nope"}, says="Invalid params"
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_every_way_of_an_agent_is_one_situation(bench: AcpBench, name: str) -> None:
    case = CASES[name]
    scenario = "error" if case.error is not None else name.split(",")[0]
    env = {} if case.error is None else {"ACP_ERROR": json.dumps(case.error)}
    async with asyncio.timeout(60.0):
        outcome = await bench.do(bench.executor(scenario, env=env, **case.settings), timeout_seconds=case.timeout)
    row = next(row for row in TABLE if row.name == case.situation)
    assert outcome.extra.get("situation", ANSWERED) == case.situation, outcome
    assert (outcome.kind, outcome.failure_kind, outcome.final) == (row.kind, row.failure_kind, row.final)
    assert outcome.kind is OutcomeKind.SUCCEEDED or outcome.error
    assert (outcome.session_id == "") == row.ends_session
    assert case.output in (None, outcome.output)
    assert case.says in (outcome.error or "")
    assert outcome.extra.get("permissions_denied") == case.denied
    assert not (bench.home / "outside.txt").exists()
    assert left_of(bench) == []


def left_of(bench: AcpBench) -> list[int]:
    """Processes of the agent that still live."""
    return [pid for pid in bench.pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


async def test_turn_reports_text_usage_session_and_progress(bench: AcpBench) -> None:
    outcome = await bench.do(bench.executor("good"), "count the sheep")
    assert bench.prompts == [f"{PREAMBLE}\n\ncount the sheep"]
    assert outcome.usage == (ModelUsage("scripted-1", 60, 7, 40, cost_usd=0.25),)
    assert outcome.session_id == bench.sessions[0]
    assert outcome.session_id.startswith("acp:scripted:")
    assert outcome.extra["agent"] == "scripted 1.2.3"
    assert [one.text for one in bench.progress][-1] == "hello there"
    (opened,) = bench.requests("session/new")
    assert opened == {"cwd": str(bench.home / "work"), "mcpServers": []}
    assert bench.requests("initialize")[0]["clientCapabilities"] == {
        "fs": {"readTextFile": False, "writeTextFile": False},
        "terminal": False,
    }


async def test_limit_is_paused_until_the_reset_in_its_words(bench: AcpBench) -> None:
    error = json.dumps(errs(-32603, "You have hit your usage limit.", {"resets_at": 4_000_000_000}))
    outcome = await bench.do(bench.executor("error", env={"ACP_ERROR": error}))
    assert (outcome.kind, outcome.resets_at) == (OutcomeKind.USAGE_LIMITED, None), "a reset in 2096 was misread"
    error = json.dumps(errs(-32603, "You have hit your usage limit, try again in 2h 30m."))
    outcome = await bench.do(bench.executor("error", env={"ACP_ERROR": error}))
    assert outcome.resets_at is not None


# ── stops ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scenario", ["heeds cancel", "ignores cancel", "never answers"])
async def test_stop_ends_the_agent_and_says_so(bench: AcpBench, scenario: str) -> None:
    run = bench.run()
    running = asyncio.create_task(bench.executor(scenario, grace_seconds=0.2).run(run))
    await until_async(lambda: bool(bench.pids) and (scenario == "never answers" or (bench.home / "begun").exists()))
    run.stop.set(StopCause.CANCEL)
    async with asyncio.timeout(20.0):
        outcome = await running
    assert outcome.kind is OutcomeKind.CANCELLED
    assert left_of(bench) == []
    if scenario == "heeds cancel":
        assert len(bench.requests("session/cancel")) == 1
        assert outcome.session_id == bench.sessions[0], "it can go on"


# ── sessions ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_retry_goes_on_with_the_session_and_counts_no_history(bench: AcpBench) -> None:
    executor = bench.executor("hello", resume=True)
    first = await bench.do(executor)
    second = await bench.do(executor, retry_count=1, agent_session_id=first.session_id)
    assert (second.session_id, second.output) == (first.session_id, "hello there"), "the history is replayed"
    assert bench.prompts[-1] == RESUME_PROMPT
    assert len(bench.requests("session/new")) == 1
    assert second.usage[0].cost_usd is None


@pytest.mark.parametrize(
    "session", ["acp:scripted:gone", "acp:other:x", "codex:x", "acp:scripted:a\nb", "acp:scripted:"]
)
async def test_session_that_is_not_here_begins_anew_in_the_run(bench: AcpBench, session: str) -> None:
    outcome = await bench.do(bench.executor("hello", resume=True), agent_session_id=session)
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert outcome.session_id == bench.sessions[-1] != session
    assert len(bench.prompts) == 1


async def test_agent_without_resume_leaves_no_session(bench: AcpBench) -> None:
    outcome = await bench.do(bench.executor("no resume", profile=scripted(resume=None, holding=None)))
    assert (outcome.kind, outcome.session_id, bench.sessions) == (OutcomeKind.SUCCEEDED, None, [])


async def test_message_to_a_run_is_its_next_prompt(bench: AcpBench) -> None:
    told = Told("use ties")
    told.last = ["and no buttons"]
    await bench.do(bench.executor("hello"), "sew a coat", messages=told.mailbox)
    assert [prompt.count("use ties") for prompt in bench.prompts] == [1, 0]
    assert [prompt.count("and no buttons") for prompt in bench.prompts] == [0, 1]
    assert told.delivered == ["use ties", "and no buttons"]


async def test_check_sends_its_finding_into_the_session(bench: AcpBench) -> None:
    judged = checks(bench.home, f"test $(wc -l < {bench.home}/received.jsonl) -gt 5 || {{ echo not yet; exit 1; }}")
    outcome = await bench.do(bench.executor("hello", checks=judged, profile=None))
    assert outcome.kind is OutcomeKind.SUCCEEDED, "a check confirms what an unknown agent says"
    assert results(outcome) == ["failed", "passed"]
    assert "not yet" in bench.prompts[1]
    assert len(bench.requests("session/new")) == 1


async def test_mode_and_model_are_set_before_the_prompt(bench: AcpBench) -> None:
    await bench.do(bench.executor("hello", mode="plan", model="best"))
    methods = [one["method"] for one in bench.received]
    assert methods == [
        "initialize",
        "session/new",
        "session/set_config_option",
        "session/set_mode",
        "session/prompt",
    ]
    assert bench.requests("session/set_config_option")[0]["value"] == "best"


# ── a person approves ───────────────────────────────────────────────────────────────────────────────────────────────

ASKS: dict[str, Any] = {
    "ask": AskPolicy(approve=("Bash(git push *)",)),
    "held": HeldCalls(["Bash(git push *)"]),
    "permissions": Permissions(execute="allow"),
}


async def test_held_call_waits_for_a_person_and_is_made_once(bench: AcpBench) -> None:
    executor = bench.executor("push", **ASKS)
    asked = await bench.do(executor)
    assert asked.kind is OutcomeKind.ASKED
    assert asked.asked is not None
    question = asked.asked.question
    assert (question.tool, "git push origin x" in str(question.input["command"])) == ("Bash", True)
    assert list(bench.home.glob("pushed-*")) == []
    assert len(bench.requests("session/cancel")) == 1
    assert bench.requests("session/set_mode")[0]["modeId"] == "ask"

    answers = (Answered(question, "yes"),)
    again = await bench.do(executor, agent_session_id=asked.session_id, answers=answers)
    assert (again.kind, again.session_id) == (OutcomeKind.SUCCEEDED, asked.session_id)
    assert [path.name for path in bench.home.glob("pushed-*")] == ["pushed-0"]
    assert '"answer": "yes"' in bench.prompts[-1]
    assert "May the agent run this command?" in bench.prompts[-1]

    third = await bench.do(executor, agent_session_id=asked.session_id, answers=answers)
    assert third.kind is OutcomeKind.ASKED, "one approval is for one call"
    assert len(list(bench.home.glob("pushed-*"))) == 1


async def test_another_call_than_the_approved_one_is_asked_anew(bench: AcpBench) -> None:
    asked = await bench.do(bench.executor("push", **ASKS))
    assert asked.asked is not None
    answers = (Answered(asked.asked.question, "yes"),)
    other = await bench.do(bench.executor("another push", **ASKS), agent_session_id=asked.session_id, answers=answers)
    assert other.kind is OutcomeKind.ASKED
    assert not (bench.home / "other").exists()


@pytest.mark.parametrize("answer", ["no, because the branch is protected", None])
async def test_denied_call_is_denied_without_asking_again(bench: AcpBench, answer: str | None) -> None:
    executor = bench.executor("push", **ASKS)
    asked = await bench.do(executor)
    assert asked.asked is not None
    answers = (Answered(asked.asked.question, answer),)
    denied = await bench.do(executor, agent_session_id=asked.session_id, answers=answers)
    assert (denied.kind, denied.extra["permissions_denied"]) == (OutcomeKind.FAILED, 1)
    assert list(bench.home.glob("pushed-*")) == []


async def test_run_that_may_not_ask_is_denied_the_call(bench: AcpBench) -> None:
    run = bench.run()
    run.may_ask = False
    outcome = await bench.executor("push", **ASKS).run(run)
    assert (outcome.kind, outcome.failure_kind) == (OutcomeKind.FAILED, FailureKind.ERROR)
    assert list(bench.home.glob("pushed-*")) == []


# ── this host ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_probe_asks_once_and_allows_nothing(bench: AcpBench) -> None:
    assert (await bench.executor("hello").probe()).kind is OutcomeKind.SUCCEEDED
    assert (await bench.executor("no login").probe()).kind is OutcomeKind.AUTH_FAILED
    refused = await bench.executor("writes inside").probe()
    assert refused.output == "chosen: no"
    missing = bench.executor("hello")
    assert missing.missing() is None
    gone = await bench.executor("exits").probe()
    assert gone.kind is OutcomeKind.INFRASTRUCTURE


def test_program_that_is_not_here_is_told_in_advance(bench: AcpBench) -> None:
    from turbo.executors.acp.executor import AcpExecutor
    from turbo.process.journal import Journal

    executor = AcpExecutor("x", ["no-such-agent", "acp"], journal=Journal(bench.home / "j"), profile=scripted())
    assert "cannot start no-such-agent" in (executor.missing() or "")
