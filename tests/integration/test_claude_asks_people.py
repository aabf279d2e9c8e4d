"""Claude asks, and a person answers with `turbo answer` and `turbo approve`: the real CLI against a scripted model."""

from pathlib import Path

from tests.integration.test_claude_asks_workers import RULE, agent, asked
from tests.support import claude, messages_api
from tests.support.claude_asking import calls, question, shell
from tests.support.shell import Shell
from tests.support.workers import Bench

__all__ = ["agent"]  # a fixture


def test_claude_goes_on_with_what_people_type(bench: Bench, agent: claude.Bench, tmp_path: Path) -> None:
    turbo = Shell(bench.dsn, tmp_path)
    asks = calls(question("Which database?", "Which parts?", multi=True, labels=("api", "web", "docs")))
    agent.api.answer(asks, calls(shell("touch made")), messages_api.text("done"))
    bench.start(agent.config(bench, poll_seconds=0.5, ask={"approve": [RULE]})).listening()
    bench.insert("t", max_retries=0, timeout_seconds=100)
    asked(bench, "t")
    assert "Which database? (and 1 more)" in turbo("questions").out
    dialog = turbo.terminal("answer", "t")
    dialog.said("1 of 2: Which database?")
    dialog.said("numbers (1,3), or text> ")
    dialog.type("PostgreSQL 16\n")
    dialog.said("2 of 2: Which parts?")
    dialog.said("3  docs: use docs")
    dialog.type("1,3\n")
    assert "t: pending" in dialog.ended().text

    asked(bench, "t", 2)
    told = agent.api.requests[-1].everything
    assert '\\"Which database?\\"=\\"PostgreSQL 16\\"' in told
    assert '\\"Which parts?\\"=\\"api, docs\\"' in told
    approved = turbo("approve", "t")
    assert (approved.code, approved.out) == (0, "t: approved\n")
    assert "asks             May the agent run this command?\n" in approved.err
    assert "command          touch made\n" in approved.err
    assert f"rule             {RULE}\n" in approved.err
    assert bench.wait("t", seconds=60)["output_data"]["output"] == "done"
    assert len(list(bench.path.rglob("made"))) == 1
