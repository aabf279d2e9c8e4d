"""Repositories and surroundings as they are found: each works, or fails its task alone with one clear error."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.repositories import Workshop, checkout, commit, git, repository, told
from tests.support.requirements import missing, require
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.workspaces.repository import Repository

LS = "ls; git log --oneline | wc -l"


def failed(outcome: Outcome, says: str, kind: OutcomeKind = OutcomeKind.FAILED) -> None:
    assert outcome.kind is kind, outcome
    assert says in str(outcome.error)
    assert str(outcome.error).count("\n") == 0, "one line"


def unavailable(outcome: Outcome, says: str) -> None:
    failed(outcome, says, OutcomeKind.UNAVAILABLE)


async def test_directory_without_a_repository_is_unavailable(tmp_path: Path) -> None:
    place = tmp_path / "empty"
    place.mkdir()
    shop = Workshop(tmp_path, place)
    assert "is not a git repository" in str(shop.place().missing(os.environ))
    unavailable(await shop.run("t1"), f"repo {place} is not a git repository (name its top directory)")
    gone = Workshop(tmp_path, tmp_path / "gone")
    assert "is not a directory" in str(gone.place().missing(os.environ))
    unavailable(await gone.run("t1"), "is not a directory on this host")
    assert "not found on the PATH" in str(
        Workshop(tmp_path, repository(tmp_path / "r")).place().missing({"PATH": "/nowhere"})
    )


async def test_directory_inside_a_repository_is_not_the_repository(tmp_path: Path) -> None:
    """Dotfiles in a home directory: everything below is inside that repository."""
    home = repository(tmp_path / "home")
    (home / "project").mkdir()
    before = checkout(home)
    unavailable(
        await Workshop(tmp_path, home / "project").run("t1"), "is not a git repository (name its top directory)"
    )
    assert checkout(home) == before


async def test_worktree_without_its_git_file_is_not_its_parent(tmp_path: Path) -> None:
    around = repository(tmp_path / "around")
    shop = Workshop(around, repository(tmp_path / "project"))
    before = checkout(around)["refs"]
    space = told(await shop.run("t1", "echo x >new; rm .git"))
    assert (space["uncommitted"], space["files_changed"]) == (1, 1), "its own repository, whatever .git says"
    assert checkout(around)["refs"] == before


async def test_bare_repository_works(tmp_path: Path) -> None:
    bare = tmp_path / "bare.git"
    git(repository(tmp_path / "r"), "clone", "--quiet", "--bare", ".", str(bare))
    shop = Workshop(tmp_path, bare)
    assert shop.place().missing(os.environ) is None
    outcome = await shop.run("t1", LS)
    assert outcome.output == "readme\n1\n"


async def test_shallow_repository_works(tmp_path: Path) -> None:
    whole = repository(tmp_path / "r")
    commit(whole, "second", readme="2")
    shallow = tmp_path / "shallow"
    git(whole, "clone", "--quiet", "--depth=1", f"file://{whole}", str(shallow))
    outcome = await Workshop(tmp_path, shallow).run("t1", f"{LS}; echo x >f; git add f; git commit -qm x")
    assert outcome.output == "readme\n1\n"
    assert told(outcome)["commits"] == 1


async def test_repository_without_a_commit_has_no_head(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "--quiet")
    failed(await Workshop(tmp_path, empty).run("t1"), "has no commit named 'HEAD'")


async def test_missing_ref_fails(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, repository(tmp_path / "r"))
    failed(
        await shop.run("t1", ref="origin/main"), "has no commit named 'origin/main' (run git fetch, or set fetch: true)"
    )
    assert not list(shop.state.workspaces.glob("*/*")), "nothing is left of it"
    assert git(shop.repo, "branch", "--list", "turbo/*") == ""


async def test_existing_branch_is_not_taken_over(tmp_path: Path) -> None:
    repo = repository(tmp_path / "r")
    git(repo, "branch", "turbo/t1")
    git(repo, "branch", "turbo/deep/t2")
    before = git(repo, "for-each-ref")
    shop = Workshop(tmp_path, repo)
    failed(await shop.run("t1"), "the branch turbo/t1 already exists")
    failed(await shop.run("deep"), "turbo/deep")  # a directory of branches, where git needs a file
    assert git(repo, "for-each-ref") == before
    assert (await shop.run("t3", "ls")).output == "readme\n", "it was these tasks alone"


async def test_branch_created_at_the_same_moment_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = repository(tmp_path / "r")
    git(repo, "branch", "turbo/t1")

    async def not_there_yet(*_: object) -> None: ...

    monkeypatch.setattr(Repository, "branch_tip", not_there_yet)
    shop = Workshop(tmp_path, repo)
    failed(await shop.run("t1"), "the branch turbo/t1 already exists")
    assert git(repo, "branch", "--list", "turbo/*").strip() == "turbo/t1"
    assert not list(shop.state.workspaces.glob("*/*"))


@pytest.mark.parametrize(
    "task_id",
    ["--upload-pack=touch pwned", "../../x", "ünï/çødé 💥", "x" * 300, "a..b", "x.lock", "HEAD", "-", "@{u}", "Main"],
)
async def test_any_task_id_gets_its_own_branch_and_directory(task_id: str, tmp_path: Path) -> None:
    repo = repository(tmp_path / "r")
    before = checkout(repo)
    shop = Workshop(tmp_path, repo)
    space = told(await shop.run(task_id, "echo x >x; git add x; git commit -qm x"))
    assert git(repo, "for-each-ref", "--format=%(refname)", "refs/heads/turbo/") == f"refs/heads/{space['branch']}"
    assert Path(str(space["path"])).parent.parent.parent == shop.state.workspaces
    assert checkout(repo) == before
    assert told(await shop.run(task_id, retry_count=1))["continued"] is True


async def test_submodules_are_left_to_setup(tmp_path: Path) -> None:
    module = repository(tmp_path / "module", inside="x")
    repo = repository(tmp_path / "r")
    git(repo, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(module), "sub")
    git(repo, "config", "submodule.recurse", "true")
    commit(repo, "with a submodule")
    before = checkout(repo)
    shop = Workshop(tmp_path, repo)
    plain = await shop.run("t1", "ls sub; echo x >new")
    assert (plain.output, told(plain)["uncommitted"]) == ("", 1)
    setup = ("git", "-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init")
    full = await shop.run("t2", "ls sub", setup=setup)
    assert full.output == "inside\nreadme\n"
    assert told(full)["kept"] is False
    assert checkout(repo) == before


async def test_large_files_come_with_the_checkout(tmp_path: Path) -> None:
    require("git-lfs")
    repo = repository(tmp_path / "r")
    git(repo, "lfs", "install", "--local", "--skip-smudge")
    git(repo, "lfs", "install", "--local", "--force")
    git(repo, "lfs", "track", "*.bin")
    commit(repo, "large", **{"a.bin": "large content\n"})
    assert "git-lfs" in git(repo, "show", "HEAD:a.bin"), "it is a pointer in git"
    before = checkout(repo)
    outcome = await Workshop(tmp_path, repo).run("t1", "cat a.bin; echo more >>a.bin; git add a.bin; git commit -qm x")
    assert outcome.output == "large content\n"
    assert told(outcome)["commits"] == 1
    assert checkout(repo) == before


async def test_missing_filter_fails_the_task_and_leaves_nothing(tmp_path: Path) -> None:
    repo = repository(tmp_path / "r")
    commit(repo, "filtered", **{".gitattributes": "*.bin filter=absent\n", "a.bin": "x"})
    git(repo, "config", "filter.absent.smudge", "absent-program")
    git(repo, "config", "filter.absent.required", "true")
    shop = Workshop(tmp_path, repo)
    failed(await shop.run("t1"), "smudge filter absent failed")
    assert not list(shop.state.workspaces.glob("*/*"))
    assert git(repo, "branch", "--list", "turbo/*") == ""
    assert len(git(repo, "worktree", "list").splitlines()) == 1


async def test_repository_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        missing("only root can give a repository to another user")
    repo = repository(tmp_path / "r")
    for path in (repo, *repo.rglob("*")):
        os.chown(path, 12345, -1)
    shop = Workshop(tmp_path, repo)
    unavailable(await shop.run("t1"), "detected dubious ownership")
    settings = tmp_path / "gitconfig"
    settings.write_text(f"[safe]\n\tdirectory = {repo}\n")
    shop.environment = {"GIT_CONFIG_GLOBAL": str(settings)}
    assert (await shop.run("t1", "ls")).output == "readme\n"


async def test_no_hook_runs_and_no_variable_redirects_git(tmp_path: Path) -> None:
    repo = repository(tmp_path / "r")
    other = repository(tmp_path / "other")
    for hook in ("post-checkout", "reference-transaction", "post-commit"):
        (repo / ".git" / "hooks" / hook).write_text(f"#!/bin/sh\necho {hook} >>{tmp_path}/hooks\n")
        (repo / ".git" / "hooks" / hook).chmod(0o755)
    before = checkout(other)
    shop = Workshop(tmp_path, repo, environment={"GIT_INDEX_FILE": str(tmp_path / "nothing")})
    outcome = await shop.run("t1", "unset GIT_INDEX_FILE; ls")
    assert outcome.output == "readme\n"
    shop.environment = {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other)}
    outcome = await shop.run("t2", "unset GIT_DIR GIT_WORK_TREE; ls; echo x >new")
    assert (outcome.output, told(outcome)["uncommitted"]) == ("readme\n", 1)
    assert not (tmp_path / "hooks").exists()
    assert checkout(other) == before
    shop.environment = {}
    await shop.run("t3", "git commit -q --allow-empty -m x")
    assert "post-commit" in (tmp_path / "hooks").read_text(), "the program's own git runs them: the hooks do work"


# ── a full disk ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode != 0:
        missing(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


async def test_full_disk_uses_no_attempt_and_leaves_nothing_behind(tmp_path: Path, small_disk: Path) -> None:
    repo = repository(tmp_path / "r")
    (repo / "large").write_bytes(os.urandom(3_000_000))
    commit(repo, "large")
    small = commit(repo, "small", large="")
    before = checkout(repo)
    shop = Workshop(small_disk, repo)
    outcome = await shop.run("t1", ref=git(repo, "rev-parse", "HEAD~1"))
    assert (outcome.kind, outcome.failure_kind) == (OutcomeKind.INFRASTRUCTURE, FailureKind.INFRASTRUCTURE), outcome
    assert "No space left on device" in str(outcome.error)
    assert not list(shop.state.workspaces.glob("*/*"))
    assert git(repo, "branch", "--list", "turbo/*") == ""
    assert len(git(repo, "worktree", "list").splitlines()) == 1
    assert (await shop.run("t1", "ls", ref=small)).output == "large\nreadme\n", "there is room for this one"
    assert checkout(repo) == before
    assert shutil.disk_usage(small_disk).free > 1_000_000
