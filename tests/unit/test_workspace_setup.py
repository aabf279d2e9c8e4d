"""What `setup` makes of a worktree is the start of a task's work, not a part of it."""

import json
import time
from pathlib import Path

import pytest

from tests.support.repositories import Workshop, checkout, git, repository, told
from turbo.workspaces.diff import diff_of
from turbo.workspaces.record import Record, load
from turbo.workspaces.sweep import DAY, WorkspaceRetention

MADE = "generated and long enough to be found by its size\n"
SETUP = (
    "sh",
    "-ec",
    "printf '%s' '"
    + MADE
    + "' >generated; mkdir deep; echo 1 >deep/a; echo 2 >deep/b; echo set up >>readme; echo x >ignored",
)
COMMITTING = (
    "sh",
    "-ec",
    "echo generated >generated; git add generated; git commit -qm 'by setup'; printf '%s' '" + MADE + "' >untracked",
)
NOTHING = (0, 0, 0, 0, 0)


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    """Its state directory has a name that git must be given in quotes."""
    place = tmp_path / 'a "quoted": place'
    repo = repository(place / "project", **{".gitignore": "ignored\n"})
    return Workshop(place, repo)


def counts(space: dict[str, object]) -> tuple[object, ...]:
    return tuple(space[name] for name in ("commits", "files_changed", "insertions", "deletions", "uncommitted"))


def record_of(shop: Workshop, task: str) -> Record:
    (file,) = shop.state.workspaces.glob(f"*/{task}/record.json")
    record = load(file.parent)
    assert record is not None
    return record


def diff(shop: Workshop, task: str) -> str:
    return b"".join(diff_of(record_of(shop, task))).decode()


@pytest.mark.parametrize("setup", [SETUP, COMMITTING])
async def test_task_that_does_nothing_has_changed_nothing(shop: Workshop, setup: tuple[str, ...]) -> None:
    before = checkout(shop.repo)
    space = told(await shop.run("t1", "test -e generated", setup=setup))
    assert counts(space) == NOTHING
    assert space["kept"] is False, "unchanged: keep is `changed`"
    assert git(shop.repo, "branch", "--list", "turbo/*") == ""
    assert not list(shop.state.workspaces.glob("*/*"))
    assert checkout(shop.repo) == before
    stored = git(shop.repo, "cat-file", "--batch-all-objects", "--batch-check=%(objecttype) %(objectsize)").splitlines()
    assert f"blob {len(MADE)}" not in stored, "its files are stored elsewhere"


@pytest.mark.parametrize("setup", [SETUP, COMMITTING])
async def test_only_the_tasks_own_changes_count(shop: Workshop, setup: tuple[str, ...]) -> None:
    work = "echo mine >>readme; echo mine >deep-mine; echo more >>generated; git add deep-mine; git commit -qm mine"
    space = told(await shop.run("t1", work, setup=setup))
    assert counts(space) == (1, 3, 3, 0, 2)
    text = diff(shop, "t1")
    assert text.count("\n+mine\n") == 2
    assert "+more" in text
    assert "+generated" not in text
    assert "+set up" not in text
    assert "deep/a" not in text


async def test_change_inside_a_directory_of_setup_counts(shop: Workshop) -> None:
    space = told(await shop.run("t1", "echo 3 >>deep/a", setup=SETUP))
    assert counts(space) == (0, 1, 1, 0, 1)
    space = told(await shop.run("t2", "rm generated; git checkout -q readme", setup=SETUP))
    assert counts(space)[1:4] == (2, 0, 2), "what setup made and the task removed"
    assert space["kept"] is True


async def test_retry_measures_from_the_same_start(shop: Workshop) -> None:
    assert counts(told(await shop.run("t1", "echo a >a; exit 1", setup=SETUP))) == (0, 1, 1, 0, 1)
    assert counts(told(await shop.run("t1", "git add a; git commit -qm a", setup=SETUP, retry_count=1))) == (
        1,
        1,
        1,
        0,
        0,
    )
    path = Path(record_of(shop, "t1").tree)
    git(shop.repo, "worktree", "remove", "--force", str(path))
    assert "+a" in diff(shop, "t1"), "of its branch"
    assert "generated" not in diff(shop, "t1")
    space = told(await shop.run("t1", "cat a", setup=SETUP, retry_count=2))
    assert counts(space) == (1, 1, 1, 0, 0), "a restored worktree has the commits of the task, and setup again"


async def test_sweep_takes_setup_for_nothing_and_work_for_work(shop: Workshop) -> None:
    for setup in (SETUP, COMMITTING):
        name = "clean" if setup is SETUP else "committed"
        await shop.run(name, "exit 1", setup=setup)
        await shop.run(f"{name}-work", "echo mine >mine; exit 1", setup=setup)
    sweep = WorkspaceRetention(shop.state.workspaces, shop.state.locks, shop.journal, {})
    assert sorted(await sweep.once(time.time() + 15 * DAY)) == ["clean", "committed"]
    assert Path(record_of(shop, "clean-work").tree, "mine").exists()


async def test_work_inside_a_nested_repository_is_work(shop: Workshop) -> None:
    make = (
        "git init -q nested; cd nested; echo x >inside; git add .; git commit -qm x; cd ..; git add nested 2>/dev/null"
    )
    setup = ("sh", "-ec", f"{make}; git commit -qm nested; echo generated >generated")
    await shop.run("idle", "exit 1", setup=setup)
    await shop.run("work", "echo mine >>nested/inside; exit 1", setup=setup)
    sweep = WorkspaceRetention(shop.state.workspaces, shop.state.locks, shop.journal, {})
    assert await sweep.once(time.time() + 15 * DAY) == ["idle"]
    assert Path(record_of(shop, "work").tree, "nested", "inside").read_text() == "x\nmine\n"


async def test_setup_that_changes_nothing_costs_no_snapshot(shop: Workshop) -> None:
    await shop.run("t1", "echo a >a", setup=("sh", "-c", "echo x >ignored"))
    record = record_of(shop, "t1")
    assert (record.start_commit, record.start_tree, record.objects.exists()) == ("", "", False)
    written = json.loads((Path(record.tree).parent / "record.json").read_text())
    assert "start_tree" not in written, "an older turbo on this host can read it"


async def test_tilde_in_setup_is_the_home_of_the_worker(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    home = shop.path / "home"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "tool").write_text('#!/bin/sh\necho "$1" >ignored\n')
    (home / "bin" / "tool").chmod(0o755)
    monkeypatch.setenv("HOME", str(home))
    for setup in (("~/bin/tool", "~/data"), ("sh", "~/bin/tool", "~/data"), ("sh", "-c", "echo ~/data >ignored")):
        outcome = await shop.run("t1", "cat ignored; rm ignored", setup=setup)
        assert outcome.error is None
        assert str(outcome.output).strip() == f"{home}/data"
    outcome = await shop.run("t2", "cat ignored", setup=("~/bin/tool", "a~/b"))
    assert str(outcome.output).strip() == "a~/b", "only at the beginning of a word"
