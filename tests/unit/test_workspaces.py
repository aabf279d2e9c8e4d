"""A task's worktree: what it begins with, what a retry finds, what is told of it, and what stays of it. Real git."""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.repositories import Workshop, checkout, commit, git, repository, told
from turbo.cli import diff as diff_command
from turbo.cli import run_log
from turbo.config.worker import WorkerConfig
from turbo.domain.outcome import FailureKind, OutcomeKind
from turbo.domain.run import Snooze, StopSignal
from turbo.domain.states import StopCause
from turbo.domain.task import Task
from turbo.executors.exclusive_directories import ExclusiveDirectories
from turbo.executors.registry import build_executors
from turbo.executors.work_areas import workspace_policies
from turbo.workspaces import lifecycle as opening
from turbo.workspaces import repository as repository_module
from turbo.workspaces.disk_usage import kept_worktrees
from turbo.workspaces.git import Git
from turbo.workspaces.record import Policy
from turbo.workspaces.repository import Repository

COMMIT = "echo {0} >{0}; git add {0}; git commit -qm {0}"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return repository(tmp_path / "project")


@pytest.fixture
def shop(tmp_path: Path, repo: Path) -> Workshop:
    return Workshop(tmp_path, repo)


async def test_task_runs_in_a_worktree_on_its_own_branch(shop: Workshop, repo: Path) -> None:
    before = checkout(repo)
    head = git(repo, "rev-parse", "HEAD")
    outcome = await shop.run("t1", "pwd; git branch --show-current; cat readme; " + COMMIT.format("one"))
    space = told(outcome)
    path = Path(str(space["path"]))
    assert outcome.output == f"{path}\nturbo/t1\nhello\n"
    assert path.is_relative_to(shop.state.workspaces)
    assert space == {
        "kind": "worktree", "host": "here", "path": str(path), "repo": str(repo), "branch": "turbo/t1", "ref": "HEAD",
        "base": head, "head": git(repo, "rev-parse", "turbo/t1"), "continued": False, "kept": True,
        "commits": 1, "files_changed": 1, "insertions": 1, "deletions": 0, "uncommitted": 0,
    }  # fmt: skip
    assert checkout(repo) == before


async def test_uncommitted_changes_are_counted(shop: Workshop) -> None:
    script = COMMIT.format("one") + "; printf 'a\\nb\\n' >new; echo bye >readme; mkdir dir; touch dir/x dir/y"
    space = told(await shop.run("t1", script))
    assert (space["commits"], space["uncommitted"]) == (1, 3), "readme, new, and the new directory once"
    assert (space["files_changed"], space["insertions"], space["deletions"]) == (5, 4, 1)
    tree = Path(str(space["path"]))
    assert git(tree, "status", "--short").splitlines() == ["M readme", "?? dir/", "?? new"], "measuring adds nothing"


async def test_retry_continues_in_the_previous_worktree(shop: Workshop) -> None:
    first = await shop.run("t1", COMMIT.format("one") + "; echo half >half; exit 1")
    assert first.kind is OutcomeKind.FAILED
    second = await shop.run("t1", "cat one half; " + COMMIT.format("two"), retry_count=1)
    assert second.output == "one\nhalf\n"
    space = told(second)
    assert (space["path"], space["base"]) == (told(first)["path"], told(first)["base"])
    assert (told(first)["continued"], space["continued"], space["commits"]) == (False, True, 2)


async def test_locks_of_a_killed_program_are_removed(shop: Workshop, repo: Path) -> None:
    script = "touch $(git rev-parse --git-dir)/index.lock; kill -9 $$"
    assert (await shop.run("t1", script)).kind is OutcomeKind.FAILED
    assert list((repo / ".git" / "worktrees").glob("*/index.lock"))
    assert (await shop.run("t1", COMMIT.format("one"), retry_count=1)).kind is OutcomeKind.SUCCEEDED


async def test_removed_worktree_is_restored_from_its_branch(shop: Workshop, repo: Path) -> None:
    path = Path(str(told(await shop.run("t1", COMMIT.format("one")))["path"]))
    shutil.rmtree(path)
    outcome = await shop.run("t1", "cat one", retry_count=1)
    assert (outcome.output, told(outcome)["continued"]) == ("one\n", True)
    shutil.rmtree(path)
    git(repo, "worktree", "prune")
    git(repo, "branch", "-D", "turbo/t1")
    outcome = await shop.run("t1", "ls", retry_count=2)
    assert (outcome.output, told(outcome)["continued"]) == ("readme\n", False)


