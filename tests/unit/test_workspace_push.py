"""`workspace: {push: origin}` on two hosts with clones of one remote; the truth is what git says of all three."""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.repositories import Workshop, commit, git, repository, told
from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.domain.run import StopSignal
from turbo.domain.states import StopCause
from turbo.domain.work import Continued, Earlier
from turbo.workspaces import repository as repositories
from turbo.workspaces.at_remote import portable
from turbo.workspaces.record import Policy

COMMITS = "git commit --quiet --allow-empty --message work"
FOLLOWS = {"continued": Continued("t", first_task_id="t", earlier=(Earlier("t", "x", status="completed"),))}


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    repository(tmp_path / "seed")
    git(tmp_path, "clone", "--quiet", "--bare", "seed", "origin.git")
    return tmp_path / "origin.git"


@pytest.fixture
def alpha(tmp_path: Path, origin: Path) -> Workshop:
    return host(tmp_path, origin, "alpha", [])


@pytest.fixture
def beta(tmp_path: Path, origin: Path, alpha: Workshop) -> Workshop:
    return host(tmp_path, origin, "beta", alpha.told)


def host(tmp_path: Path, origin: Path, name: str, told_of: list[dict[str, object]]) -> Workshop:
    git(tmp_path, "clone", "--quiet", str(origin), f"{name}-clone")
    return Workshop(tmp_path / name, tmp_path / f"{name}-clone", host=name, told=told_of)


def head(where: Path, branch: str = "turbo/t") -> str:
    return git(where, "rev-parse", f"refs/heads/{branch}")


def in_tree(outcome: Outcome, *words: str) -> str:
    return git(Path(str(told(outcome)["path"])), *words)


async def test_branch_is_at_the_remote_after_a_run(alpha: Workshop, origin: Path) -> None:
    outcome = await alpha.run("t", f"echo x >new; git add new; {COMMITS}", push="origin")
    space = told(outcome)
    assert (space["remote"], space["pushed"], "push_error" in space) == ("origin", True, False)
    assert head(origin) == space["head"] == head(alpha.repo)
    assert portable(space)
    left = told(await alpha.run("t", "echo x >loose", push="origin"))
    assert (left["pushed"], left["uncommitted"], portable(left)) == (True, 1, False), "what is not committed stays here"
    assert "pushed" not in told(await alpha.run("u", COMMITS)), "only where it is configured"


async def test_unchanged_worktree_leaves_no_branch_behind(alpha: Workshop, origin: Path) -> None:
    space = told(await alpha.run("t", push="origin"))
    assert (space["kept"], "pushed" in space) == (False, False)
    assert git(origin, "branch", "--list", "turbo/*") == ""
    assert told(await alpha.run("t", COMMITS, push="origin", policy=Policy(keep="never")))["pushed"] is True
    assert git(origin, "branch", "--list", "turbo/*") == "turbo/t"


async def test_other_host_goes_on_with_the_branch(alpha: Workshop, beta: Workshop, origin: Path) -> None:
    first = told(await alpha.run("t", f"echo one >f; git add f; {COMMITS}", push="origin"))
    outcome = await beta.run("t", f"cat f; echo two >>f; git add f; {COMMITS}", push="origin", retry_count=1)
    space = told(outcome)
    assert outcome.output == "one\n"
    assert [space[key] for key in ("branch", "base", "ref", "continued")] == [
        first["branch"], first["base"], first["ref"], True
    ]  # fmt: skip
    assert (space["commits"], space["files_changed"], space["insertions"]) == (2, 1, 2), "from the same base"
    assert head(origin) == space["head"] == head(beta.repo)


async def test_follow_up_elsewhere_tells_its_own_share(alpha: Workshop, beta: Workshop) -> None:
    first = told(await alpha.run("t", f"echo one >f; git add f; {COMMITS}", push="origin"))
    alpha.going_on.add("f")
    space = told(await beta.run("f", f"echo two >g; git add g; {COMMITS}", push="origin", work=FOLLOWS))
    assert (space["since"], space["commits"], space["insertions"]) == (first["head"], 1, 1)
    again = told(
        await alpha.run("f", f"echo three >h; git add h; {COMMITS}", push="origin", work=FOLLOWS, retry_count=1)
    )
    assert (again["since"], again["commits"]) == (first["head"], 2), "the first host knows where it began"


async def test_first_host_goes_on_with_the_newer_commits(alpha: Workshop, beta: Workshop, origin: Path) -> None:
    await alpha.run("t", f"echo one >f; git add f; {COMMITS}", push="origin")
    await beta.run("t", f"echo two >>f; git add f; {COMMITS}", push="origin", retry_count=1)
    outcome = await alpha.run("t", f"cat f; {COMMITS}", push="origin", retry_count=2)
    assert outcome.output == "one\ntwo\n"
    assert head(origin) == told(outcome)["head"]
    # The other host has rewritten the branch: here is nothing but what was pushed.
    await beta.run(
        "t", "git reset --quiet --hard HEAD~2; echo new >f; git add f; " + COMMITS, push="origin", retry_count=3
    )
    assert head(origin) == head(beta.repo), "its own commit may be replaced"
    outcome = await alpha.run("t", "cat f", push="origin", retry_count=4)
    assert outcome.output == "new\n"


