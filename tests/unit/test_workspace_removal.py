"""What a program made of its worktree does not keep it from being removed, and never the next run from beginning."""

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.privileges import ordinary_python
from tests.support.repositories import Workshop, git, repository, told
from tests.support.requirements import missing
from turbo.host.removal import TRASH_PREFIX
from turbo.workspaces.record import Policy
from turbo.workspaces.sweep import DAY, WorkspaceRetention

NEVER = Policy(keep="never")

AS_ORDINARY = """if True:
    import asyncio, json, sys, time
    from pathlib import Path
    from tests.support.repositories import Workshop, git, repository, told
    from turbo.workspaces.record import Policy
    from turbo.workspaces.sweep import DAY, WorkspaceRetention
    NEVER = Policy(keep="never")
    here = Path(sys.argv[1])
    repo = repository(here / "project")
    shop = Workshop(here, repo)
    CLOSED = "mkdir -p module/below; echo x >module/below/f; echo x >module/f; chmod 500 module/below module; "
    seen = {}
    async def run(name, *arguments, **more):
        outcome = await shop.run(*arguments, **more)
        space = told(outcome) if "workspace" in outcome.extra else {}
        seen[name] = [outcome.output, outcome.error or space.get("error"), space.get("kept"), space.get("continued")]
    def left(name):
        branches = git(repo, "branch", "--list", "turbo/*", "--format=%(refname:short)").split()
        entries = git(repo, "worktree", "list").count("\\n")
        seen[name] = [branches, entries, sorted(str(p.relative_to(here)) for p in shop.state.workspaces.glob("*/*"))]
    async def main():
        await run("never", "t1", CLOSED, policy=NEVER)
        left("after never")
        await run("again", "t1", "ls", policy=NEVER)
        await run("ignored", "t2", "echo module >>$(git rev-parse --git-common-dir)/info/exclude; " + CLOSED)
        left("after ignored")
        await run("failed", "t3", CLOSED + "exit 1")
        await run("retry", "t3", "ls; echo x >new", retry_count=1)
        sweep = WorkspaceRetention(shop.state.workspaces, shop.state.locks, shop.journal, {})
        await run("swept", "t4", CLOSED + "exit 1")
        lossy = {"shop": Policy(sweep_unmerged=True)}
        lossy = WorkspaceRetention(shop.state.workspaces, shop.state.locks, shop.journal, lossy)
        seen["sweep"] = await lossy.once(time.time() + 15 * DAY)
        left("after sweep")
        await run("setup", "t5", setup=("sh", "-c", CLOSED + "exit 1"))
        await run("setup again", "t5", setup=("sh", "-c", "test -d module || mkdir module"), retry_count=1)
        await run("unseen", "t6", "mkdir secret; echo work >secret/f; chmod 0 secret")
        seen["unseen sweep"] = await sweep.once(time.time() + 15 * DAY)
    asyncio.run(main())
    print(json.dumps(seen))
"""


def test_read_only_directories_of_a_task_do_not_stay(tmp_path: Path) -> None:
    seen = json.loads(ordinary_python(AS_ORDINARY, tmp_path))
    assert seen["never"] == ["", None, False, False]
    assert seen["after never"] == [[], 0, []], "no branch, no entry, no directory"
    assert seen["again"] == ["readme\n", None, False, False]
    assert seen["ignored"] == ["", None, False, False]
    assert seen["after ignored"] == [[], 0, []]
    assert seen["retry"] == ["module\nreadme\n", None, True, True], "a retry finds what was left"
    assert seen["sweep"] == ["t3", "t4"]
    assert seen["after sweep"] == [[], 0, []]
    assert seen["setup again"][1] is None
    assert "could not open directory" in seen["unseen"][1]
    assert seen["unseen"][2] is True
    assert "t6" not in seen["unseen sweep"], "what git cannot read is not taken for nothing"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    yield Workshop(tmp_path, repository(tmp_path / "project"))
    for path in tmp_path.rglob("fixed"):
        subprocess.run(["chattr", "-i", path], check=True)


def trash(shop: Workshop) -> list[Path]:
    return sorted(shop.state.workspaces.glob(f"{TRASH_PREFIX}*"))


async def test_immutable_file_is_reported_once_and_retried(shop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    outcome = await shop.run("t1", "mkdir a; echo x >a/fixed; echo x >a/other; chattr +i a/fixed", policy=NEVER)
    if outcome.error is not None:
        missing("chattr +i needs root and a file system that knows it")
    assert told(outcome)["kept"] is False
    assert [p.name for p in trash(shop)[0].rglob("*") if p.is_file()] == ["fixed"], "all that could go has gone"
    assert git(shop.repo, "worktree", "list").count("\n") == 0
    assert (await shop.run("t1", "ls", policy=NEVER)).output == "readme\n", "the next run begins anew"
    sweep = WorkspaceRetention(shop.state.workspaces, shop.state.locks, shop.journal, {})
    for _ in range(2):
        await sweep.once()
    warnings = [r.message for r in caplog.records if "fixed" in r.message]
    assert len(warnings) == 2, "once by the task that left it, once by the sweep"
    assert all("not permitted (immutable?" in text for text in warnings)
    (left,) = trash(shop)
    subprocess.run(["chattr", "-i", next(left.rglob("fixed"))], check=True)  # noqa: ASYNC221
    await sweep.once()
    assert trash(shop) == []


async def test_remainder_of_a_removal_is_no_obstacle(shop: Workshop) -> None:
    """A removal that an earlier version began: neither record nor branch are left, but some of the files are."""
    path = Path(str(told(await shop.run("t1", "echo x >f", policy=Policy(keep="always")))["path"]))
    git(shop.repo, "worktree", "remove", "--force", str(path))
    git(shop.repo, "branch", "-D", "turbo/t1")
    (path.parent / "record.json").unlink()
    (path / "module").mkdir(parents=True)
    (path / "module" / "f").write_text("left over")
    outcome = await shop.run("t1", "ls", retry_count=1)
    assert (outcome.output, told(outcome)["continued"]) == ("readme\n", False)
    assert trash(shop) == []


async def test_removal_cut_short_is_finished_by_the_sweep(shop: Workshop) -> None:
    begun = shop.state.workspaces / f"{TRASH_PREFIX}begun"
    (begun / "module").mkdir(parents=True)
    sweep = WorkspaceRetention(shop.state.workspaces, shop.state.locks, shop.journal, {})
    assert await sweep.once(time.time() + DAY) == []
    assert not begun.exists()


async def test_link_in_place_of_a_worktree_leads_nowhere(shop: Workshop, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir(0o500)
    script = f'cd ..; mv "$OLDPWD" {tmp_path}/moved; ln -s {mine} "$OLDPWD"'
    await asyncio.wait_for(shop.run("t1", script, policy=NEVER), 30)
    sweep = WorkspaceRetention(shop.state.workspaces, shop.state.locks, shop.journal, {})
    await sweep.once(time.time() + 30 * DAY)
    assert mine.is_dir()
    assert mine.stat().st_mode & 0o777 == 0o500
    assert (tmp_path / "moved" / "readme").exists()