async def test_worktree_unknown_to_its_repository_fails_the_task(shop: Workshop, repo: Path) -> None:
    path = Path(str(told(await shop.run("t1", "echo work >work"))["path"]))
    shutil.rmtree(repo / ".git" / "worktrees")
    outcome = await shop.run("t1", retry_count=1)
    assert outcome.kind is OutcomeKind.FAILED
    assert "has no entry for it" in str(outcome.error)
    assert (path / "work").read_text() == "work\n"


# ── stages cut short ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("step", ["make_branch", "add", "_add", "checkout"])
async def test_unfinished_worktree_is_made_again(
    step: str, shop: Workshop, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed runs no cleanup: CancelledError stands for it, which the code does not handle either."""
    with killed_after(step, monkeypatch), pytest.raises(asyncio.CancelledError):
        await shop.run("t1")
    assert git(repo, "branch", "--list", "turbo/t1"), "the fault bit: something is left"
    outcome = await shop.run("t1", "cat readme", retry_count=1)
    assert (outcome.output, outcome.error) == ("hello\n", None)


async def test_unfinished_restore_from_a_branch_keeps_the_commits(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(str(told(await shop.run("t1", COMMIT.format("one") + "; exit 1"))["path"]))
    shutil.rmtree(path)
    with killed_after("_add", monkeypatch), pytest.raises(asyncio.CancelledError):
        await shop.run("t1", retry_count=1)
    assert path.exists(), "the fault bit: a worktree without its files"
    outcome = await shop.run("t1", "git status --short; cat one", retry_count=2)
    assert (outcome.output, told(outcome)["continued"]) == ("one\n", True)


@contextlib.contextmanager
def killed_after(step: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    owner: Any = {"make_branch": Repository, "add": Repository, "_add": opening, "checkout": Git}[step]
    name = "__call__" if step == "checkout" else step
    real = getattr(owner, name)

    async def killed(*arguments: Any, **more: Any) -> None:
        done = await real(*arguments, **more)
        if step != "checkout" or "reset" in arguments:
            raise asyncio.CancelledError
        return done

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, killed)
        yield


async def test_stop_while_making_a_worktree_leaves_nothing(shop: Workshop, repo: Path) -> None:
    stop = StopSignal()
    stop.set(StopCause.CANCEL)
    assert (await shop.run("t1", stop=stop)).kind is OutcomeKind.CANCELLED
    stop = StopSignal()
    running = asyncio.create_task(shop.run("t1", stop=stop, setup=("/bin/sh", "-c", "touch here; sleep 60")))
    while not list(shop.state.workspaces.glob("*/t1/project/here")):
        await asyncio.sleep(0.01)
    stop.set(StopCause.CANCEL)
    assert (await running).kind is OutcomeKind.CANCELLED
    assert (await shop.run("t1", "ls")).output == "here\nreadme\n", "setup begins again"


# ── setup ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_setup_runs_once_with_the_executors_environment(shop: Workshop) -> None:
    shop.environment = {"TOKEN": "s3cret"}
    setup = ("/bin/sh", "-c", "echo $TOKEN $TURBO_TASK_ID >>set-up; echo setting up")
    first = await shop.run("t1", "cat set-up; exit 1", setup=setup)
    assert "set-up" not in str(first.error)
    second = await shop.run("t1", "cat set-up", setup=setup, retry_count=1)
    assert second.output == "s3cret t1\n"
    assert (shop.path / "log").read_text().startswith("setting up\n"), "in the attempt's log"


@pytest.mark.parametrize(
    ("setup", "says"),
    [
        (("/bin/sh", "-c", "echo no network; echo really >&2; exit 3"), "failed with exit code 3: no network\nreally"),
        (("/bin/sh", "-c", "echo on; sleep 60"), "was ended after 0.3 s (setup_seconds): on"),
        (("nowhere-to-be-found",), "setup: cannot start nowhere-to-be-found"),
    ],
)
async def test_failed_setup_fails_its_task_with_its_output(setup: tuple[str, ...], says: str, shop: Workshop) -> None:
    outcome = await shop.run("t1", "touch ran", setup=setup, setup_seconds=0.3)
    assert (outcome.kind, outcome.final) == (OutcomeKind.FAILED, False)
    assert says in str(outcome.error)
    assert not list(shop.state.workspaces.glob("*/t1/project/ran"))
    assert (await shop.run("t1", "ls", setup=("true",), retry_count=1)).output == "readme\n"


# ── what stays ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("keep", "script", "tree", "branch"),
    [
        ("changed", "true", False, False),
        ("changed", "echo x >new", True, True),
        ("changed", COMMIT.format("one"), True, True),
        ("changed", COMMIT.format("one") + "; git checkout -q --detach HEAD~1", True, True),
        ("changed", "exit 1", True, True),
        ("always", "true", True, True),
        ("never", "echo x >new", False, False),
        ("never", COMMIT.format("one"), False, True),
        ("never", "echo x >new; exit 1", True, True),
    ],
)
async def test_cleanup_follows_the_configuration(
    keep: str, script: str, tree: bool, branch: bool, shop: Workshop, repo: Path
) -> None:
    space = told(await shop.run("t1", script, policy=Policy(keep=keep)))  # type: ignore[arg-type]
    assert (Path(str(space["path"])).exists(), space["kept"]) == (tree, tree)
    assert bool(git(repo, "branch", "--list", "turbo/t1")) is branch
    assert len(git(repo, "worktree", "list").splitlines()) == 1 + tree
    assert [(one.task_id, one.size > 0) for one in kept_worktrees(shop.state.root)] == ([("t1", True)] if tree else [])


async def test_result_survives_any_damage_to_the_worktree(shop: Workshop) -> None:
    scripts = ["rm -rf ../project", "echo x >new; rm .git", "git checkout -q --orphan new; git rm -rfq ."]
    spaces = []
    for number, script in enumerate(scripts):
        outcome = await shop.run(f"t{number}", f"{script}; echo done")
        assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, "done\n"), script
        spaces.append(told(outcome))
    assert "does not exist" in str(spaces[0]["error"])
    assert (spaces[1]["uncommitted"], spaces[1]["kept"]) == (1, True)
    assert (spaces[2]["head"], spaces[2]["deletions"], spaces[2]["kept"]) == (None, 1, True)


async def test_drain_keeps_the_worktree_for_the_next_run(shop: Workshop) -> None:
    stop = StopSignal()
    running = asyncio.create_task(shop.run("t1", "echo half >half; exec sleep 60", stop=stop))
    while not list(shop.state.workspaces.glob("*/t1/project/half")):
        await asyncio.sleep(0.01)
    stop.set(StopCause.DRAIN)
    assert (await running).kind is OutcomeKind.CANCELLED
    assert (await shop.run("t1", "cat half")).output == "half\n"


# ── refs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_row_chooses_among_the_allowed_refs(shop: Workshop, repo: Path) -> None:
    git(repo, "branch", "release/1")
    commit(repo, "second", readme="newer\n")
    assert (await shop.run("t1", "cat readme", refs=("release/*",), data={"ref": "release/1"})).output == "hello\n"
    assert (await shop.run("t2", "cat readme", ref="release/1")).output == "hello\n"
    assert (await shop.run("t3", "cat readme")).output == "newer\n"
    missing = await shop.run("t4", refs=("release/*",), data={"ref": "release/2"})
    assert (missing.kind, missing.final) == (OutcomeKind.FAILED, False)
    assert "has no commit named 'release/2'" in str(missing.error)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"ref": "main"}, "is not one of the refs that a row may choose (release/*)"),
        ({"ref": "--upload-pack=touch pwned"}, "would be a flag"),
        ({"ref": "release/../main"}, "contains '..'"),
        ({"ref": "release/x^{/first}"}, "contains"),
        ({"ref": "release/1:readme"}, "contains ':'"),
        ({"ref": "release/a b"}, "contains ' '"),
        ({"ref": "release/\0"}, "contains '\\x00'"),
        ({"ref": ""}, "is empty"),
        ({"ref": ["release/1"]}, "must be text"),
        ({"cwd": "/"}, "input_data.cwd is not allowed"),
    ],
)
async def test_only_the_ref_of_a_row_reaches_git(data: object, says: str, shop: Workshop) -> None:
    outcome = await shop.run("t1", "touch ran", refs=("release/*",), data=data)
    assert (outcome.kind, outcome.failure_kind, outcome.final) == (OutcomeKind.FAILED, FailureKind.REFUSED, True)
    assert says in str(outcome.error)
    assert not list(shop.state.workspaces.iterdir())


async def test_fetch_brings_only_the_remote_branch(tmp_path: Path, repo: Path) -> None:
    clone = tmp_path / "clone"
    git(repo, "clone", "--quiet", str(repo), str(clone))
    git(repo, "branch", "other")
    newest = commit(repo, "second", readme="newer\n")
    git(repo, "tag", "v1")
    # A mirror's refspec would overwrite the person's own branches.
    git(clone, "config", "remote.origin.fetch", "+refs/*:refs/*")
    git(clone, "commit", "--quiet", "--allow-empty", "--message", "mine")
    before = checkout(clone)
    shop = Workshop(tmp_path, clone)
    stale = await shop.run("t0", "cat readme", ref="origin/main")
    assert stale.output == "hello\n"
    outcome = await shop.run("t1", "cat readme", ref="origin/main", fetch=True)
    assert (outcome.output, told(outcome)["base"]) == ("newer\n", newest)
    after = checkout(clone)
    changed = set(after["refs"].splitlines()) ^ set(before["refs"].splitlines())
    assert {line.split()[0] for line in changed} == {"refs/remotes/origin/main", "refs/remotes/origin/HEAD"}
    assert {**after, "refs": ""} == {**before, "refs": ""}


async def test_failed_fetch_is_an_outage_without_a_prompt(tmp_path: Path, repo: Path) -> None:
    git(repo, "remote", "add", "origin", "https://me:geheim@127.0.0.1:1/x.git")
    outcome = await Workshop(tmp_path, repo).run("t1", ref="origin/main", fetch=True)
    assert (outcome.kind, outcome.away) == (OutcomeKind.UNAVAILABLE, f"remotes of {repo}")
    assert "git fetch in" in str(outcome.error)
    assert "geheim" not in str(outcome.error)


# ── twenty at once ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_half_made_worktree_of_another_is_waited_for(
    shop: Workshop, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `git worktree add` leaves for a moment, and the person's own may leave at any time."""
    half = repo / ".git" / "worktrees" / "half"

    def begin() -> None:
        half.mkdir(parents=True)
        (half / "gitdir").write_text("/nowhere/.git\n")
        (half / "HEAD").write_text("ref: refs/heads/x\n")
        (half / "commondir").touch()

    waited = 0

    async def pause() -> None:
        nonlocal waited
        waited += 1
        shutil.rmtree(half)

    begin()
    with pytest.raises(subprocess.CalledProcessError) as refused:
        git(repo, "worktree", "add", str(shop.path / "x"))
    assert "commondir" in refused.value.stderr, "this git still does: the control"
    monkeypatch.setattr(repository_module, "_pause", pause)
    outcome = await shop.run("t1", "ls")
    assert (outcome.output, outcome.error, waited) == ("readme\n", None, 1)


async def test_repository_serves_one_task_and_a_stop_ends_the_wait(
    shop: Workshop, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = asyncio.Event()
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        try:
            real(descriptor, operation)
        except BlockingIOError:
            refused.set()
            raise

    monkeypatch.setattr(fcntl, "flock", flock)
    other = await repository_module.open_repository(Git(repo, dict(os.environ), shop.journal), shop.state.locks)
    stop = StopSignal()
    async with other.alone():
        running = asyncio.create_task(shop.run("t1", stop=stop))
        await asyncio.wait_for(refused.wait(), 20)
        assert not git(repo, "branch", "--list", "turbo/*")
        stop.set(StopCause.CANCEL)
        assert (await running).kind is OutcomeKind.CANCELLED
    assert (await shop.run("t1", "ls")).output == "readme\n"


def counted(monkeypatch: pytest.MonkeyPatch, command: str) -> list[Path]:
    """Where git runs `command`, from now on."""
    where: list[Path] = []
    call = Git.__call__

    async def counting(self: Git, *arguments: str, **more: Any) -> str:
        where.extend([self.where] if arguments[0] == command else [])
        return await call(self, *arguments, **more)

    monkeypatch.setattr(Git, "__call__", counting)
    return where


async def test_many_tasks_share_few_fetches(tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = counted(monkeypatch, "fetch")
    clone = tmp_path / "clone"
    git(repo, "clone", "--quiet", str(repo), str(clone))
    newest = commit(repo, "second", readme="newer\n")
    shop = Workshop(tmp_path, clone)
    outcomes = await asyncio.gather(
        *(shop.run(f"t{n}", COMMIT.format(f"f{n}"), ref="origin/main", fetch=True) for n in range(8))
    )
    assert [o.error for o in outcomes] == [None] * 8
    assert {told(o)["base"] for o in outcomes} == {newest}
    assert len(fetched) < 8, "who waited for another's fetch has it already"
    assert not list(shop.journal.directory.iterdir()), "nothing of it runs any more"


async def test_second_run_of_a_task_is_snoozed_while_the_first_runs(shop: Workshop) -> None:
    """A worker that lost its lease goes on with its run (`on_lost_lease: keep`), and another claims the task."""
    exclusive = ExclusiveDirectories(shop.state.locks, shop.journal.directory, {}, {}, lambda: None)
    shop.exclusive = exclusive.enter
    gate, inside = shop.path / "gate", shop.path / "inside"
    running = asyncio.create_task(shop.run("t1", f"touch {inside}; while ! [ -e {gate} ]; do sleep 0.02; done"))
    while not inside.exists():
        await asyncio.sleep(0.01)
    with pytest.raises(Snooze, match="another task is running in"):
        await shop.run("t1", "touch $0", retry_count=1)
    assert (await shop.run("t2", "ls")).output == "readme\n", "other tasks go on"
    gate.touch()
    assert (await running).kind is OutcomeKind.SUCCEEDED


async def test_configured_workspace_is_built_and_locked(tmp_path: Path, repo: Path) -> None:
    """What build_executors makes of the section."""
    entered: list[Path] = []

    @contextlib.asynccontextmanager
    async def exclusive(directory: Path, _task: Task) -> AsyncIterator[None]:
        entered.append(directory)
        yield

    shop = Workshop(tmp_path, repo)
    section = {"kind": "worktree", "repo": str(repo), "branch": "agents/{task_id}", "refs": ["ma*"], "keep": "always"}
    config = WorkerConfig.model_validate(
        {
            "worker": {"state_dir": str(tmp_path / "state"), "host": "alpha"},
            "executors": {"x": {"kind": "command", "command": ["ls"], "workspace": section}},
        }
    )
    executor = build_executors(config, shop.journal, exclusive)["x"]
    outcome = await executor.run(shop.task("t1", input_data={"ref": "main"}))
    space = told(outcome)
    assert (outcome.output, space["host"], space["branch"], space["kept"]) == ("readme\n", "alpha", "agents/t1", True)
    assert entered == [Path(str(space["path"])).parent]
    assert Path(str(space["path"])).is_relative_to(shop.state.workspaces)
    assert workspace_policies(config) == {"x": Policy(keep="always")}


def test_git_config_of_each_executor_is_found_by_diff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = {"kind": "worktree", "repo": "/repo"}
    program = {"kind": "command", "command": ["ls"]}
    executors = {
        "named": program | {"workspace": workspace | {"git_config": "/etc/turbo/gitconfig"}},
        "env": program | {"workspace": workspace, "env": {"GIT_CONFIG_GLOBAL": "/etc/global"}},
        "none": program | {"workspace": workspace},
        "plain": program | {"env": {"GIT_CONFIG_GLOBAL": "/etc/global"}},
    }
    file = tmp_path / "worker.yaml"
    file.write_text(json.dumps({"executors": executors, "worker": {"state_dir": str(tmp_path / "state")}}))
    monkeypatch.delenv("TURBO_CONFIG", raising=False)
    assert diff_command._git_configs(None) == {}
    expected = {"named": Path("/etc/turbo/gitconfig"), "env": Path("/etc/global")}
    assert diff_command._git_configs(file) == expected
    assert run_log.state_dir(None, file) == tmp_path / "state"
    monkeypatch.setenv("TURBO_CONFIG", str(file))
    assert diff_command._git_configs(None) == expected
