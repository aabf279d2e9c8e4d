"""What is wrong with a repository or its remote is no task's failure: it is unavailable, and a probe sees the same. Real git."""

import asyncio
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.repositories import GitHost, Workshop, git, git_host, repository
from tests.unit.test_workspaces import counted
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind

FETCHED = {"ref": "origin/main", "fetch": True}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GitHost]:
    with git_host(tmp_path / "host") as one:
        yield one


@pytest.fixture
def shop(tmp_path: Path, host: GitHost) -> Workshop:
    return Workshop(tmp_path, host.clone(tmp_path / "clone"))


def is_away(outcome: Outcome, what: str) -> None:
    assert (outcome.kind, outcome.failure_kind) == (OutcomeKind.UNAVAILABLE, FailureKind.UNAVAILABLE), outcome
    assert outcome.away == what
    assert "\n" not in str(outcome.error), "one line"


async def all_there(shop: Workshop) -> bool:
    return {o.kind for o in (await shop.probe(**FETCHED)).values()} == {OutcomeKind.SUCCEEDED}


# ── the remote ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_stopped_git_host_is_unavailable_until_it_is_back(shop: Workshop, host: GitHost) -> None:
    remotes = f"remotes of {shop.repo}"
    assert (await shop.run("t1", "echo x >mine", **FETCHED)).kind is OutcomeKind.SUCCEEDED  # type: ignore[arg-type]
    assert await all_there(shop)
    host.stop()
    is_away(await shop.run("t2", **FETCHED), remotes)  # type: ignore[arg-type]
    probed = await shop.probe(**FETCHED)
    is_away(probed.pop(remotes), remotes)
    assert [o.kind for o in probed.values()] == [OutcomeKind.SUCCEEDED], "the repository itself is fine"
    assert (await shop.run("t3", "ls", ref="origin/main")).output == "readme\n", "who fetches nothing needs no remote"
    again = await shop.run("t1", "ls", retry_count=1, **FETCHED)  # type: ignore[arg-type]
    assert again.output == "mine\nreadme\n", "nor does a retry, which has its worktree"
    host.start()
    assert await all_there(shop)
    assert (await shop.run("t2", "ls", **FETCHED)).output == "readme\n"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "git://no-such-host.invalid/x",
        "http://no-such-host.invalid/x",
        "https://127.0.0.1:9/x",
        "ssh://127.0.0.1:9/x",
        "/nowhere/x",
    ],
)
async def test_unreachable_remote_of_any_kind_is_unavailable(url: str, tmp_path: Path) -> None:
    repo = repository(tmp_path / "r")
    git(repo, "remote", "add", "origin", url)
    shop = Workshop(tmp_path, repo)
    is_away(await shop.run("t1", **FETCHED), f"remotes of {repo}")  # type: ignore[arg-type]
    is_away((await shop.probe(**FETCHED))[f"remotes of {repo}"], f"remotes of {repo}")


async def test_remote_that_never_answers_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turbo.workspaces.repository.FETCH_SECONDS", 1.0)
    monkeypatch.setattr("turbo.workspaces.repository.REMOTE_SECONDS", 1.0)
    repo = repository(tmp_path / "r")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        git(repo, "remote", "add", "origin", f"git://127.0.0.1:{deaf.getsockname()[1]}/x")
        shop = Workshop(tmp_path, repo)
        is_away(await shop.run("t1", **FETCHED), f"remotes of {repo}")  # type: ignore[arg-type]
        is_away((await shop.probe(**FETCHED))[f"remotes of {repo}"], f"remotes of {repo}")


