"""The claude executor with the real Claude CLI (tests/support/claude.py) in every situation it can be in.

A stand-in for the CLI is used only for what the real one (2.1.330) cannot be made to do: `exit 0, nothing said`, which
2.1.197 does on SIGINT. Each of `SCENARIOS` is a line of the second table in docs/executors.md.
"""

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.claude import Bench, a_bench, the_cli
from tests.support.claude_scenarios import SCENARIOS
from tests.support.markdown import EXECUTORS, table_under
from turbo.domain.outcome import OutcomeKind
from turbo.executors.claude.verdict import TABLE


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with a_bench(tmp_path_factory) as bench:
        yield bench


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_cli_situation_matches_its_row(bench: Bench, name: str) -> None:
    scenario = SCENARIOS[name]
    bench.api.answer(*scenario.answers)
    bench.home.mkdir(exist_ok=True)
    scenario.before(bench.home)
    settings = dict(scenario.settings)
    if scenario.stand_in is not None:
        program = bench.home / "claude"
        program.write_text(f"#!/bin/sh\n{scenario.stand_in}\n")
        program.chmod(0o755)
        settings["command"] = [str(program)]
    if scenario.flags:
        settings["command"] = [the_cli(), *scenario.flags]
    executor = bench.executor(scenario.login, **settings)
    run = bench.run(scenario.prompt, timeout_seconds=scenario.timeout)
    acting = asyncio.ensure_future(scenario.act(bench, run)) if scenario.act else None  # type: ignore[call-overload]
    async with asyncio.timeout(90.0):
        outcome = await executor.run(run)
    if acting is not None:
        await acting

    situation = dict(table_under(EXECUTORS, "| shown with the real CLI |"))[name]
    row = next(row for row in TABLE if row.name == situation)
    said = "a person is asked" if outcome.kind is OutcomeKind.ASKED else "answered"
    assert outcome.extra.get("situation", said) == situation, outcome
    assert (outcome.kind, outcome.failure_kind, outcome.final) == (row.kind, row.failure_kind, row.final)
    assert outcome.kind in (OutcomeKind.SUCCEEDED, OutcomeKind.ASKED) or outcome.error
    scenario.after(bench, outcome)


def test_page_lists_exactly_these_scenarios() -> None:
    assert [cells[0] for cells in table_under(EXECUTORS, "| shown with the real CLI |")] == list(SCENARIOS)
