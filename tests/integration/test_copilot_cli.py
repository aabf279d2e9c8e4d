"""The copilot executor with the real GitHub Copilot CLI (tests/support/copilot.py) in every situation it can be in.

A stand-in for the CLI is used only for what the real one (1.0.102) cannot be made to do here. Each of `COPILOT_SCENARIOS` is a line of
the second table in docs/executors/copilot.md.
"""

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.copilot import CopilotBench, a_copilot_bench, the_copilot
from tests.support.copilot_scenarios import COPILOT_SCENARIOS, HELLO
from tests.support.markdown import COPILOT_PAGE, table_under
from tests.support.size import FULL
from turbo.domain.outcome import OutcomeKind
from turbo.executors.copilot.verdict import TABLE


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CopilotBench]:
    with a_copilot_bench(tmp_path_factory) as bench:
        yield bench


WAITED_FOR = (
    pytest.mark.sized,
    pytest.mark.skipif(not FULL, reason="the CLI retries for half a minute, which make prove waits for"),
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=WAITED_FOR) if one.slow else name for name, one in COPILOT_SCENARIOS.items()]
)
async def test_every_copilot_situation_matches_its_row(bench: CopilotBench, name: str) -> None:
    scenario = COPILOT_SCENARIOS[name]
    settings = dict(scenario.settings)
    if scenario.stand_in is not None:
        program = bench.home / "copilot"
        program.write_text(f"#!/bin/sh\n{scenario.stand_in}\n")
        program.chmod(0o755)
        settings["command"] = [str(program)]
    elif "command" in settings:
        settings["command"] = [word.replace("{copilot}", the_copilot()) for word in settings["command"]]  # type: ignore[attr-defined]
    executor = bench.executor(scenario.with_login, github=scenario.github, resume=True, **settings)
    session = None
    if scenario.begun:
        bench.api.answer(HELLO)
        session = (await bench.do(executor)).session_id
        bench.pids.clear()
    bench.api.answer(*scenario.answers)
    bench.api.github.update(scenario.served)
    run = bench.run(scenario.prompt, timeout_seconds=scenario.timeout, agent_session_id=session)
    acting = asyncio.ensure_future(scenario.act(bench, run)) if scenario.act else None  # type: ignore[call-overload]
    async with asyncio.timeout(90.0):
        outcome = await executor.run(run)
    if acting is not None:
        await acting

    situation = dict(table_under(COPILOT_PAGE, "| shown with the real CLI |"))[name]
    row = next(row for row in TABLE if row.name == situation)
    assert outcome.extra.get("situation", "answered") == situation, outcome
    assert (outcome.kind, outcome.failure_kind, outcome.final) == (row.kind, row.failure_kind, row.final)
    assert outcome.kind is OutcomeKind.SUCCEEDED or outcome.error
    assert (outcome.session_id == "") == row.ends_session
    scenario.after(bench, outcome)


def test_page_lists_exactly_these_copilot_scenarios() -> None:
    assert [cells[0] for cells in table_under(COPILOT_PAGE, "| shown with the real CLI |")] == list(COPILOT_SCENARIOS)


def test_each_copilot_situation_is_shown() -> None:
    shown = {cells[1] for cells in table_under(COPILOT_PAGE, "| shown with the real CLI |")}
    assert {row.name for row in TABLE} == shown
