"""What a row may do with the claude executor, how its account is tried out, and the worker's own part; real CLI."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import messages_api
from tests.support.claude import ALLOWED, KEY, OAUTH, RESETS_AT, Bench, a_bench, bash, the_cli
from tests.support.messages_api import Answer
from tests.support.waiting import until_async
from turbo.domain.outcome import FailureKind, OutcomeKind
from turbo.domain.states import StopCause
from turbo.executors.claude import executor as claude


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with a_bench(tmp_path_factory) as bench:
        yield bench


# ── what a row can do ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_file_name_in_a_row_is_never_read_by_the_cli(bench: Bench) -> None:
    bench.home.joinpath("secret.txt").write_text("the-secret-itself")
    await bench.do(bench.executor(), f"look at @{bench.home}/secret.txt and @secret.txt")
    assert "the-secret-itself" not in str(bench.api.requests[0].body)
    await bench.do(bench.executor(env={"CLAUDE_CODE_DISABLE_FILE_MENTIONS": ""}), f"look at @{bench.home}/secret.txt")
    assert "the-secret-itself" in str(bench.api.requests[1].body), "this CLI attaches nothing: the test proves nothing"


async def test_agent_receives_input_data_without_cwd(bench: Bench) -> None:
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


async def test_row_cannot_leave_the_allowed_roots(bench: Bench) -> None:
    outcome = await bench.do(bench.executor(allowed_roots=[bench.home / "work"]), input_data={"cwd": "/etc"})
    assert (outcome.kind, outcome.final) == (OutcomeKind.FAILED, True)
    assert bench.pids == []


async def test_process_list_shows_neither_prompt_nor_secret(bench: Bench) -> None:
    bench.api.answer(messages_api.silent())
    run = bench.run("a very private matter")
    job = asyncio.create_task(bench.executor().run(run))
    await until_async(lambda: bool(bench.api.requests))
    argv = " ".join(psutil.Process(bench.pids[0]).cmdline())
    run.stop.set(StopCause.CANCEL)
    await job
    assert "--session-id" in argv
    assert "private" not in argv
    assert KEY["ANTHROPIC_API_KEY"] not in argv


async def test_log_holds_the_cli_output_and_no_secret(bench: Bench) -> None:
    outcome = await bench.do(bench.executor())
    log = Path(outcome.log or "").read_text()
    assert '"subtype":"init"' in log
    assert '"type":"result"' in log
    assert KEY["ANTHROPIC_API_KEY"] not in log


async def test_worker_environment_does_not_reach_the_cli(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBO_DSN", "postgresql://secret")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "the worker's")
    bench.api.answer(bash("env > seen.txt"), messages_api.text("done"))
    await bench.do(bench.executor(**ALLOWED))
    seen = (bench.home / "work" / "seen.txt").read_text()
    assert "TURBO_TASK_ID=t_1\n" in seen
    assert "TURBO_DSN" not in seen
    assert "ANTHROPIC_AUTH_TOKEN" not in seen


# ── the account ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_probe_is_one_small_call_with_the_configured_model(bench: Bench) -> None:
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
        (messages_api.error(529, "overloaded_error", "Overloaded"), KEY, OutcomeKind.UNAVAILABLE, 1),
    ],
)
async def test_probe_reports_an_error_without_retries(
    bench: Bench, answer: Answer, login: dict[str, str], kind: OutcomeKind, requests: int
) -> None:
    bench.api.answer(answer)
    outcome = await bench.executor(login, cli_max_retries=10).probe()
    assert outcome.kind is kind
    assert outcome.error
    assert min(requests, 1) <= len(bench.api.requests) <= requests
    assert outcome.resets_at == (RESETS_AT if kind is OutcomeKind.USAGE_LIMITED else None)


async def test_unanswered_probe_ends_in_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claude, "PROBE_SECONDS", 3.0)
    bench.api.answer(messages_api.silent())
    assert (await bench.executor().probe()).kind is OutcomeKind.TIMED_OUT


async def test_probe_that_cannot_start_does_not_blame_the_login(bench: Bench) -> None:
    outcome = await bench.executor(command=[str(bench.home / "nothing")]).probe()
    assert outcome.kind is OutcomeKind.INFRASTRUCTURE


async def test_auth_status_reports_presence_only(bench: Bench) -> None:
    bench.api.answer(messages_api.invalid_key())
    assert await bench.executor(KEY).auth_status() is True
    assert await bench.executor(OAUTH).auth_status() is True
    assert await bench.executor({}).auth_status() is False
    assert await bench.executor(command=[str(bench.home / "nothing")]).auth_status() is None
    assert bench.api.requests == []


async def test_cli_version_is_read_and_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
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


async def test_changed_cli_version_is_logged_by_the_next_run(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "turbo")
    await bench.do(bench.executor())
    assert [r.message.split(" (")[0] for r in caplog.records if "Claude CLI" in r.message]


# ── the worker's part ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_missing_cli_uses_no_attempt(bench: Bench) -> None:
    outcome = await bench.do(bench.executor(command=[str(bench.home / "nothing")]))
    assert (outcome.kind, outcome.failure_kind) == (OutcomeKind.INFRASTRUCTURE, FailureKind.INFRASTRUCTURE)


async def test_env_file_readable_by_others_is_not_used(bench: Bench) -> None:
    executor = bench.executor()
    (bench.home / "account.env").chmod(0o644)
    outcome = await bench.do(executor)
    assert outcome.kind is OutcomeKind.INFRASTRUCTURE
    assert "chmod 600" in (outcome.error or "")
    assert bench.pids == []


async def test_ten_agents_share_one_configuration(bench: Bench) -> None:
    executor = bench.executor()
    outcomes = await asyncio.gather(*(bench.do(executor, task_id=f"t_{n}") for n in range(10)))
    assert [o.output for o in outcomes] == ["hello there"] * 10
    assert len({o.session_id for o in outcomes}) == 10
