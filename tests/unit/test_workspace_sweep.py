"""The sweep removes what nobody needs, and nothing that would be lost. Time is stepped by passing it in."""

import asyncio
import fcntl
import logging
import shutil
import time
from pathlib import Path

import pytest

from tests.support.repositories import Workshop, checkout, git, own_clone, repository, told
from turbo.executors.exclusive_directories import ExclusiveDirectories
from turbo.process.directory_lock import DirectoryLock
from turbo.workspaces import sweep as sweep_module
from turbo.workspaces.disk_usage import kept_worktrees, size_of
from turbo.workspaces.record import Policy
from turbo.workspaces.sweep import DAY, WorkspaceRetention

COMMIT = "echo $TURBO_TASK_ID >work; git add work; git commit -qm work"
KEPT = Policy(keep="always")


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, repository(tmp_path / "project"))


async def swept(shop: Workshop, days: float, policy: Policy | None = None) -> set[str]:
    """Whose worktrees went. `policy`: as configured now."""
    policies = {} if policy is None else {"shop": policy}
    sweep = WorkspaceRetention(shop.state.workspaces, shop.state.locks, shop.journal, policies)
    return set(await sweep.once(time.time() + days * DAY))


async def one_of_each(shop: Workshop) -> None:
    """By what is in it: nothing, merged, pushed, and what must not be lost."""
    await shop.run("nothing", policy=KEPT)
    await shop.run("merged", COMMIT)
    git(shop.repo, "merge", "--quiet", "turbo/merged")
    await shop.run("pushed", COMMIT)
    git(shop.repo, "update-ref", "refs/remotes/origin/x", "turbo/pushed")
    await shop.run("commits", COMMIT)
    await shop.run("edited", "echo x >readme")
    await shop.run("new-file", "echo x >new")
    await shop.run("staged", "echo x >new; git add new")
    await shop.run(
        "detached",
        COMMIT + "; git checkout -q --detach; git commit -qm more --allow-empty; git branch -qf turbo/detached HEAD~2",
    )
    await shop.run("half-a-merge", "echo 1 >readme; git commit -qam 1; git checkout -q HEAD~1; echo 2 >readme; git commit -qam 2; "
                   "git merge -q turbo/half-a-merge || true")  # fmt: skip