async def test_changes_of_both_hosts_need_a_person(alpha: Workshop, beta: Workshop) -> None:
    await alpha.run("t", f"echo one >f; git add f; {COMMITS}; echo loose >>f", push="origin")
    await beta.run("t", f"echo two >>f; git add f; {COMMITS}", push="origin", retry_count=1)
    outcome = await alpha.run("t", "cat f", push="origin", retry_count=2)
    assert outcome.kind is OutcomeKind.FAILED
    assert "host beta has gone on with turbo/t" in str(outcome.error)
    assert "loose" in (Path(str(alpha.told[0]["path"])) / "f").read_text(), "nothing is lost"


async def test_foreign_commits_are_never_overwritten(alpha: Workshop, origin: Path, tmp_path: Path) -> None:
    await alpha.run("t", COMMITS, push="origin")
    git(tmp_path, "clone", "--quiet", "--branch", "turbo/t", str(origin), "person")
    theirs = commit(tmp_path / "person", "theirs", readme="mine\n")
    git(tmp_path / "person", "push", "--quiet")
    space = told(await alpha.run("t", COMMITS, push="origin", retry_count=1))
    assert (space["pushed"], head(origin)) == (False, theirs)
    assert "nothing there is overwritten" in str(space["push_error"])
    # Also where the branch was rewritten here: the lease is on what was pushed, not on what was fetched since.
    space = told(
        await alpha.run(
            "t", f"git fetch --quiet; git reset --quiet --hard main; {COMMITS}", push="origin", retry_count=2
        )
    )
    assert (space["pushed"], head(origin)) == (False, theirs)


async def test_refused_push_changes_nothing_else(alpha: Workshop, origin: Path) -> None:
    git(origin, "config", "transfer.hideRefs", "refs/heads/turbo")
    outcome = await alpha.run("t", f"echo done; {COMMITS}", push="origin")
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, "done\n")
    assert told(outcome)["pushed"] is False
    assert "deny updating a hidden ref" in str(told(outcome)["push_error"])
    git(origin, "config", "--unset", "transfer.hideRefs")
    assert told(await alpha.run("t", push="origin", retry_count=1))["pushed"] is True, "the next run pushes again"


