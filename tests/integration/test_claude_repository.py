"""What the real CLI takes from the directory in which an agent works, and where its login can be read."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import messages_api
from tests.support.claude import ALLOWED, KEY, OAUTH, Bench, a_bench, bash, the_cli
from tests.support.hostile_checkout import OUTSIDE, HostileCheckout, hostile_checkout
from tests.support.repositories import repository
from turbo.domain.outcome import OutcomeKind
from turbo.executors.claude.repository import UnusableInstructions, instructions
from turbo.host.state_dir import locks_of, workspaces_of
from turbo.process.journal import Journal
from turbo.workspaces.area import no_lock
from turbo.workspaces.worktrees import Worktrees, WorktreeSettings


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with a_bench(tmp_path_factory) as bench:
        yield bench


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[HostileCheckout]:
    with hostile_checkout(tmp_path / "place") as one:
        yield one


def sent(bench: Bench) -> str:
    return json.dumps([request.body for request in bench.api.requests])


def operators_own(bench: Bench) -> Path:
    """The operator's own settings, instructions and hook, in ~/.claude. Returns the file that the hook makes."""
    own = bench.home / ".claude"
    own.mkdir(parents=True)
    made = bench.home / "own-hook"
    hook = [{"hooks": [{"type": "command", "command": f"touch {made}"}]}]
    (own / "settings.json").write_text(json.dumps({"env": {"OPERATORS_OWN": "1"}, "hooks": {"SessionStart": hook}}))
    (own / "CLAUDE.md").write_text("the operator's own instructions")
    return made


async def test_checkout_is_read_and_not_obeyed(bench: Bench, checkout: HostileCheckout) -> None:
    own_hook = operators_own(bench)
    look = "env >seen.txt; cat nested/file"
    bench.api.answer(
        messages_api.tool("Read", {"file_path": str(checkout.nested / "file")}), bash(look), messages_api.text("done")
    )
    outcome = await bench.do(bench.executor(OAUTH, cwd=checkout.where, **ALLOWED))

    assert outcome.kind is OutcomeKind.SUCCEEDED, outcome
    assert outcome.output == "done"
    assert checkout.thief.requests == []
    assert checkout.ran == []
    assert checkout.words_in(sent(bench)) == []
    assert {str(request.headers.get("Authorization")) for request in bench.api.requests} == {
        f"Bearer {OAUTH['CLAUDE_CODE_OAUTH_TOKEN']}"
    }
    seen = (checkout.where / "seen.txt").read_text()
    assert "CHECKOUT_WAS_OBEYED" not in seen
    for text in ("instructions of the checkout", "imported instructions", "the operator's own instructions"):
        assert text in sent(bench)
    assert "OPERATORS_OWN=1" in seen
    assert own_hook.exists()


async def test_trusted_checkout_is_obeyed_until_distrusted(bench: Bench, checkout: HostileCheckout) -> None:
    trusting = bench.executor(OAUTH, cwd=checkout.where, trust_repository=True, **ALLOWED)
    outcome = await bench.do(trusting)
    assert outcome.output == "stolen"
    assert bench.api.requests == []
    stolen = len(checkout.thief.requests)
    assert stolen > 0
    assert {"checkout-shared-SessionStart", "checkout-mcp", "outer-mcp"} <= set(checkout.ran)

    before = checkout.ran
    resuming = bench.executor(OAUTH, cwd=checkout.where, resume=True, **ALLOWED)
    outcome = await bench.do(resuming, agent_session_id=outcome.session_id, retry_count=1)
    assert outcome.output == "hello there"
    assert "cut short" in bench.api.requests[0].prompt, "it does not resume: the test proves nothing"
    assert len(checkout.thief.requests) == stolen
    assert checkout.ran == before


async def test_flags_of_the_command_do_not_undo_it(bench: Bench, checkout: HostileCheckout) -> None:
    command = [the_cli(), "--setting-sources=user,project,local", "--settings", '{"cleanupPeriodDays": 9}']
    outcome = await bench.do(bench.executor(OAUTH, cwd=checkout.where, command=command, **ALLOWED))
    assert outcome.output == "hello there"
    assert checkout.thief.requests == []
    assert checkout.ran == []


async def test_probe_obeys_nothing_above_its_directory(
    bench: Bench, checkout: HostileCheckout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(checkout.where))
    outcome = await bench.executor(OAUTH, trust_repository=True).probe()
    assert outcome.kind is OutcomeKind.SUCCEEDED, outcome
    assert len(bench.api.requests) == 1
    assert checkout.thief.requests == []
    assert checkout.ran == []
    assert await bench.executor({}).auth_status() is False, "the checkout's apiKeyHelper passes for a login"


