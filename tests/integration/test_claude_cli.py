"""The claude executor with the real Claude CLI, scrubbed, against a loopback Messages API.

The CLI is the one that `npm ci` in tests/.tools installs; TURBO_TEST_CLAUDE names another. A stand-in is used only for
what the real one (2.1.330) cannot be made to do: `exit 0, nothing said`, which 2.1.197 does on SIGINT.

Each test of `SCENARIOS` is a line of the second table in docs/executors.md.
"""

import asyncio
import os
import signal
import time
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
    sessions: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)

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

    def run(self, prompt: str = "say hello", **fields: object) -> Run:
        known: dict[str, object] = {"task_id": "t_1", "task_type": "analysis", "timeout_seconds": 60.0}
        task = Task(task_description=prompt, **{**known, **fields})  # type: ignore[arg-type]

        def started(pid: int) -> None:
            self.pids.append(pid)
            self.argv = psutil.Process(pid).cmdline()

        return Run(
            task=task,
            work_dir=self.home / "work",
            log_path=self.home / "attempt.log",
            started=started,
            progress=self.progress.append,
            session_started=self.sessions.append,
        )

    async def do(self, executor: ClaudeExecutor, prompt: str = "say hello", **fields: object) -> Outcome:
        return await executor.run(self.run(prompt, **fields))


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    with MessagesApi(messages_api.text("hello there")) as api:
        yield Bench(api, tmp_path_factory.mktemp("cli"))


