"""Every situation that the real Codex CLI can be brought into: what the API answers, and what must come of it."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support import responses_api
from tests.support.codex import ASKING_MODEL, CODEX_KEY, CODEX_RESETS_AT, MODEL, CodexBench
from tests.support.responses_api import Answer, shell, text
from tests.support.waiting import until_async
from turbo.domain.outcome import ModelUsage, Outcome
from turbo.domain.question import AskPolicy
from turbo.domain.run import Run
from turbo.domain.states import StopCause
from turbo.executors.agent.prompts import PREAMBLE

HELLO = text("hello there")
SAID = {"thread.started": {"thread_id": "01a21dfa-9ac1-7b61-8a85-c262bedfcbe5"}, "turn.started": {}}
NO_NAMESPACE = "bwrap: No permissions to create a new namespace, likely because the kernel does not allow it\n"


@dataclass(frozen=True)
class CodexScenario:
    """What the API answers, and what else is special. `retries`: the CLI's own. `begun`: an earlier turn, so the run goes on with its
    thread. `act` runs beside the task; `after` checks more. `stand_in`: a shell text in place of the CLI."""

    answers: tuple[Answer, ...]
    login: dict[str, str] = field(default_factory=lambda: CODEX_KEY)
    settings: dict[str, object] = field(default_factory=dict)
    prompt: str = "say hello"
    timeout: float = 60.0
    retries: int = 0
    begun: bool = False
    act: "Callable[[CodexBench, Run], object] | None" = None
    after: Callable[[CodexBench, Outcome], None] = lambda _bench, _outcome: None
    stand_in: str | None = None


def says(*texts: str) -> Callable[[CodexBench, Outcome], None]:
    def check(_bench: CodexBench, outcome: Outcome) -> None:
        assert all(text in (outcome.error or "") for text in texts), outcome.error

    return check


def usage_is_told(bench: CodexBench, outcome: Outcome) -> None:
    assert outcome.output == "hello there"
    assert outcome.usage == (ModelUsage(MODEL, 60, 7, 40, 0),)
    assert outcome.session_id == f"codex:{outcome.log and bench.sessions[-1].removeprefix('codex:')}"
    assert [(w.time_window, w.model, w.utilization, w.resets_at) for w in bench.windows[-1]] == [
        ("five_hour", "", 0.42, CODEX_RESETS_AT),
        ("seven_day", "", 0.07, CODEX_RESETS_AT + 86_400),
    ]


def tool_was_used(bench: CodexBench, outcome: Outcome) -> None:
    assert (bench.home / "work" / "made.txt").read_text() == "hi\n"
    assert outcome.output == "done"
    assert [used.output_tokens for used in outcome.usage] == [14]
    assert sorted(path.name for path in (bench.home / "work").iterdir()) == ["made.txt"]


def prompt_is_whole(prompt: str) -> Callable[[CodexBench, Outcome], None]:
    def check(bench: CodexBench, _outcome: Outcome) -> None:
        assert len(bench.api.requests) == 1
        assert bench.api.requests[0].prompt.endswith(f"{PREAMBLE}\n\n{prompt}")

    return check


def no_request(bench: CodexBench, _outcome: Outcome) -> None:
    assert bench.api.requests == []


def reset_is_honoured(_bench: CodexBench, outcome: Outcome) -> None:
    assert outcome.resets_at == CODEX_RESETS_AT
    assert outcome.limited_model is None


def reset_is_read(_bench: CodexBench, outcome: Outcome) -> None:
    """The text has minutes."""
    assert outcome.resets_at == CODEX_RESETS_AT // 60 * 60, outcome.error


def one_model_is_limited(_bench: CodexBench, outcome: Outcome) -> None:
    assert outcome.limited_model == "gpt-5.5", outcome.error
    assert outcome.resets_at == CODEX_RESETS_AT


def a_person_must_act(_bench: CodexBench, outcome: Outcome) -> None:
    assert outcome.needs_credits
    assert outcome.resets_at is None


def question_is_asked(_bench: CodexBench, outcome: Outcome) -> None:
    assert outcome.asked is not None
    [single] = outcome.asked.question.questions
    assert (single.question, [one.label for one in single.options]) == ("Which database?", ["PostgreSQL", "SQLite"])


def question_is_counted(_bench: CodexBench, outcome: Outcome) -> None:
    assert outcome.output == "hello there"
    assert outcome.extra["questions_denied"] == 1


async def interrupt(bench: CodexBench, _run: Run) -> None:
    await until_async(lambda: bool(bench.api.requests))
    os.kill(bench.pids[0], signal.SIGINT)


async def kill(bench: CodexBench, _run: Run) -> None:
    await until_async(lambda: bool(bench.api.requests))
    os.kill(bench.pids[0], signal.SIGKILL)


async def cancel_while_a_tool_runs(bench: CodexBench, run: Run) -> None:
    await until_async(lambda: (bench.home / "work" / "begun").exists())
    run.stop.set(StopCause.CANCEL)


def left_in(home: Path) -> list[psutil.Process]:
    """The processes that work below a directory."""
    return [one for one in psutil.process_iter(["name"]) if _works_in(one, home)]


def _works_in(process: psutil.Process, home: Path) -> bool:
    try:
        below = str(Path(f"/proc/{process.pid}/cwd").readlink()).startswith(f"{home}/")
        return below and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):  # it has ended, or works in a path that is too long
        return False


def no_tool_is_left(bench: CodexBench, _outcome: Outcome) -> None:
    assert left_in(bench.home) == []


def lines(*more: Mapping[str, object]) -> str:
    """A stand-in that prints lines of the CLI."""
    said = [{"type": kind, **rest} for kind, rest in SAID.items()]
    return "cat >/dev/null; " + "; ".join(f"printf '%s\\n' '{json.dumps(line)}'" for line in [*said, *more])


def no_sandbox(home: Path) -> str:
    del home
    item = {"id": "item_0", "type": "command_execution", "command": "true", "aggregated_output": NO_NAMESPACE}
    done = {"type": "item.completed", "item": {**item, "exit_code": 1, "status": "failed"}}
    return lines(done, {"type": "turn.completed", "usage": {}})


WAITING = {"type": "error", "message": "Reconnecting... waiting for network (error sending request)"}
MEGABYTE = "0123456789abcdef" * 65_000

CODEX_SCENARIOS = {
    "a question of the agent's": CodexScenario(
        (responses_api.question("Which database?", "PostgreSQL", "SQLite"), HELLO),
        settings={"model": ASKING_MODEL, "ask": AskPolicy()},
        after=question_is_asked,
    ),
    "a question, without `ask`": CodexScenario(
        (responses_api.question("Which database?", "PostgreSQL", "SQLite"), HELLO),
        settings={"model": ASKING_MODEL},
        after=question_is_counted,
    ),
    "a host without user namespaces (a stand-in for the CLI)": CodexScenario(
        (HELLO,), stand_in=no_sandbox(Path()), after=says("bwrap: No permissions", "user namespaces")
    ),
    "an answer, with its usage": CodexScenario(
        (text("hello there", **responses_api.windows(42.0, CODEX_RESETS_AT)),), after=usage_is_told
    ),
    "a tool is used": CodexScenario((shell("echo hi > made.txt"), text("done")), after=tool_was_used),
    "a prompt of 1 MB": CodexScenario((HELLO,), prompt=MEGABYTE, after=prompt_is_whole(MEGABYTE)),
    "a prompt that begins with `-`": CodexScenario(
        (HELLO,), prompt="--model nope -x", after=prompt_is_whole("--model nope -x")
    ),
    "a prompt that begins with `/`": CodexScenario((HELLO,), prompt="/status", after=prompt_is_whole("/status")),
    "a background command outlives the answer": CodexScenario(
        (shell("sleep 300", yield_time_ms=250), HELLO), timeout=600.0, after=no_tool_is_left
    ),
    "the usage limit": CodexScenario((responses_api.usage_limit(CODEX_RESETS_AT),), after=reset_is_honoured),
    "the usage limit of one model": CodexScenario(
        (
            responses_api.usage_limit(
                CODEX_RESETS_AT,
                x_codex_active_limit="codex_other",
                x_codex_other_limit_name="GPT-5.5",
                x_codex_other_primary_used_percent="100",
                x_codex_other_primary_window_minutes="300",
                x_codex_other_primary_reset_at=str(CODEX_RESETS_AT),
            ),
        ),
        after=one_model_is_limited,
    ),
    "a limit whose reset is a local time": CodexScenario(
        (responses_api.limit_without_windows(CODEX_RESETS_AT),),
        settings={"env": {"TZ": "Asia/Tokyo"}},
        after=reset_is_read,
    ),
    "a limit whose reset is only in words": CodexScenario(
        (responses_api.limit_without_windows(CODEX_RESETS_AT),), after=reset_is_read
    ),
    "a workspace without credits": CodexScenario(
        (
            responses_api.usage_limit(
                CODEX_RESETS_AT, x_codex_rate_limit_reached_type="workspace_owner_credits_depleted"
            ),
        ),
        after=a_person_must_act,
    ),
    "a quota that is exceeded": CodexScenario(
        (responses_api.failed("insufficient_quota", "You exceeded your current quota."),),
        after=a_person_must_act,
    ),
    "a plan without Codex": CodexScenario(
        (responses_api.error(429, "no", kind="usage_not_included"),), after=a_person_must_act
    ),
    "402": CodexScenario((responses_api.error(402, "Payment required"),), after=a_person_must_act),
    "401 with an API key": CodexScenario(
        (responses_api.error(401, "Incorrect API key provided", "invalid_api_key"),), after=says("401 Unauthorized")
    ),
    "no login": CodexScenario((HELLO,), login={}, after=says("401 Unauthorized")),
    "403": CodexScenario((responses_api.error(403, "Not allowed"),), after=says("403 Forbidden")),
    "refused by a policy": CodexScenario(
        (responses_api.failed("cyber_policy", "This request was refused."),),
    ),
    "a prompt beyond the model's context": CodexScenario(
        (responses_api.failed("context_length_exceeded", "Your input exceeds the context window."),),
        after=says("ran out of room"),
    ),
    "a prompt over 1,048,576 characters": CodexScenario((HELLO,), prompt=MEGABYTE * 2, after=no_request),
    "a conversation beyond the model's context": CodexScenario(
        (responses_api.failed("context_length_exceeded", "Your input exceeds the context window."),), begun=True
    ),
    "a model that does not exist": CodexScenario(
        (responses_api.error(404, "The model does not exist", "model_not_found"),), after=says("check `model`")
    ),
    "a model that the login may not use": CodexScenario(
        (responses_api.detail(400, "The 'X' model is not supported when using Codex with a ChatGPT account."),),
    ),
    "429": CodexScenario((responses_api.error(429, "Too many requests"),), after=says("429 Too Many Requests")),
    "429 with a retry in an hour": CodexScenario(
        (responses_api.error(429, "Too many requests", retry_after="3600"),),
        settings={"patience_seconds": 1.0},
        retries=1,
    ),
    "a rate limit in the stream": CodexScenario((responses_api.failed("rate_limit_exceeded", "slow down"),)),
    "overloaded": CodexScenario((responses_api.error(503, "busy", "server_is_overloaded"),)),
    "500": CodexScenario((responses_api.error(500, "Internal server error"),)),
    "503": CodexScenario((responses_api.page(503),)),
    "404 of a proxy": CodexScenario((responses_api.page(404),)),
    "200 with a page of a proxy": CodexScenario((responses_api.page(200),)),
    "an answer that breaks off": CodexScenario((responses_api.broken_off(),), retries=1),
    "a connection reset": CodexScenario((responses_api.reset(),)),
    "a connection refused": CodexScenario(
        (HELLO,),
        settings={"command": ["{codex}", "-c", 'model_providers.loop.base_url="http://127.0.0.1:9/v1"']},
        after=says("error sending request"),
    ),
    "a name that does not resolve": CodexScenario(
        (HELLO,),
        settings={"command": ["{codex}", "-c", 'model_providers.loop.base_url="http://no-such-host.invalid/v1"']},
    ),
    "a network that is waited for (a stand-in for the CLI)": CodexScenario(
        (HELLO,), stand_in=f"{lines(WAITING, WAITING)}; exec sleep 60"
    ),
    "400": CodexScenario((responses_api.error(400, "something is wrong"),), after=says("something is wrong")),
    "413": CodexScenario((responses_api.error(413, "too large"),)),
    "400 in a conversation": CodexScenario((responses_api.error(400, "something is wrong"),), begun=True),
    "an answer that is cut by its length": CodexScenario((responses_api.incomplete("max_output_tokens"),)),
    "a cancel while a tool runs": CodexScenario(
        (shell("touch begun; sleep 300"), text("done")), act=cancel_while_a_tool_runs, after=no_tool_is_left
    ),
    "a task over its timeout during retries": CodexScenario((responses_api.broken_off(),), retries=20, timeout=4.0),
    "a task over its timeout": CodexScenario(
        (responses_api.silent(),), timeout=3.0, after=says("3 s (timeout_seconds)")
    ),
    "no byte of an answer": CodexScenario((responses_api.silent(),), settings={"silence_seconds": 3.0}),
    "an answer that stalls": CodexScenario((responses_api.stalled(),), settings={"silence_seconds": 3.0}),
    "a flag the CLI does not know": CodexScenario(
        (HELLO,), settings={"command": ["{codex}", "--nope"]}, after=says("unexpected argument")
    ),
    "a configuration that the CLI refuses": CodexScenario(
        (HELLO,), settings={"command": ["{codex}", "-c", 'model_provider="nobody"']}, after=no_request
    ),
    "SIGINT": CodexScenario((responses_api.silent(),), act=interrupt),
    "exit 0, nothing said (a stand-in for the CLI)": CodexScenario((HELLO,), stand_in="exit 0"),
    "half a line and garbage (a stand-in for the CLI)": CodexScenario(
        (HELLO,), stand_in=r"""cat >/dev/null; echo nonsense; printf '\377\376\n{"type": "thread.sta'"""
    ),
    "SIGKILL": CodexScenario((responses_api.silent(),), act=kill, after=says("SIGKILL")),
}