async def test_remote_that_is_away_or_hangs_costs_no_result(alpha: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    git(alpha.repo, "remote", "set-url", "origin", "/nowhere/at/all")
    outcome = await alpha.run("t", f"echo done; {COMMITS}", push="origin")
    assert (outcome.kind, told(outcome)["pushed"]) == (OutcomeKind.SUCCEEDED, False)
    monkeypatch.setattr(repositories, "PUSH_SECONDS", 0.5)
    monkeypatch.setattr(repositories, "SLOW_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        git(alpha.repo, "remote", "set-url", "origin", f"git://127.0.0.1:{silent.getsockname()[1]}/x")
        outcome = await alpha.run("t", f"echo done; {COMMITS}", push="origin", retry_count=1)
        assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, "done\n")
        assert "was ended after 0.5 s" in str(told(outcome)["push_error"])
        outcome = await alpha.run("u", COMMITS, push="origin")
        assert str(told(outcome)["push_error"]).startswith("not tried: "), "the next task does not wait for it"


class WantsPassword(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", "Basic realm=x")
        self.end_headers()

    def log_message(self, *_words: object) -> None: ...


async def test_password_is_never_asked_for(alpha: Workshop) -> None:
    with HTTPServer(("127.0.0.1", 0), WantsPassword) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        git(alpha.repo, "remote", "set-url", "origin", f"http://user:sesame@127.0.0.1:{web.server_port}/x.git")
        space = told(await alpha.run("t", COMMITS, push="origin"))
        web.shutdown()
    assert space["pushed"] is False
    assert "Authentication failed" in str(space["push_error"])
    assert "sesame" not in str(space["push_error"])


async def test_unknown_remote_closes_the_executor(alpha: Workshop) -> None:
    outcome = await alpha.run("t", push="upstream")
    assert outcome.kind is OutcomeKind.UNAVAILABLE
    assert "has no remote named 'upstream' (it has: origin): add it" in str(outcome.error)
    assert {one.kind for one in (await alpha.probe(push="upstream")).values()} == {OutcomeKind.UNAVAILABLE}
    git(alpha.repo, "remote", "add", "upstream", str(alpha.repo))
    assert {one.kind for one in (await alpha.probe(push="upstream")).values()} == {OutcomeKind.SUCCEEDED}


async def test_hooks_of_a_remote_on_this_host_are_not_run(alpha: Workshop, origin: Path, tmp_path: Path) -> None:
    for name in ("pre-receive", "post-receive", "update", "reference-transaction"):
        hook = origin / "hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-{name}\n")
        hook.chmod(0o755)
    pre_push = alpha.repo / ".git" / "hooks" / "pre-push"
    pre_push.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-pre-push\n")
    pre_push.chmod(0o755)
    assert told(await alpha.run("t", COMMITS, push="origin"))["pushed"] is True
    assert not list(tmp_path.glob("ran-*"))
    git(alpha.repo, "push", "--quiet", "origin", "turbo/t:refs/heads/control")
    assert len(list(tmp_path.glob("ran-*"))) == 5, "control: a person's git runs them"


def touching_hook(bare: Path, trace: Path) -> None:
    hook = bare / "hooks" / "pre-receive"
    hook.write_text(f"#!/bin/sh\ntouch {trace}\n")
    hook.chmod(0o755)


async def test_hooks_behind_a_second_address_are_not_run(alpha: Workshop, origin: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", "seed", "evil.git")
    touching_hook(tmp_path / "evil.git", tmp_path / "ran")
    with daemon(tmp_path) as address:
        for url in (f"{address}/origin.git", str(tmp_path / "evil.git")):
            git(alpha.repo, "config", "--add", "remote.origin.pushurl", url)
        space = told(await alpha.run("t", COMMITS, push="origin"))
        assert (space["pushed"], (tmp_path / "ran").exists()) == (False, False)
        assert "origin has addresses on this host and on others" in str(space["push_error"])
        git(alpha.repo, "push", "--quiet", "origin", "turbo/t:refs/heads/control")
    assert (tmp_path / "ran").exists(), "control: a person's git runs it"
    git(alpha.repo, "config", "--replace-all", "remote.origin.pushurl", str(origin))
    git(alpha.repo, "config", "--add", "remote.origin.pushurl", str(tmp_path / "evil.git"))
    (tmp_path / "ran").unlink()
    assert told(await alpha.run("t", COMMITS, push="origin", retry_count=1))["pushed"] is True
    assert head(origin) == head(tmp_path / "evil.git") == head(alpha.repo), "git pushes to both"
    assert not (tmp_path / "ran").exists()


async def test_address_that_becomes_a_directory_is_refused(
    alpha: Workshop, origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touching_hook(origin, tmp_path / "ran")

    async def elsewhere(*_: object) -> bool:
        return True

    monkeypatch.setattr(repositories.Repository, "_is_elsewhere", elsewhere)  # the agent swaps it after the look
    space = told(await alpha.run("t", COMMITS, push="origin"))
    assert (space["pushed"], (tmp_path / "ran").exists()) == (False, False)
    assert "transport 'file' not allowed" in str(space["push_error"])


@contextmanager
def daemon(base: Path) -> Iterator[str]:
    """A git server for the repositories of a directory; anybody may push. Its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["git", "daemon", "--verbose", "--listen=127.0.0.1", f"--port={port}", "--export-all"]
    words += ["--enable=receive-pack", f"--base-path={base}", str(base)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stderr is not None
        assert b"Ready" in process.stderr.readline()
        yield f"git://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


async def test_branch_gone_from_the_remote_begins_anew(alpha: Workshop, beta: Workshop, origin: Path) -> None:
    await alpha.run("t", COMMITS, push="origin")
    git(origin, "branch", "--quiet", "-D", "turbo/t")
    space = told(await beta.run("t", COMMITS, push="origin", retry_count=1))
    assert (space["continued"], space["commits"], space["pushed"]) == (False, 1, True)


async def test_remote_that_is_away_makes_the_task_wait(alpha: Workshop, beta: Workshop, origin: Path) -> None:
    await alpha.run("t", COMMITS, push="origin")
    origin.rename(origin.with_name("away"))
    outcome = await beta.run("t", COMMITS, push="origin", retry_count=1)
    assert outcome.kind is OutcomeKind.UNAVAILABLE
    assert {one.kind for name, one in (await beta.probe(push="origin")).items() if name == outcome.away} == {
        OutcomeKind.UNAVAILABLE
    }
    origin.with_name("away").rename(origin)
    assert told(await beta.run("t", COMMITS, push="origin", retry_count=1))["commits"] == 2


async def test_shutdown_ends_a_push_and_keeps_the_result(alpha: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = StopSignal()
    real = repositories.Repository.push

    async def push(self: repositories.Repository, *words: str) -> None:
        stop.set(StopCause.DRAIN)
        await real(self, *words)

    monkeypatch.setattr(repositories.Repository, "push", push)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        git(alpha.repo, "remote", "set-url", "origin", f"git://127.0.0.1:{silent.getsockname()[1]}/x")
        outcome = await alpha.run("t", f"echo done; {COMMITS}", push="origin", stop=stop)
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, "done\n")
    assert told(outcome)["push_error"] == "the run was asked to end meanwhile"