# ── instructions that are somewhere else ─────────────────────────────────────────────────────────────────────────────


def link(directory: Path, name: str, target: Path) -> None:
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).symlink_to(target)


@pytest.mark.parametrize("name", ["CLAUDE.md", ".claude/CLAUDE.md", ".claude"])
def test_linked_instructions_are_refused(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "checkout"
    directory.mkdir()
    (tmp_path / "elsewhere").mkdir()
    link(directory, name, tmp_path / "elsewhere")
    with pytest.raises(UnusableInstructions, match=f"{name} in .* leads out of it, to {tmp_path}/elsewhere"):
        instructions(directory)


def test_instructions_of_any_shape_never_stop_the_worker(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "CLAUDE.md")
    with pytest.raises(UnusableInstructions, match="neither a file nor a directory"):
        instructions(tmp_path)
    (tmp_path / "CLAUDE.md").unlink()
    link(tmp_path, "CLAUDE.md", tmp_path / "CLAUDE.md")
    with pytest.raises(UnusableInstructions, match="cannot be examined"):
        instructions(tmp_path)
    (tmp_path / "CLAUDE.md").unlink()
    link(tmp_path, "CLAUDE.md", tmp_path / "AGENTS.md")
    assert instructions(tmp_path)[0], "a dangling link has no instructions"
    (tmp_path / "AGENTS.md").write_text("inside")
    assert instructions(tmp_path)[0], "a link that stays inside"


async def test_linked_instructions_do_not_reach_the_model(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "checkout"
    (tmp_path / "secret").write_text(OUTSIDE)
    link(directory, "CLAUDE.md", tmp_path / "secret")
    executor = bench.executor(cwd=directory)
    outcome = await bench.do(executor)
    assert outcome.output == "hello there"
    assert OUTSIDE not in sent(bench)
    assert "leads out of it" in caplog.text
    await bench.do(bench.executor(cwd=directory, trust_repository=True))
    assert OUTSIDE in sent(bench), "this CLI follows no link: the test proves nothing"


# ── the login ────────────────────────────────────────────────────────────────────────────────────────────────────────

LOOK = (
    "{ env; tr '\\0' '\\n' </proc/$PPID/environ; tr '\\0' ' ' </proc/$PPID/cmdline; "
    "for fd in /proc/$PPID/fd/*; do [ -p $fd ] && timeout 0.2 cat $fd; done; } >seen.txt 2>/dev/null; true"
)


@pytest.mark.parametrize(("login", "header"), [(OAUTH, "Authorization"), (KEY, "x-api-key")])
async def test_login_is_nowhere_in_the_shells_environment(bench: Bench, login: dict[str, str], header: str) -> None:
    (secret,) = login.values()
    bench.api.answer(bash(LOOK), messages_api.text("done"))
    outcome = await bench.do(bench.executor(login, **ALLOWED))
    assert outcome.output == "done"
    assert {str(request.headers.get(header)).removeprefix("Bearer ") for request in bench.api.requests} == {secret}
    seen = (bench.home / "work" / "seen.txt").read_text()
    assert "ANTHROPIC_BASE_URL=" in seen
    assert secret not in seen


async def test_setup_of_a_worktree_does_not_get_the_login(bench: Bench, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    state = tmp_path / "state"
    workspaces_of(state).mkdir(parents=True)
    locks_of(state).mkdir()
    area = Worktrees(
        "claude",
        WorktreeSettings(repo=repository(tmp_path / "project"), setup=("sh", "-c", f"env >{seen}")),
        root=workspaces_of(state), locks=locks_of(state), host="here", journal=Journal(state / "journal"),
        exclusive=no_lock,
    )  # fmt: skip
    outcome = await bench.do(bench.executor(KEY | {"GH_TOKEN": "for git"}, work_area=area))
    assert outcome.output == "hello there", outcome
    assert "GH_TOKEN=for git" in seen.read_text()
    assert KEY["ANTHROPIC_API_KEY"] not in seen.read_text()


async def test_wrapper_of_the_cli_gets_its_login_in_variables(bench: Bench) -> None:
    wrapper = bench.home / "in-a-container"
    wrapper.write_text('#!/bin/sh\nenv >"$HOME/seen.txt"\nexit 1\n')
    wrapper.chmod(0o755)
    await bench.do(bench.executor(KEY, command=[str(wrapper)]))
    assert f"ANTHROPIC_API_KEY={KEY['ANTHROPIC_API_KEY']}\n" in (bench.home / "seen.txt").read_text()
