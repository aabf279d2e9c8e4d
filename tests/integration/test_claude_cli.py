"""The claude executor with the real Claude CLI, scrubbed, against a loopback Messages API.

The CLI is the one that `npm ci` in tests/.tools installs; TURBO_TEST_CLAUDE names another. A stand-in is used only for
what the real one (2.1.330) cannot be made to do: `exit 0, nothing said`, which 2.1.197 does on SIGINT.

Each test of `SCENARIOS` is a line of the second table in docs/executors.md.
"""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from tests import messages_api
from tests.messages_api import Answer, MessagesApi
from tests.unit.test_claude_verdict import table_under
from turbo.executors import claude
from turbo.executors.base import Progress, Run
from turbo.executors.claude import PREAMBLE, ClaudeExecutor
from turbo.executors.claude_verdict import TABLE
from turbo.journal import Journal
from turbo.outcome import FailureKind, ModelUsage, Outcome, OutcomeKind
from turbo.task import Task

KEY = {"ANTHROPIC_API_KEY": "sk-ant-test-1234567890"}
OAUTH = {"CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-test-1234567890"}
RESETS_AT = int(time.time()) + 7200


def the_cli() -> str:
    here = Path(__file__).parents[1] / ".tools" / "node_modules" / ".bin" / "claude"
    path = os.environ.get("TURBO_TEST_CLAUDE") or str(here)
    if not os.access(path, os.X_OK):
        pytest.fail(f"no Claude CLI at {path}: run npm ci in tests/.tools, or name one in TURBO_TEST_CLAUDE")
    return path


@dataclass
class Bench:
    """A scrubbed home for the CLI, a Messages API, and a way to run a task with both."""

    api: MessagesApi
    home: Path
    pids: list[int] = field(default_factory=list)
    argv: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    sessions: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: Outcome | None = None

    def executor(self, login: dict[str, str] = KEY, **settings: object) -> ClaudeExecutor:
        self.home.mkdir(exist_ok=True)
        env_file = self.home / "account.env"
        env_file.write_text("".join(f"{key}={value}\n" for key, value in login.items()))
        env_file.chmod(0o600)
        env = {
            "HOME": str(self.home),
            "CLAUDE_CONFIG_DIR": str(self.home / ".claude"),
            "TMPDIR": str(self.home),
            "ANTHROPIC_BASE_URL": self.api.url,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
        }
        known: dict[str, object] = {
            "command": [the_cli()],
            "journal": Journal(self.home / "journal"),
            "env_file": env_file,
            "model": "sonnet",
            "cli_max_retries": 0,
        }
        more = {**known, **settings}
        more["env"] = env | dict(more.get("env", {}))  # type: ignore[call-overload]
        return ClaudeExecutor("claude", **more)  # type: ignore[arg-type]

    def run(self, executor: ClaudeExecutor, prompt: str = "say hello", **fields: object) -> Run:
        task = Task("t_1", "analysis", prompt, **{"timeout_seconds": 60.0, **fields})  # type: ignore[arg-type]

        def started(pid: int) -> None:
            self.pids.append(pid)
            program = psutil.Process(pid)
            self.argv, self.environ = program.cmdline(), program.environ()
            self.started.set()

        return Run(
            task=task,
            work_dir=self.home / "work",
            log_path=self.home / "attempt.log",
            started=started,
            progress=self.progress.append,
            session_started=self.sessions.append,
        )

    async def do(self, executor: ClaudeExecutor, prompt: str = "say hello", **fields: object) -> Outcome:
        self.outcome = await executor.run(self.run(executor, prompt, **fields))
        return self.outcome


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    with MessagesApi(messages_api.text("hello there")) as api:
        yield Bench(api, tmp_path_factory.mktemp("cli"))


async def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)


# ── every situation ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Scenario:
    """What the API answers, and what else is special. `act` runs beside the task; `after` checks more."""

    answers: tuple[Answer, ...]
    login: dict[str, str] = field(default_factory=lambda: KEY)
    settings: dict[str, object] = field(default_factory=dict)
    prompt: str = "say hello"
    timeout: float = 60.0
    before: Callable[[Bench], None] = lambda _bench: None
    act: "Callable[[Bench, Run], object] | None" = None
    after: Callable[[Bench, Outcome], None] = lambda _bench, _outcome: None
    stand_in: str | None = None


def bash(command: str, **more: object) -> Answer:
    return messages_api.tool("Bash", {"command": command, "description": "a test", **more})


def reset_is_honoured(_bench: Bench, outcome: Outcome) -> None:
    assert outcome.resets_at == RESETS_AT


def usage_is_told(_bench: Bench, outcome: Outcome) -> None:
    assert outcome.output == "hello there"
    assert [replace(u, model="", cost_usd=0.0) for u in outcome.usage] == [ModelUsage("", 11, 7, 5, 3)]
    assert "sonnet" in outcome.usage[0].model
    assert outcome.usage[0].cost_usd > 0


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


