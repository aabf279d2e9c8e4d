"""The acp executor with the real OpenCode (tests/support/acp_real.py), in the situations that it can be brought into.

Each of `OPENCODE` is a line of the second table in docs/executors/acp.md. What an agent can do wrong besides is in
test_acp_scripted.py.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import completions_api
from tests.support.acp_real import OPENCODE_MODEL, RealBench, an_opencode_bench, opencode_home
from tests.support.codex_scenarios import left_in
from tests.support.completions_api import Answer, call, text
from tests.support.markdown import ACP_PAGE, table_under
from tests.support.waiting import until_async
from turbo.config.acp import Permissions
from turbo.domain.outcome import ModelUsage, Outcome, OutcomeKind
from turbo.domain.question import Answered, AskPolicy
from turbo.domain.run import Run
from turbo.domain.states import StopCause
from turbo.executors.acp.verdict import TABLE
from turbo.executors.held_calls import HeldCalls

__all__ = ["opencode_home"]
SECONDS = 150.0
"""A start takes 3 s on an idle host, and half a minute on a busy one."""


@pytest.fixture
def bench(opencode_home: Path, tmp_path: Path) -> Iterator[RealBench]:
    """A directory of its own for each test, and one home for all: the agent fills a new one for seconds."""
    with an_opencode_bench(opencode_home) as bench:
        yield replace(bench, work=tmp_path / "work")


@dataclass(frozen=True)
class Shown:
    answers: tuple[Answer, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    untitled: bool = False
    act: "Callable[[RealBench, Run], Any] | None" = None
    after: Callable[[RealBench, Outcome], None] = lambda _bench, _outcome: None


def usage_is_told(bench: RealBench, outcome: Outcome) -> None:
    assert outcome.output == "hello there"
    assert outcome.usage == (ModelUsage(OPENCODE_MODEL, 60, 7, 40),)
    assert str(outcome.session_id).startswith("acp:opencode:ses_")
    assert outcome.session_id == bench.sessions[-1]


def tool_was_used(bench: RealBench, outcome: Outcome) -> None:
    assert (bench.work / "made.txt").read_text() == "hi\n"
    assert outcome.output == "done"


def nothing_was_written(bench: RealBench, outcome: Outcome) -> None:
    assert not (bench.home / "outside.txt").exists()
    assert outcome.extra["permissions_denied"] == 1


async def cancel_while_a_tool_runs(bench: RealBench, run: Run) -> None:
    await until_async(lambda: (bench.work / "begun").exists(), SECONDS)
    run.stop.set(StopCause.CANCEL)


def nothing_is_left(bench: RealBench, _outcome: Outcome) -> None:
    assert left_in(bench.work.parent) == []


TOO_LONG = completions_api.error(400, "This model's maximum context length is 100 tokens", "context_length_exceeded")
OPENCODE = {
    "an answer, with its usage": Shown((text("hello there"),), after=usage_is_told),
    "a command is run": Shown(
        (call("bash", {"command": "echo hi > made.txt", "description": "write"}), text("done")), after=tool_was_used
    ),
    "401": Shown((completions_api.error(401, "Incorrect API key provided", "invalid_api_key"),)),
    "402": Shown((completions_api.error(402, "Payment required"),)),
    "400": Shown((completions_api.error(400, "something is wrong"),)),
    "a prompt beyond the model's context": Shown((TOO_LONG,), untitled=True),
    "a model that the service does not know": Shown(
        (completions_api.error(404, "The model does not exist", "model_not_found"),)
    ),
    "a model that OpenCode does not know": Shown((text("x"),), {"model": "loop/nope"}),
    "an answer that a filter refuses": Shown((completions_api.ended("content_filter"),)),
    "answers that break off, again and again": Shown((completions_api.cut(),)),
    "a file outside its directory": Shown(
        (call("write", {"filePath": "{home}/outside.txt", "content": "x"}), text("done")), after=nothing_was_written
    ),
    "a cancel while a command runs": Shown(
        (call("bash", {"command": "touch begun; sleep 300", "description": "wait"}), text("done")),
        act=cancel_while_a_tool_runs,
        after=nothing_is_left,
    ),
}


@pytest.mark.parametrize("name", OPENCODE)
async def test_every_shown_opencode_situation_matches(bench: RealBench, name: str) -> None:
    shown = OPENCODE[name]
    if shown.untitled:
        bench.api.decide = lambda _request: None
    at_home = [replace(one, pieces=tuple(_at(bench.home, piece) for piece in one.pieces)) for one in shown.answers]
    bench.api.answer(*at_home)
    run = bench.run(timeout_seconds=SECONDS)
    acting = asyncio.ensure_future(shown.act(bench, run)) if shown.act else None
    outcome = await bench.executor(**shown.settings).run(run)
    if acting is not None:
        await acting
    situation = dict(table_under(ACP_PAGE, "| shown with OpenCode |"))[name]
    row = next(row for row in TABLE if row.name == situation)
    assert outcome.extra.get("situation", "answered") == situation, outcome
    assert (outcome.kind, outcome.failure_kind, outcome.final) == (row.kind, row.failure_kind, row.final)
    shown.after(bench, outcome)


def _at(home: Path, piece: bytes) -> bytes:
    return piece.replace(b"{home}", os.fsencode(home))


def test_page_lists_exactly_what_is_shown_with_opencode() -> None:
    assert [cells[0] for cells in table_under(ACP_PAGE, "| shown with OpenCode |")] == list(OPENCODE)


async def test_opencode_holds_a_call_until_a_person_approves(bench: RealBench) -> None:
    """And goes on with the session in which it asked, in a process of its own."""
    push = call("bash", {"command": f"touch {bench.work}/pushed; git push origin x", "description": "push"})
    executor = bench.executor(
        ask=AskPolicy(approve=("Bash(git push *)",)),
        held=HeldCalls(["Bash(git push *)"]),
        permissions=Permissions(execute="allow"),
    )
    bench.api.answer(call("bash", {"command": "echo ok", "description": "say"}), push, text("never"))
    asked = await bench.do(executor, timeout_seconds=SECONDS)
    assert asked.kind is OutcomeKind.ASKED, asked
    assert asked.asked is not None
    assert not (bench.work / "pushed").exists()

    bench.api.answer(push, text("pushed"))
    answers = (Answered(asked.asked.question, "yes"),)
    second = await bench.do(executor, timeout_seconds=SECONDS, answers=answers, agent_session_id=asked.session_id)
    assert (second.kind, second.output, second.session_id) == (OutcomeKind.SUCCEEDED, "pushed", asked.session_id)
    assert (bench.work / "pushed").exists()
    assert "echo ok" in bench.api.requests[-1].everything, "it is the same conversation"