LOSSY = {"commits", "edited", "new-file", "staged", "detached", "half-a-merge"}


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "control"])
async def test_age_removes_only_what_would_not_be_missed(
    guarded: bool, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one_of_each(shop)
    if not guarded:

        async def nothing_at_risk(*_: object) -> None:
            return None

        monkeypatch.setattr(sweep_module, "at_risk", nothing_at_risk)
    assert await swept(shop, 0.5) == set()
    gone = await swept(shop, 15)
    left = {one.task_id: one.tree for one in kept_worktrees(shop.state.root)}
    assert left.keys() == ({"nothing", "merged", "pushed"} | LOSSY) - gone
    if not guarded:
        assert gone & LOSSY, "without the guard these would be lost: the guard is what keeps them"
        return
    assert gone == {"nothing", "merged", "pushed"}
    assert (left["edited"] / "readme").read_text() == "x\n"
    assert (left["staged"] / "new").read_text() == "x\n"
    branches = git(shop.repo, "for-each-ref", "--format=%(refname:lstrip=3)", "refs/heads/turbo/").split()
    assert set(branches) == LOSSY, "a branch goes with its worktree"
    assert len(git(shop.repo, "worktree", "list").splitlines()) == 1 + len(LOSSY)
    assert await swept(shop, 400) == set(), "however old"


async def test_unchanged_worktree_goes_after_a_day_unless_kept(shop: Workshop) -> None:
    await shop.run("failed", "exit 1")
    await shop.run("always", policy=KEPT)
    await shop.run("never", "echo x >new; exit 1", policy=Policy(keep="never"))
    await shop.run("merged", COMMIT)
    git(shop.repo, "merge", "--quiet", "turbo/merged")
    assert await swept(shop, 0.9) == set()
    assert await swept(shop, 1.1) == {"failed", "never"}
    assert await swept(shop, 13.9) == set()
    assert await swept(shop, 14.1) == {"always", "merged"}


async def test_worktree_of_an_unfinished_conversation_stays(shop: Workshop) -> None:
    for task_id in ("waits", "over"):
        await shop.run(task_id, policy=KEPT)
    unfinished: list[str] | None = None

    async def answer() -> list[str] | None:
        return unfinished

    sweep = WorkspaceRetention(shop.state.workspaces, shop.state.locks, shop.journal, {}, unfinished=answer)
    later = time.time() + 1000 * DAY
    assert await sweep.once(later) == [], "the database cannot say what is needed"
    unfinished = ["waits"]
    assert await sweep.once(later) == ["over"]
    unfinished = []
    assert await sweep.once(later) == ["waits"], "that was what kept it"


async def test_sweep_unmerged_removes_worktrees_and_keeps_branches(shop: Workshop) -> None:
    await one_of_each(shop)
    gone = await swept(shop, 15, Policy(sweep_unmerged=True))
    assert gone == {"nothing", "merged", "pushed"} | LOSSY
    assert kept_worktrees(shop.state.root) == []
    assert git(shop.repo, "show", "turbo/commits:work") == "commits"
    assert "turbo/edited" not in git(shop.repo, "branch")
    again = await shop.run("commits", "cat work", retry_count=1)
    assert (again.output, told(again)["continued"]) == ("commits\n", True), "a retry goes on from the branch"


async def test_longest_unused_go_first_over_the_cap(shop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    git(shop.repo, "config", "core.excludesFile", str(shop.path / "ignore"))
    (shop.path / "ignore").write_text("ignored\n")
    fill = "dd if=/dev/zero of=ignored bs=1M count=4 status=none"
    for task in ("first", "second", "third", "fourth"):
        script = fill + ("; echo x >new" if task == "first" else "")
        await shop.run(task, script, policy=KEPT)
    each = 4 * 1024 * 1024
    assert await swept(shop, 0, Policy(keep="always", max_bytes=5 * each)) == set()
    assert await swept(shop, 0, Policy(keep="always", max_bytes=int(2.5 * each))) == {"second", "third"}
    with caplog.at_level(logging.WARNING):
        assert await swept(shop, 0, Policy(keep="always", max_bytes=1)) == {"fourth"}
    assert "the workspaces of executor shop take 0.0 GB more than max_gb" in caplog.text
    assert [one.task_id for one in kept_worktrees(shop.state.root)] == ["first"]


async def test_worktree_in_use_is_left_alone(tmp_path: Path) -> None:
    repo = repository(tmp_path / "project")
    shop = Workshop(tmp_path, repo)
    exclusive = ExclusiveDirectories(shop.state.locks, shop.journal.directory, {}, {}, lambda: None)
    shop.exclusive = exclusive.enter
    gate = tmp_path / "gate"
    running = asyncio.create_task(
        shop.run("t1", f"touch here; rm here; touch {tmp_path}/in; while ! [ -e {gate} ]; do sleep 0.05; done")
    )
    while not (tmp_path / "in").exists():
        await asyncio.sleep(0.01)
    assert await swept(shop, 400) == set()
    gate.touch()
    assert told(await running)["kept"] is False
    await shop.run("t1", policy=KEPT)
    assert await swept(shop, 400) == {"t1"}
    assert not [p for p in shop.state.locks.iterdir() if len(p.stem) == 32], "an old lock that nobody holds goes too"


async def test_worktree_without_its_repository_stays(shop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    await shop.run("t1", "echo x >new")
    shutil.rmtree(shop.repo)
    with caplog.at_level(logging.WARNING):
        assert await swept(shop, 400) == set()
    assert "cannot sweep" in caplog.text
    assert [one.task_id for one in kept_worktrees(shop.state.root)] == ["t1"]


async def test_checkout_and_worktrees_of_a_person_are_not_touched(tmp_path: Path) -> None:
    repo = own_clone(tmp_path / "project")
    away = tmp_path / "away"
    git(repo, "worktree", "add", "--quiet", "--detach", str(away))
    shutil.move(away, tmp_path / "unplugged")  # a drive that is not mounted: git would prune it
    before = checkout(repo)
    shop = Workshop(tmp_path, repo)
    for number in range(3):
        await shop.run(f"t{number}", COMMIT if number else "true", policy=KEPT)
    shutil.rmtree(next(shop.state.workspaces.glob("*/t0/project")))
    assert await swept(shop, 400) == set()
    assert checkout(repo) == before
    shutil.move(tmp_path / "unplugged", away)
    assert git(away, "status", "--short") == ""


def test_size_is_the_disk_space_used(tmp_path: Path) -> None:
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "deep" / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "d" / "same").hardlink_to(tmp_path / "d" / "deep" / "file")
    (tmp_path / "d" / "link").symlink_to("/usr")
    assert 100_000 <= size_of(tmp_path / "d") <= 120_000


def test_removed_lock_is_not_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stepped: the second has opened the file when its holder removes it."""
    path = tmp_path / "x.lock"
    first, second, third = DirectoryLock(path), DirectoryLock(path), DirectoryLock(path)
    assert first.take()
    lock = fcntl.flock

    def removed_then_locked(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        first.remove()
        first.release()
        lock(descriptor, operation)

    monkeypatch.setattr("turbo.host.file_lock.fcntl.flock", removed_then_locked)
    assert second.take()
    assert not third.take(), "the one that is there is taken"
    second.release()