def says(text: str) -> Callable[[Bench, Outcome], None]:
    def check(_bench: Bench, outcome: Outcome) -> None:
        assert text in (outcome.error or "")

    return check


def corrupt(bench: Bench) -> None:
    (bench.home / ".claude").mkdir()
    (bench.home / ".claude" / ".claude.json").write_text('{"half')


def both_turns_are_there(_bench: Bench, outcome: Outcome) -> None:
    assert outcome.output == "hello there"
    assert outcome.usage


async def interrupt(bench: Bench, _run: Run) -> None:
    await until(lambda: bool(bench.api.requests))
    os.kill(bench.pids[0], signal.SIGINT)


async def kill(bench: Bench, _run: Run) -> None:
    await until(lambda: bool(bench.api.requests))
    os.kill(bench.pids[0], signal.SIGKILL)


async def cancel_while_a_tool_runs(bench: Bench, run: Run) -> None:
    await until(lambda: (bench.home / "work" / "begun").exists())
    run.stop.set("cancel")


def no_tool_is_left(bench: Bench, _outcome: Outcome) -> None:
    home = str(bench.home)
    left = [p for p in psutil.process_iter(["cmdline", "cwd"]) if (p.info["cwd"] or "").startswith(home)]
    assert [p for p in left if p.status() != psutil.STATUS_ZOMBIE] == []


ALLOWED = {"allowed_tools": ["Bash", "Read"]}
MEGABYTE = "0123456789abcdef" * 65536

SCENARIOS = {
    "an answer, with its usage": Scenario(
        (messages_api.text("hello there", cache_read=5, cache_write=3),), after=usage_is_told
    ),
    "a tool is used": Scenario(
        (bash("echo hi > made.txt"), messages_api.text("done")), settings=ALLOWED, after=tool_was_used
    ),
    "a prompt of 1 MB": Scenario((messages_api.text("hello"),), prompt=MEGABYTE, after=prompt_is_whole(MEGABYTE)),
    "a prompt that begins with `-`": Scenario(
        (messages_api.text("hello"),), prompt="--model nope -x", after=prompt_is_whole("--model nope -x")
    ),
    "a prompt that begins with `/`": Scenario(
        (messages_api.text("hello"),), prompt="/cost", after=prompt_is_whole("/cost")
    ),
    "a background task outlives the answer": Scenario(
        (bash("sleep 300", run_in_background=True), messages_api.text("hello there")),
        settings={**ALLOWED, "env": {"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "0"}, "leave_seconds": 1.0},
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
    "401 with an API key": Scenario((messages_api.invalid_key(),), after=says("Invalid API key")),
    "an expired OAuth token": Scenario((messages_api.expired_token(),), login=OAUTH, after=says("has expired")),
    "a revoked OAuth token": Scenario((messages_api.revoked_token(),), login=OAUTH, after=says("revoked")),
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
        after=says("belongs to a disabled organization"),
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
    "a refusal": Scenario((messages_api.refusal(),), after=says("safeguards")),
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
    "SIGINT, exit 0": Scenario((messages_api.silent(),), act=interrupt),
    "exit 0, nothing said (a stand-in for the CLI)": Scenario((messages_api.text("hello"),), stand_in="exit 0"),
    "SIGKILL": Scenario((messages_api.silent(),), act=kill, after=says("SIGKILL")),
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_real_cli_lands_in_its_row(bench: Bench, name: str) -> None:
    scenario = SCENARIOS[name]
    bench.api.answer(*scenario.answers)
    scenario.before(bench)
    settings = dict(scenario.settings)
    if scenario.stand_in is not None:
        program = bench.home / "claude"
        program.write_text(f"#!/bin/sh\n{scenario.stand_in}\n")
        program.chmod(0o755)
        settings["command"] = [str(program)]
    executor = bench.executor(scenario.login, **settings)
    run = bench.run(executor, scenario.prompt, timeout_seconds=scenario.timeout)
    acting = asyncio.ensure_future(scenario.act(bench, run)) if scenario.act else None  # type: ignore[call-overload]
    outcome = await executor.run(run)
    if acting is not None:
        await acting

    situation = dict(table_under("| shown with the real CLI |"))[name]
    row = next(row for row in TABLE if row.situation == situation)
    assert outcome.extra.get("situation", "answered") == situation, outcome
    assert (outcome.kind, outcome.failure_kind, outcome.final) == (row.kind, row.failure_kind, row.final)
    assert outcome.kind is OutcomeKind.SUCCEEDED or outcome.error
    scenario.after(bench, outcome)


def test_the_page_lists_these_scenarios_and_no_others() -> None:
    assert [cells[0] for cells in table_under("| shown with the real CLI |")] == list(SCENARIOS)