async def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """For what another process does: there is no event to wait on."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
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


def says(*texts: str) -> Callable[[Bench, Outcome], None]:
    """One of them: versions differ in their words."""

    def check(_bench: Bench, outcome: Outcome) -> None:
        assert any(text in (outcome.error or "") for text in texts), outcome.error

    return check


def corrupt(bench: Bench) -> None:
    (bench.home / ".claude").mkdir()
    (bench.home / ".claude" / ".claude.json").write_text('{"half')


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
    run = bench.run(scenario.prompt, timeout_seconds=scenario.timeout)
    acting = asyncio.ensure_future(scenario.act(bench, run)) if scenario.act else None  # type: ignore[call-overload]
    async with asyncio.timeout(90.0):
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


# ── sessions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def tried(outcome: Outcome, session: str | None = None) -> dict[str, object]:
    """The fields of a task that has been tried once."""
    return {"retry_count": 1, "agent_session_id": session or outcome.session_id}


SERVER_ERROR = messages_api.error(500, "api_error", "Internal server error")


async def test_a_retry_goes_on_with_the_session_and_pays_only_for_itself(bench: Bench) -> None:
    executor = bench.executor(resume=True, **ALLOWED)
    bench.api.answer(bash("echo first"), SERVER_ERROR)
    first = await bench.do(executor, "count the sheep")
    assert (first.kind, first.session_id) == (OutcomeKind.FAILED, bench.sessions[0])

    bench.api.answer(messages_api.text("seven"))
    second = await bench.do(executor, "count the sheep", **tried(first))
    assert (second.kind, second.output, second.session_id) == (OutcomeKind.SUCCEEDED, "seven", first.session_id)
    conversation = bench.api.requests[-1].everything
    assert conversation.count("count the sheep") == 1
    assert "echo first" in conversation
    assert [(u.input_tokens, u.output_tokens) for u in second.usage] == [(11, 7)]


async def test_without_resume_every_try_has_a_session_of_its_own(bench: Bench) -> None:
    executor = bench.executor()
    first = await bench.do(executor)
    second = await bench.do(executor, **tried(first))
    assert bench.sessions == [first.session_id, second.session_id]
    assert first.session_id != second.session_id


@pytest.mark.parametrize("session", ["11111111-1111-4111-8111-111111111111", "not a session; --model opus"])
async def test_a_session_that_is_not_here_is_begun_anew_in_the_same_run(bench: Bench, session: str) -> None:
    outcome = await bench.do(bench.executor(resume=True), "count the sheep", agent_session_id=session, retry_count=1)
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert bench.sessions == [outcome.session_id]
    assert outcome.session_id != session
    assert bench.api.requests[0].prompt.endswith("count the sheep")


async def test_a_refused_session_is_not_offered_to_the_next_try(bench: Bench) -> None:
    bench.api.answer(messages_api.refusal())
    outcome = await bench.do(bench.executor(resume=True))
    assert outcome.session_id is None
    assert bench.sessions[-1] == ""


async def test_the_session_is_told_while_the_agent_still_works(bench: Bench) -> None:
    bench.api.answer(messages_api.silent())
    run = bench.run()
    job = asyncio.create_task(bench.executor(resume=True).run(run))
    await until(lambda: bool(bench.sessions))
    assert not job.done()
    run.stop.set("drain")
    outcome = await job
    assert (outcome.kind, outcome.session_id) == (OutcomeKind.CANCELLED, bench.sessions[0])


async def test_a_run_that_was_killed_is_resumed(bench: Bench) -> None:
    executor = bench.executor(resume=True, **ALLOWED)
    bench.api.answer(bash("echo first"), messages_api.silent())
    run = bench.run("count the sheep")
    job = asyncio.create_task(executor.run(run))
    # The CLI writes its conversation down with a delay; what is killed before that is begun anew.
    await until(lambda: any("echo first" in file.read_text() for file in bench.home.glob(".claude/projects/*/*.jsonl")))
    await until(lambda: len(bench.api.requests) == 2)
    os.kill(bench.pids[0], signal.SIGKILL)
    killed = await job
    bench.api.answer(messages_api.text("seven"))
    again = await bench.do(executor, "count the sheep", **tried(killed))
    assert (again.output, again.session_id) == ("seven", killed.session_id)
    assert "echo first" in bench.api.requests[-1].everything


# ── turns ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_background_task_that_ends_in_time_gives_the_agent_the_last_word(bench: Bench) -> None:
    """Several results: after the first the CLI waits for the task, whose end begins another turn. That one may take
    longer than the CLI may stay after a result."""
    bench.api.answer(
        bash("sleep 1; echo over", run_in_background=True),
        messages_api.text("waiting"),
        bash("sleep 3"),
        messages_api.text("it is over"),
    )
    executor = bench.executor(**ALLOWED, env={"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "0"}, leave_seconds=3.0)
    outcome = await bench.do(executor)
    assert outcome.output == "it is over"
    assert sum(u.output_tokens for u in outcome.usage) == 20 + 7 + 20 + 7


async def test_a_tool_that_is_not_allowed_is_counted_and_fails_nothing(bench: Bench) -> None:
    bench.api.answer(bash("touch made.txt"), messages_api.text("could not"))
    outcome = await bench.do(bench.executor())
    assert (outcome.kind, outcome.extra["permission_denials"]) == (OutcomeKind.SUCCEEDED, 1)
    assert not (bench.home / "work" / "made.txt").exists()


async def test_an_empty_answer_is_a_success(bench: Bench) -> None:
    bench.api.answer(messages_api.text(""))
    outcome = await bench.do(bench.executor())
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, "")


async def test_the_cli_is_ended_while_it_still_retries_a_refused_login(bench: Bench) -> None:
    """With ten retries a wrong key would take 187 s."""
    bench.api.answer(messages_api.invalid_key())
    outcome = await bench.do(bench.executor(cli_max_retries=10))
    assert outcome.kind is OutcomeKind.AUTH_FAILED
    assert len(bench.api.requests) < 5


async def test_one_401_that_passes_ends_nothing(bench: Bench) -> None:
    """A stored login may be renewed between the first refusal and the next request."""
    bench.api.answer(messages_api.invalid_key(), messages_api.text("hello there"))
    outcome = await bench.do(bench.executor(cli_max_retries=10))
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, "hello there")


# ── what a row can do ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_row_cannot_make_the_cli_read_a_file_by_naming_it(bench: Bench) -> None:
    bench.home.joinpath("secret.txt").write_text("the-secret-itself")
    await bench.do(bench.executor(), f"look at @{bench.home}/secret.txt and @secret.txt")
    assert "the-secret-itself" not in str(bench.api.requests[0].body)
    await bench.do(bench.executor(env={"CLAUDE_CODE_DISABLE_FILE_MENTIONS": ""}), f"look at @{bench.home}/secret.txt")
    assert "the-secret-itself" in str(bench.api.requests[1].body), "this CLI attaches nothing: the test proves nothing"


async def test_input_data_reaches_the_agent_and_its_cwd_does_not(bench: Bench) -> None:
    place = bench.home / "checkout"
    place.mkdir()
    executor = bench.executor(allowed_roots=[bench.home], **ALLOWED)
    bench.api.answer(bash("pwd > where.txt"), messages_api.text("done"))
    data = {"cwd": str(place), "file": "auth.py", "ümlaut": [1]}
    assert (await bench.do(executor, "review it", input_data=data)).kind is OutcomeKind.SUCCEEDED
    assert (place / "where.txt").read_text().strip() == str(place.resolve())
    assert bench.api.requests[0].prompt.endswith(
        'review it\n\nInput data of the task, as JSON:\n{"file": "auth.py", "ümlaut": [1]}'
    )


async def test_a_row_cannot_leave_the_allowed_roots(bench: Bench) -> None:
    outcome = await bench.do(bench.executor(allowed_roots=[bench.home / "work"]), input_data={"cwd": "/etc"})
    assert (outcome.kind, outcome.final) == (OutcomeKind.FAILED, True)
    assert bench.pids == []


async def test_neither_the_prompt_nor_a_secret_is_in_the_process_list(bench: Bench) -> None:
    await bench.do(bench.executor(), "a very private matter")
    argv = " ".join(bench.argv)
    assert "private" not in argv
    assert KEY["ANTHROPIC_API_KEY"] not in argv


async def test_the_log_holds_what_the_cli_said_and_no_secret(bench: Bench) -> None:
    outcome = await bench.do(bench.executor())
    log = Path(outcome.log or "").read_text()
    assert '"subtype":"init"' in log
    assert '"type":"result"' in log
    assert KEY["ANTHROPIC_API_KEY"] not in log


async def test_the_workers_own_environment_stays_its_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBO_DSN", "postgresql://secret")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "the worker's")
    bench.api.answer(bash("env > seen.txt"), messages_api.text("done"))
    await bench.do(bench.executor(**ALLOWED))
    seen = (bench.home / "work" / "seen.txt").read_text()
    assert "TURBO_TASK_ID=t_1\n" in seen
    assert "TURBO_DSN" not in seen
    assert "ANTHROPIC_AUTH_TOKEN" not in seen


# ── the account ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_probe_is_one_small_call_with_the_executors_model(bench: Bench) -> None:
    outcome = await bench.executor(model="haiku", resume=True, **ALLOWED).probe()
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert outcome.usage
    (request,) = bench.api.requests
    assert "haiku" in request.body["model"]
    assert not request.body.get("tools")


@pytest.mark.parametrize(
    ("answer", "login", "kind", "requests"),
    [
        (messages_api.invalid_key(), KEY, OutcomeKind.AUTH_FAILED, 1),
        (messages_api.expired_token(), OAUTH, OutcomeKind.AUTH_FAILED, 2),  # the CLI asks twice (2.1.197: once)
        (messages_api.text("ok"), {}, OutcomeKind.AUTH_FAILED, 0),
        (messages_api.usage_limit("five_hour", RESETS_AT), OAUTH, OutcomeKind.USAGE_LIMITED, 1),
        (messages_api.error(529, "overloaded_error", "Overloaded"), KEY, OutcomeKind.FAILED, 1),
    ],
)
async def test_a_probe_says_what_is_wrong_without_retries(
    bench: Bench, answer: Answer, login: dict[str, str], kind: OutcomeKind, requests: int
) -> None:
    bench.api.answer(answer)
    outcome = await bench.executor(login, cli_max_retries=10).probe()
    assert outcome.kind is kind
    assert outcome.error
    assert min(requests, 1) <= len(bench.api.requests) <= requests
    assert outcome.resets_at == (RESETS_AT if kind is OutcomeKind.USAGE_LIMITED else None)


async def test_a_probe_that_hears_nothing_ends_in_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claude, "PROBE_SECONDS", 3.0)
    bench.api.answer(messages_api.silent())
    assert (await bench.executor().probe()).kind is OutcomeKind.TIMED_OUT


async def test_a_probe_that_cannot_start_blames_no_login(bench: Bench) -> None:
    outcome = await bench.executor(command=[str(bench.home / "nothing")]).probe()
    assert outcome.kind is OutcomeKind.INFRASTRUCTURE


async def test_auth_status_tells_presence_only(bench: Bench) -> None:
    bench.api.answer(messages_api.invalid_key())
    assert await bench.executor(KEY).auth_status() is True
    assert await bench.executor(OAUTH).auth_status() is True
    assert await bench.executor({}).auth_status() is False
    assert await bench.executor(command=[str(bench.home / "nothing")]).auth_status() is None
    assert bench.api.requests == []


async def test_the_version_is_asked_and_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "turbo")
    executor = bench.executor()
    version = await executor.version()
    assert version is not None
    assert version[0].isdigit()
    assert await executor.version() == version
    await bench.do(executor)  # its init line tells the version, too
    assert [r.message for r in caplog.records if "Claude CLI" in r.message] == [
        f"executor claude: Claude CLI {version} ({the_cli()})"
    ]


async def test_a_version_that_changes_under_the_worker_is_logged_by_its_next_run(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "turbo")
    await bench.do(bench.executor())
    assert [r.message.split(" (")[0] for r in caplog.records if "Claude CLI" in r.message]


# ── the worker's part ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_cli_that_is_not_there_costs_the_task_no_try(bench: Bench) -> None:
    outcome = await bench.do(bench.executor(command=[str(bench.home / "nothing")]))
    assert (outcome.kind, outcome.failure_kind) == (OutcomeKind.INFRASTRUCTURE, FailureKind.INFRASTRUCTURE)


async def test_an_env_file_that_others_can_read_is_not_used(bench: Bench) -> None:
    executor = bench.executor()
    (bench.home / "account.env").chmod(0o644)
    outcome = await bench.do(executor)
    assert outcome.kind is OutcomeKind.INFRASTRUCTURE
    assert "chmod 600" in (outcome.error or "")
    assert bench.pids == []


async def test_ten_agents_at_once_share_one_configuration(bench: Bench) -> None:
    executor = bench.executor()
    outcomes = await asyncio.gather(*(bench.do(executor, task_id=f"t_{n}") for n in range(10)))
    assert [o.output for o in outcomes] == ["hello there"] * 10
    assert len({o.session_id for o in outcomes}) == 10
