"""The codex executor with the real Codex CLI (tests/support/codex.py) in every situation it can be in.

A stand-in for the CLI is used only for what the real one (0.169.0) cannot be made to do here. Each of `CODEX_SCENARIOS` is a line of
the second table in docs/executors/codex.md.
"""

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.codex import CodexBench, a_codex_bench, the_codex
from tests.support.codex_scenarios import CODEX_SCENARIOS, HELLO
from tests.support.markdown import CODEX_PAGE, table_under
from turbo.domain.outcome import OutcomeKind
from turbo.executors.codex.verdict import TABLE


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodexBench]:
    with a_codex_bench(tmp_path_factory) as bench:
        yield bench


@pytest.mark.parametrize("name", CODEX_SCENARIOS)
async def test_every_codex_situation_matches_its_row(bench: CodexBench, name: str) -> None:
    scenario = CODEX_SCENARIOS[name]
    settings = dict(scenario.settings)
    if scenario.stand_in is not None:
        program = bench.home / "codex"
        program.write_text(f"#!/bin/sh\n{scenario.stand_in}\n")
        program.chmod(0o755)
        settings["command"] = [str(program)]
    elif "command" in settings:
        settings["command"] = [word.replace("{codex}", the_codex()) for word in settings["command"]]  # type: ignore[attr-defined]
    executor = bench.executor(scenario.login, retries=scenario.retries, resume=True, **settings)
    session = None
    if scenario.begun:
        bench.api.answer(HELLO)
        session = (await bench.do(executor)).session_id
        bench.pids.clear()
    bench.api.answer(*scenario.answers)
    run = bench.run(scenario.prompt, timeout_seconds=scenario.timeout, agent_session_id=session)
    acting = asyncio.ensure_future(scenario.act(bench, run)) if scenario.act else None  # type: ignore[call-overload]
    async with asyncio.timeout(90.0):
        outcome = await executor.run(run)
    if acting is not None:
        await acting

    situation = dict(table_under(CODEX_PAGE, "| shown with the real CLI |"))[name]
    row = next(row for row in TABLE if row.name == situation)
    said = "a person is asked" if outcome.kind is OutcomeKind.ASKED else "answered"
    assert outcome.extra.get("situation", said) == situation, outcome
    assert (outcome.kind, outcome.failure_kind, outcome.final) == (row.kind, row.failure_kind, row.final)
    assert outcome.kind in (OutcomeKind.SUCCEEDED, OutcomeKind.ASKED) or outcome.error
    assert (outcome.session_id == "") == row.ends_session
    scenario.after(bench, outcome)


def test_page_lists_exactly_these_codex_scenarios() -> None:
    assert [cells[0] for cells in table_under(CODEX_PAGE, "| shown with the real CLI |")] == list(CODEX_SCENARIOS)


def test_each_codex_situation_is_shown() -> None:
    shown = {cells[1] for cells in table_under(CODEX_PAGE, "| shown with the real CLI |")}
    assert {row.name for row in TABLE} == shown
