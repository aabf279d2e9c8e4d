"""Threads, messages, questions, git and answers of the codex executor, with the real Codex CLI."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import claude, responses_api
from tests.support.checks import checks, results
from tests.support.codex import ASKING_MODEL, CodexBench, a_codex_bench, the_codex
from tests.support.codex_scenarios import left_in
from tests.support.mailboxes import Told
from tests.support.repositories import commit, git, repository
from tests.support.responses_api import shell, text
from tests.support.waiting import until_async
from turbo.domain.outcome import ModelUsage, Outcome, OutcomeKind
from turbo.domain.question import Answered, AskPolicy
from turbo.domain.run import Snooze
from turbo.domain.states import StopCause
from turbo.domain.work import Continued, Earlier
from turbo.executors.agent.prompts import GOES_ON, PREAMBLE, RESUME_PROMPT
from turbo.executors.checks.loop import Checks
from turbo.executors.checks.schema import SchemaJudge
from turbo.executors.codex.answer import codex_answer
from turbo.executors.codex.program import native
from turbo.executors.schemas.fit import Fit
from turbo.process.journal import Journal

OTHER_THREAD = "codex:01a21dfa-9ac1-7b61-8a85-c262bedfcbe5"
CLAUDE_SESSION = "11111111-1111-4111-8111-111111111111"
ONE_TURN = [ModelUsage("gpt-5.5", 60, 7, 40, 0)]


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodexBench]:
    with a_codex_bench(tmp_path_factory) as bench:
        yield bench


def tried(outcome: Outcome) -> dict[str, Any]:
    return {"retry_count": 1, "agent_session_id": outcome.session_id}


def after(session: str | None) -> dict[str, Any]:
    """The fields of a follow-up of a task that left this session."""
    continued = Continued("t_1", "seven", "t_1", earlier=(Earlier("t_1", "count the sheep", "seven"),))
    return {"task_id": "t_2", "agent_session_id": session, "continued": continued}


# ── threads ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_retry_goes_on_with_the_thread_and_counts_its_share(bench: CodexBench) -> None:
    executor = bench.executor(resume=True)
    bench.api.answer(shell("echo first"), responses_api.error(418, "I am a teapot"))
    first = await bench.do(executor, "count the sheep")
    assert (first.kind, first.session_id) == (OutcomeKind.FAILED, bench.sessions[0])
    assert list(first.usage) == ONE_TURN

    bench.api.answer(text("seven"))
    second = await bench.do(executor, "count the sheep", **tried(first))
    assert (second.kind, second.output, second.session_id) == (OutcomeKind.SUCCEEDED, "seven", first.session_id)
    assert bench.api.requests[-1].prompt == RESUME_PROMPT
    assert bench.api.requests[-1].everything.count("count the sheep") == 1
    assert "echo first" in bench.api.requests[-1].everything
    assert list(second.usage) == ONE_TURN, "the CLI's own figures are the thread's"


async def test_without_resume_every_attempt_begins_a_thread(bench: CodexBench) -> None:
    executor = bench.executor()
    first = await bench.do(executor)
    second = await bench.do(executor, **tried(first))
    assert bench.sessions == [first.session_id, second.session_id]
    assert first.session_id != second.session_id


async def test_follow_up_is_the_next_prompt_of_its_thread(bench: CodexBench) -> None:
    first = await bench.do(bench.executor(), "count the sheep")
    second = await bench.do(bench.executor(), "count the goats", **after(first.session_id))
    assert second.session_id == first.session_id
    assert bench.api.requests[-1].prompt == f"{GOES_ON} {PREAMBLE}\n\ncount the goats"


@pytest.mark.parametrize("session", [OTHER_THREAD, CLAUDE_SESSION, "codex:--last", "not a session; -m x"])
async def test_thread_that_is_not_here_begins_anew_in_the_run(bench: CodexBench, session: str) -> None:
    outcome = await bench.do(bench.executor(resume=True), "count the goats", **after(session))
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert bench.sessions == [outcome.session_id]
    assert outcome.session_id not in ("", None, session)
    (request,) = bench.api.requests
    assert request.prompt.startswith(f"{PREAMBLE}\n\ncount the goats")
    assert '"task": "count the sheep"' in request.prompt, "it is told of the conversation"


async def test_conversations_are_resumed_by_their_own_kind_only(
    bench: CodexBench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with claude.a_bench(tmp_path_factory) as other:
        by_codex = await bench.do(bench.executor(), "count the sheep")
        by_claude = await other.do(other.executor(), "count the sheep")
        for session in (by_codex.session_id, by_claude.session_id):
            await bench.do(bench.executor(), "count the goats", **after(session))
            await other.do(other.executor(), "count the goats", **after(session))
        assert [r.everything.count("hello there") for r in bench.api.requests] == [0, 1, 0]
        assert [r.everything.count("hello there") for r in other.api.requests] == [0, 0, 1]


async def test_thread_that_another_process_writes_to_is_waited_for(bench: CodexBench) -> None:
    executor = bench.executor(resume=True)
    first = await bench.do(executor)
    bench.api.answer(responses_api.silent())
    writer = asyncio.create_task(executor.run(bench.run(**tried(first))))
    await until_async(lambda: len(bench.api.requests) == 2)
    with pytest.raises(Snooze, match="in use by another process"):
        await bench.do(executor, **tried(first))
    os.kill(bench.pids[1], signal.SIGKILL)
    killed = await writer
    bench.api.answer(text("seven"))
    assert (await bench.do(executor, **tried(killed))).session_id == first.session_id


async def test_probe_leaves_no_thread_behind(bench: CodexBench) -> None:
    outcome = await bench.executor().probe()
    assert (outcome.kind, list(outcome.usage)) == (OutcomeKind.SUCCEEDED, ONE_TURN)
    assert list(bench.home.glob(".codex/sessions/**/*.jsonl")) == []
    bench.api.answer(responses_api.error(401, "no"))
    assert (await bench.executor().probe()).kind is OutcomeKind.AUTH_FAILED


# ── messages and questions ──────────────────────────────────────────────────────────────────────────────────────────


async def test_message_to_a_run_is_its_next_prompt(bench: CodexBench) -> None:
    told = Told("use ties")
    told.last = ["and no buttons"]
    outcome = await bench.do(bench.executor(), "sew a coat", messages=told.mailbox)
    assert [request.prompt.count("use ties") for request in bench.api.requests] == [1, 0]
    assert [request.prompt.count("and no buttons") for request in bench.api.requests] == [0, 1]
    assert told.delivered == ["use ties", "and no buttons"]
    assert len(bench.sessions) == 2
    assert len(set(bench.sessions)) == 1
    assert [(u.input_tokens, u.output_tokens) for u in outcome.usage] == [(120, 14)]


async def test_message_to_an_agent_that_never_answered_stays(bench: CodexBench) -> None:
    told = Told("use ties")
    bench.api.answer(responses_api.error(503, "busy", "server_is_overloaded"))
    await bench.do(bench.executor(), "sew a coat", messages=told.mailbox)
    assert told.delivered == []
    assert told.mailbox.waiting


async def test_answer_reaches_the_thread_that_asked(bench: CodexBench) -> None:
    executor = bench.executor(model=ASKING_MODEL, ask=AskPolicy())
    bench.api.answer(responses_api.question("Which database?", "PostgreSQL", "SQLite"), text("I wait."))
    first = await bench.do(executor, "set it up")
    assert first.asked is not None
    bench.api.answer(text("PostgreSQL it is"))
    answers = (Answered(first.asked.question, "PostgreSQL"),)
    second = await bench.do(executor, "set it up", answers=answers, agent_session_id=first.session_id)
    assert (second.kind, second.output, second.session_id) == (
        OutcomeKind.SUCCEEDED,
        "PostgreSQL it is",
        first.session_id,
    )
    assert '"answer": "PostgreSQL"' in bench.api.requests[-1].prompt


# ── the directory ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_agent_commits_in_a_worktree_and_writes_no_hook(bench: CodexBench) -> None:
    repo, tree = repository(bench.home / "repo"), bench.home / "tree"
    git(repo, "worktree", "add", "-q", str(tree), "-b", "work")
    gitdir = repo / ".git" / "worktrees" / "tree"
    tries = [
        "echo a > a && git add a && git -c user.name=a -c user.email=a@b commit -qm made",
        f"echo 'touch /tmp/bad' > {repo}/.git/hooks/post-commit",
        f"git config core.hooksPath /tmp; echo x >> {repo}/.git/config",
        f"echo /tmp > {gitdir}/commondir",
        f"echo x > {repo}/readme",
        "echo x > /tmp/turbo-codex-test; echo $CODEX_API_KEY",
    ]
    before = (repo / ".git" / "config").read_text()
    bench.api.answer(*[shell(one) for one in tries], text("done"))
    await bench.do(bench.executor(cwd=tree))
    assert git(tree, "log", "--format=%s", "-1") == "made"
    assert git(tree, "show", "--format=", "--name-only") == "a"
    assert not (repo / ".git" / "hooks" / "post-commit").exists()
    assert (repo / ".git" / "config").read_text() == before
    assert (gitdir / "commondir").read_text() == "../..\n"
    assert (repo / "readme").read_text() == "hello\n"
    assert not Path("/tmp/turbo-codex-test").exists()
    assert "sk-test" not in bench.api.requests[-1].everything
    assert {p.name for p in tree.iterdir()} == {".git", "readme", "a"}, "the sandbox has left nothing behind"


async def test_agent_commits_in_a_plain_repository(bench: CodexBench) -> None:
    repo = repository(bench.home / "repo")
    bench.api.answer(shell("git -c user.name=a -c user.email=a@b commit -q --allow-empty -m made"), text("done"))
    await bench.do(bench.executor(cwd=repo))
    assert git(repo, "log", "--format=%s", "-1") == "made"


async def test_worktree_that_names_another_place_opens_nothing(bench: CodexBench) -> None:
    """As an agent, or a row with `cwd`, could prepare one."""
    target, tree = bench.home / "target" / "worktrees" / "x", bench.home / "tree"
    target.mkdir(parents=True)
    tree.mkdir()
    (bench.home / "target" / "HEAD").write_text("ref: refs/heads/main\n")
    (target / "gitdir").write_text("/somewhere/else/.git\n")
    (tree / ".git").write_text(f"gitdir: {target}\n")
    bench.api.answer(shell(f"echo x > {bench.home}/target/written; echo y > mine"), text("done"))
    await bench.do(bench.executor(cwd=tree))
    assert (tree / "mine").exists(), "its own directory it may write to"
    assert not (bench.home / "target" / "written").exists()


async def test_repository_brings_no_configuration(bench: CodexBench) -> None:
    repo = repository(bench.home / "repo")
    (repo / ".codex").mkdir()
    server = f'[mcp_servers.bad]\ncommand = "touch"\nargs = ["{bench.home}/started"]\n'
    commit(repo, "config", **{".codex/config.toml": f'model = "other"\n{server}'})
    await bench.do(bench.executor(cwd=repo))
    assert bench.api.requests[0].body["model"] == "gpt-5.5"
    assert not (bench.home / "started").exists()


# ── what is judged ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_check_sends_its_finding_into_the_thread(bench: CodexBench) -> None:
    judged = checks(bench.home, "test -f made || { echo not made; exit 1; }")
    bench.api.answer(text("done"), shell("touch made"), text("now it is"))
    outcome = await bench.do(bench.executor(checks=judged))
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, "now it is")
    assert len(set(bench.sessions)) == 1
    assert "not made" in bench.api.requests[1].prompt
    assert results(outcome) == ["failed", "passed"]
    assert [(u.input_tokens, u.output_tokens) for u in outcome.usage] == [(180, 21)]


STRICT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
LOOSE = {"type": "object", "properties": {"n": {"type": "integer", "default": 3}}}


@pytest.mark.parametrize(("schema", "by_the_cli"), [(STRICT, True), (LOOSE, False)])
async def test_answer_is_judged_whoever_enforces_the_schema(
    bench: CodexBench, schema: dict[str, object], by_the_cli: bool
) -> None:
    file = bench.home / "schema.json"
    file.write_text(json.dumps(schema))
    fit = Fit.of_file(file, Journal(bench.home / "journal"))
    judged = Checks((SchemaJudge(fit, reads_text=True),), rounds=2, reads_answer=True)
    bench.api.answer(text('{"n": "seven"}'), text('{"n": 7}'))
    outcome = await bench.do(bench.executor(checks=judged, answer=codex_answer("codex", fit.schema, ["codex"])))
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, {"n": 7})
    assert (
        "text" in bench.api.requests[0].body and "schema" in json.dumps(bench.api.requests[0].body["text"])
    ) is by_the_cli
    assert ("JSON Schema" in bench.api.requests[0].prompt) is not by_the_cli


# ── the program ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_native_binary_runs_in_place_of_the_launcher(bench: CodexBench) -> None:
    bench.api.answer(responses_api.silent())
    run = bench.run()
    job = asyncio.create_task(bench.executor().run(run))
    await until_async(lambda: bool(bench.api.requests))
    program = psutil.Process(bench.pids[0]).exe()
    run.stop.set(StopCause.CANCEL)
    await job
    assert program == native(the_codex())
    assert Path(program).name == "codex"
    assert left_in(bench.home) == []


async def test_version_and_login_are_told(bench: CodexBench) -> None:
    package = Path(the_codex()).resolve().parent.parent / "package.json"
    assert await bench.executor().version() == json.loads(package.read_text())["version"]
    assert await bench.executor().logged_in() is True
    assert await bench.executor({}).logged_in() is False
    assert await bench.executor().sandboxed() is None


def test_missing_program_is_told_before_a_task_is_claimed(bench: CodexBench) -> None:
    problem = bench.executor(command=["codex-x"]).missing()
    assert problem is not None
    assert "codex-x" in problem
    assert "install the Codex CLI" in problem
