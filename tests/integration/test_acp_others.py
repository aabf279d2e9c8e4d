"""The profiles of Gemini CLI and Qwen Code, with the real programs against loopback services."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import completions_api, gemini_api, workers
from tests.support.acp_real import RealBench
from tests.support.codex_scenarios import left_in
from tests.support.messages_api import Answer, MessagesApi
from tests.support.waiting import until, until_async
from turbo.config.acp import Permissions
from turbo.domain.outcome import ModelUsage, OutcomeKind
from turbo.domain.states import StopCause

SECONDS = 150.0


@dataclass(frozen=True)
class Agent:
    model: str
    api: Callable[[Answer], MessagesApi]
    text: Callable[[str], Answer]
    shell: Callable[[str], Answer]
    refused: Answer
    used: ModelUsage


def _gemini_shell(command: str) -> Answer:
    return gemini_api.call("run_shell_command", {"command": command, "description": "run"})


def _qwen_shell(command: str) -> Answer:
    return completions_api.call("run_shell_command", {"command": command, "description": "run", "is_background": False})


AGENTS = {
    "gemini": Agent(
        "gemini-2.5-flash",
        gemini_api.GeminiApi,
        gemini_api.text,
        _gemini_shell,
        gemini_api.error(401, "API key not valid", "UNAUTHENTICATED"),
        ModelUsage("gemini-2.5-flash", 100, 7),
    ),
    "qwen": Agent(
        "fake",
        completions_api.CompletionsApi,
        completions_api.text,
        _qwen_shell,
        completions_api.error(401, "Incorrect API key provided", "invalid_api_key"),
        ModelUsage("fake", 60, 7, 40),
    ),
}


@pytest.fixture(scope="module", params=list(AGENTS))
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, tmp_path_factory.mktemp(request.param)


@pytest.fixture
def bench(home: tuple[str, Path], tmp_path: Path) -> Iterator[tuple[RealBench, Agent]]:
    name, place = home
    agent = AGENTS[name]
    with agent.api(agent.text("hello there")) as api:
        yield RealBench(place, tmp_path / "work", api=api, agent=name, model=agent.model), agent


async def test_answer_has_usage_and_its_session_goes_on(bench: tuple[RealBench, Agent]) -> None:
    here, agent = bench
    executor = here.executor(resume=True)
    first = await here.do(executor, "count the sheep", timeout_seconds=SECONDS)
    assert (first.kind, first.output) == (OutcomeKind.SUCCEEDED, "hello there"), first
    assert first.usage == (agent.used,)
    here.api.answer(agent.text("seven"))
    second = await here.do(
        executor, "count the sheep", timeout_seconds=SECONDS, retry_count=1, agent_session_id=first.session_id
    )
    assert second.output == "seven", second
    assert "count the sheep" in here.api.requests[-1].everything
    if here.agent == "qwen":  # Gemini sometimes does not find a session that it has just left: then the run begins anew
        assert second.session_id == first.session_id


async def test_dead_login_and_denied_command_are_told(bench: tuple[RealBench, Agent]) -> None:
    here, agent = bench
    here.api.answer(agent.refused)
    refused = await here.do(here.executor(), timeout_seconds=SECONDS)
    assert refused.kind is OutcomeKind.AUTH_FAILED, refused
    here.api.answer(agent.shell("touch made"), agent.text("I could not"))
    settings: dict[str, Any] = {"mode": "default"}
    denied = await here.do(here.executor(**settings), timeout_seconds=SECONDS)
    assert denied.extra.get("permissions_denied") == 1, denied
    assert not (here.work / "made").exists()


async def test_stop_ends_the_agent_with_its_tool(bench: tuple[RealBench, Agent]) -> None:
    here, agent = bench
    here.api.answer(agent.shell("touch begun; sleep 300"), agent.text("done"))
    run = here.run(timeout_seconds=SECONDS)
    executor = here.executor(mode="default", permissions=Permissions(execute="allow"))
    running = asyncio.create_task(executor.run(run))
    await until_async(lambda: (here.work / "begun").exists() or running.done(), SECONDS)
    run.stop.set(StopCause.CANCEL)
    outcome = await running
    assert outcome.kind is OutcomeKind.CANCELLED, outcome
    assert left_in(here.work.parent) == []


def test_killed_worker_leaves_no_agent_and_no_tool(bench: tuple[RealBench, Agent], dsn: str, tmp_path: Path) -> None:
    here, agent = bench
    here.api.answer(agent.shell("touch begun; sleep 300"), agent.text("done"))
    with workers.bench(dsn, tmp_path) as fleet:
        section: dict[str, Any] = {"mode": "default", "permissions": {"execute": "allow"}}
        worker = fleet.start(here.config(fleet, **section)).listening()
        fleet.insert("t", timeout_seconds=SECONDS)
        until(lambda: any(one.info["name"] == "sleep" for one in left_in(worker.state_dir)), SECONDS, fleet.logs)
        worker.kill(signal.SIGKILL)
        until(lambda: left_in(worker.state_dir) == [], 30, what="no process left")