async def test_tasks_that_wait_for_a_failed_fetch_share_it(
    shop: Workshop, host: GitHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead remote may take five minutes to say so, and one task fetches at a time."""
    fetches = counted(monkeypatch, "fetch")
    host.stop()
    outcomes = await asyncio.gather(*(shop.run(f"t{n}", **FETCHED) for n in range(6)))  # type: ignore[arg-type]
    for outcome in outcomes:
        is_away(outcome, f"remotes of {shop.repo}")
    assert len(fetches) < 6
    host.start()
    assert (await shop.run("t0", "ls", **FETCHED)).output == "readme\n"  # type: ignore[arg-type]


async def test_probe_asks_the_remote_that_failed(shop: Workshop, tmp_path: Path) -> None:
    git(shop.repo, "remote", "add", "fork", "git://127.0.0.1:9/x")
    place = shop.place(refs=("fork/*",), **FETCHED)
    name = f"remotes of {shop.repo}"
    probe = place.dependencies(dict)[name]
    assert (await probe()).kind is OutcomeKind.SUCCEEDED, "of the configured ref"
    run = shop.task("t1", input_data={"ref": "fork/main"})
    is_away(await place.run(run, {"PATH": "/usr/bin:/bin"}, lambda *_: pytest.fail("it ran")), name)
    is_away(await probe(), name)
    git(shop.repo, "remote", "set-url", "fork", str(repository(tmp_path / "fork")))
    assert (await probe()).kind is OutcomeKind.SUCCEEDED


# ── the repository ──────────────────────────────────────────────────────────────────────────────────────────────────


def moved_away(repo: Path) -> Callable[[], object]:
    repo.rename(repo.with_name("elsewhere"))
    return lambda: repo.with_name("elsewhere").rename(repo)


def no_objects(repo: Path) -> Callable[[], object]:
    objects, kept = repo / ".git" / "objects", repo / ".git" / "kept"
    objects.rename(kept)
    objects.mkdir()

    def repair() -> None:
        shutil.rmtree(objects)
        kept.rename(objects)

    return repair


def no_head(repo: Path) -> Callable[[], object]:
    (repo / ".git" / "HEAD").rename(repo / ".git" / "kept")
    return lambda: (repo / ".git" / "kept").rename(repo / ".git" / "HEAD")


def broken_configuration(repo: Path) -> Callable[[], object]:
    config = repo / ".git" / "config"
    before = config.read_text()
    config.write_text(f"{before}[broken")
    return lambda: config.write_text(before)


def no_place_for_worktrees(repo: Path) -> Callable[[], object]:
    """As if the disk were read-only there; root may write anywhere."""
    shutil.rmtree(repo / ".git" / "worktrees", ignore_errors=True)
    (repo / ".git" / "worktrees").touch()
    return (repo / ".git" / "worktrees").unlink


def no_place_for_branches(repo: Path) -> Callable[[], object]:
    place = repo / ".git" / "refs" / "heads" / "turbo"
    shutil.rmtree(place, ignore_errors=True)
    place.touch()
    return place.unlink


@pytest.mark.parametrize(
    "break_it",
    [moved_away, no_objects, no_head, broken_configuration, no_place_for_worktrees, no_place_for_branches],
)
async def test_broken_repository_is_unavailable_until_repaired(
    shop: Workshop, break_it: Callable[[Path], Callable[[], object]]
) -> None:
    name = f"repository {shop.repo}"
    repair = break_it(shop.repo)
    is_away(await shop.run("t1", ref="main"), name)
    is_away((await shop.probe(ref="main"))[name], name)
    repair()
    assert [o.kind for o in (await shop.probe(ref="main")).values()] == [OutcomeKind.SUCCEEDED]
    assert (await shop.run("t1", "ls", ref="main")).output == "readme\n"


async def test_probe_of_a_repository_leaves_nothing(shop: Workshop) -> None:
    before = git(shop.repo, "for-each-ref"), git(shop.repo, "worktree", "list")
    assert await all_there(shop)
    assert (git(shop.repo, "for-each-ref"), git(shop.repo, "worktree", "list")) == before
    assert list(shop.state.workspaces.iterdir()) == []


# ── a task's own mistakes ───────────────────────────────────────────────────────────────────────────────────────────


async def test_own_mistakes_fail_the_task_while_all_is_there(shop: Workshop) -> None:
    git(shop.repo, "branch", "turbo/taken")
    mistakes = [
        await shop.run("a", ref="nope"),
        await shop.run("b", ref="0" * 40),
        await shop.run("c", ref="origin/nope", fetch=True),
        await shop.run("taken", ref="main"),
        await shop.run("d", data={"ref": "main^"}, refs=("*",)),
        await shop.run("e", setup=("/bin/false",)),
    ]
    assert {o.kind for o in mistakes} == {OutcomeKind.FAILED}
    assert await all_there(shop)


async def test_left_lock_of_another_git_stops_no_task(shop: Workshop) -> None:
    for name in ("index", "config", "packed-refs", "HEAD", "shallow"):
        (shop.repo / ".git" / f"{name}.lock").touch()
    assert (await shop.run("t1", "ls", **FETCHED)).output == "readme\n"  # type: ignore[arg-type]
