"""Follow-ups of work that was checked: from where they are judged, when the task before them completed, and when it did not."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.checks import check_of, checks, results
from tests.support.repositories import Workshop, commit, git, repository, told
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.domain.work import Continued, Earlier
from turbo.executors.checks.loop import Checks
from turbo.workspaces.record import Policy

TAMPER = "echo easy > tests/a.py"
RESTORE = "git checkout -q -- tests"
COMMIT = "git add -A; git commit -qm work"
FAILED, COMPLETED = "failed", "completed"


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    repo = repository(tmp_path / "project")
    (repo / "tests").mkdir()
    (repo / "tests" / "a.py").write_text("assert f() == 4\n")
    commit(repo, "code", **{".gitignore": "*.log\n"})
    return Workshop(tmp_path, repo)


def guarded(shop: Workshop, **policy: Any) -> Checks:
    return checks(shop.path, "true", converses=False, **({"protect": ("tests/**",)} | policy))


def after(*earlier: tuple[str, str], ran: bool = True) -> dict[str, Any]:
    """The fields of a follow-up, from the tasks of its conversation before it, each with its status; the first is `t`."""
    rows = tuple(Earlier(task_id, "x", status=status, ran=ran) for task_id, status in earlier)
    return {"work": {"continued": Continued(rows[-1].task_id if rows else "gone", None, "t", earlier=rows)}}


def tampered(outcome: Outcome) -> bool:
    if outcome.kind is OutcomeKind.SUCCEEDED:
        return False
    assert outcome.failure_kind is FailureKind.UNVERIFIED, outcome
    assert (results(outcome), check_of(outcome)["protect"]) == (["protected"], ["tests/a.py"])
    return True


@pytest.mark.parametrize(
    "way", [TAMPER, f"{TAMPER}; {COMMIT}", f"{TAMPER}; git update-index --assume-unchanged tests/a.py"]
)
async def test_follow_up_of_tampered_work_does_not_pass(shop: Workshop, way: str) -> None:
    assert tampered(await shop.run("t", way, checks=guarded(shop)))
    assert tampered(await shop.run("u", checks=guarded(shop), **after(("t", FAILED))))
    assert tampered(await shop.run("v", checks=guarded(shop), **after(("t", FAILED), ("u", FAILED)))), (
        "nor the next one"
    )


async def test_follow_up_that_puts_the_files_back_passes(shop: Workshop) -> None:
    assert tampered(await shop.run("t", TAMPER, checks=guarded(shop)))
    assert tampered(await shop.run("u", "echo x > new", checks=guarded(shop), **after(("t", FAILED))))
    repaired = await shop.run("v", RESTORE, checks=guarded(shop), **after(("t", FAILED), ("u", FAILED)))
    assert repaired.kind is OutcomeKind.SUCCEEDED, check_of(repaired)
    later = after(("t", FAILED), ("u", FAILED), ("v", COMPLETED))
    assert tampered(await shop.run("w", TAMPER, checks=guarded(shop), **later)), (
        "the control: from there on it is judged anew"
    )


async def test_ignored_protected_file_is_remembered_by_a_follow_up(shop: Workshop) -> None:
    setup = ("sh", "-c", "echo real > tests/made.log")
    failed = await shop.run("t", "echo easy > tests/made.log", checks=guarded(shop), setup=setup)
    assert check_of(failed)["protect"] == ["tests/made.log"]
    lazy = await shop.run("u", checks=guarded(shop), setup=setup, **after(("t", FAILED)))
    assert check_of(lazy)["protect"] == ["tests/made.log"], "git says nothing of it"
    honest = await shop.run(
        "v", "echo real > tests/made.log", checks=guarded(shop), setup=setup, **after(("t", FAILED), ("u", FAILED))
    )
    assert honest.kind is OutcomeKind.SUCCEEDED, check_of(honest)


async def test_tampering_of_a_task_that_never_came_to_its_check_counts(shop: Workshop) -> None:
    failed = await shop.run("t", f"{TAMPER}; exit 1", checks=guarded(shop))
    assert failed.failure_kind is FailureKind.ERROR
    assert tampered(await shop.run("u", checks=guarded(shop), **after(("t", FAILED))))


async def test_work_that_a_person_accepted_is_the_start(shop: Workshop) -> None:
    """A person closed the failed task as completed."""
    assert tampered(await shop.run("t", TAMPER, checks=guarded(shop)))
    assert not tampered(await shop.run("u", checks=guarded(shop), **after(("t", COMPLETED))))


async def test_tampering_in_the_middle_of_a_conversation_counts(shop: Workshop) -> None:
    """The first task, without a check, changed the tests, and completed; the second one did so, and failed."""
    assert (await shop.run("t", "echo new > tests/a.py", policy=Policy(keep="always"))).kind is OutcomeKind.SUCCEEDED
    assert not tampered(await shop.run("u", checks=guarded(shop), **after(("t", COMPLETED))))
    assert tampered(await shop.run("v", TAMPER, checks=guarded(shop), **after(("t", COMPLETED), ("u", COMPLETED))))
    rows = (("t", COMPLETED), ("u", COMPLETED), ("v", FAILED))
    assert tampered(await shop.run("w", checks=guarded(shop), **after(*rows)))
    honest = await shop.run("x", "echo new > tests/a.py", checks=guarded(shop), **after(*rows, ("w", FAILED)))
    assert honest.kind is OutcomeKind.SUCCEEDED, "as the one that completed had left it"


async def test_task_that_never_ran_has_no_start(shop: Workshop) -> None:
    assert (await shop.run("t", "echo new > tests/a.py", policy=Policy(keep="always"))).kind is OutcomeKind.SUCCEEDED
    earlier = (Earlier("t", "x", status=COMPLETED), Earlier("u", "x", status="cancelled", ran=False))
    work = {"continued": Continued("u", None, "t", earlier=earlier)}
    assert not tampered(await shop.run("v", checks=guarded(shop), work=work))


@pytest.mark.parametrize("lost", ["rows", "start", "list"])
async def test_start_that_is_not_known_is_that_of_the_worktree(shop: Workshop, lost: str) -> None:
    """The rows of a conversation were deleted, or what the host kept of it is gone. git itself would leave out all of tests/ for
    an exemption that is as long."""
    wants = guarded(shop, protect=("tests/**", "!other/**"))
    await shop.run("t", "true", checks=wants, policy=Policy(keep="always"))
    assert tampered(await shop.run("u", TAMPER, checks=wants, **after(("t", COMPLETED))))
    (home,) = shop.path.glob("state/workspaces/*/t")
    rows = [] if lost == "rows" else [("t", COMPLETED), ("u", FAILED)]
    if rows:
        (gone,) = home.glob("share-u*" if lost == "start" else "protected-u*")
        gone.unlink()
    assert tampered(await shop.run("v", checks=wants, **after(*rows)))
    honest = await shop.run("w", RESTORE, checks=wants, **after(*rows, ("v", FAILED)))
    assert honest.kind is OutcomeKind.SUCCEEDED, check_of(honest)


async def test_new_worktree_of_a_conversation_is_judged_anew(shop: Workshop) -> None:
    """All of it was swept, and its branch removed: the follow-up begins at the ref, as its first task did."""
    assert tampered(await shop.run("t", TAMPER, checks=guarded(shop)))
    (home,) = shop.path.glob("state/workspaces/*/t")
    git(shop.repo, "worktree", "remove", "--force", str(home / "project"))
    git(shop.repo, "branch", "-D", "turbo/t")
    (home / "record.json").unlink()
    assert not tampered(await shop.run("u", checks=guarded(shop), **after(("t", FAILED))))
    assert tampered(await shop.run("v", TAMPER, checks=guarded(shop), **after(("t", FAILED), ("u", COMPLETED))))


async def test_requirements_count_from_the_start_that_is_judged(shop: Workshop) -> None:
    """The first task did the work, and left a mess; the follow-up cleans up."""
    wants = guarded(shop, requires=("commit", "changes", "clean"))
    messy = await shop.run("t", f"echo x > new; {COMMIT}; touch mess", checks=wants)
    assert check_of(messy)["requires"] == ["clean"]
    lazy = await shop.run("u", checks=wants, **after(("t", FAILED)))
    assert check_of(lazy)["requires"] == ["clean"], "what the task before it has left is not forgiven"
    cleaned = await shop.run("v", "rm mess", checks=wants, **after(("t", FAILED), ("u", FAILED)))
    assert cleaned.kind is OutcomeKind.SUCCEEDED, check_of(cleaned)
    assert told(cleaned)["commits"] == 0, "its own share is told all the same"
    nothing = await shop.run("w", checks=wants, **after(("t", FAILED), ("u", FAILED), ("v", COMPLETED)))
    assert check_of(nothing)["requires"] == ["commit", "changes"], "after work that passed, its own share decides"


# ── a commit of the task's own ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("git checkout -q other", "no commit was made"),
        ("git checkout -q --detach other", "no commit was made"),
        ("git reset -q --hard other", "no commit was made"),
        ("git merge -q other", "no commit was made"),
        ("git reset -q --hard tagged", "no commit was made"),
        (
            "git checkout -q -b mine; echo x > new; git add -A; git commit -qm work",
            "what is checked out is not on its branch turbo/t",
        ),
        ("git reset -q --hard other; git branch -q -D other", "no commit was made"),
        ("git merge -q other; echo x > new; git add -A; git commit -qm work", ""),
        ("echo x > new; git add -A; git commit -qm work; git branch backup; git tag done", ""),
        ("echo x > new; git add -A; git commit -qm work; git checkout -q --detach", ""),
        ("git merge -q --no-ff -m merged other", ""),
    ],
)
async def test_commit_of_others_is_none_of_the_tasks(shop: Workshop, script: str, why: str) -> None:
    git(shop.repo, "checkout", "-q", "-b", "other")
    commit(shop.repo, "long ago", old="old\n")
    git(shop.repo, "checkout", "-q", "-b", "third")
    commit(shop.repo, "longer ago", older="older\n")
    git(shop.repo, "tag", "-a", "-m", "x", "tagged")
    git(shop.repo, "checkout", "-q", "main")
    git(shop.repo, "branch", "-q", "-D", "third")
    outcome = await shop.run("t", script, checks=guarded(shop, protect=(), requires=("commit",)))
    if not why:
        assert outcome.kind is OutcomeKind.SUCCEEDED, check_of(outcome)
        return
    assert (results(outcome), check_of(outcome)["requires"]) == (["unmet"], ["commit"])
    assert why in check_of(outcome)["why"]


async def test_retry_and_follow_up_count_commits_from_their_start(shop: Workshop) -> None:
    wants = guarded(shop, protect=(), requires=("commit",))
    git(shop.repo, "branch", "other")
    failed = await shop.run("t", f"echo x > new; {COMMIT}; git branch mine; exit 1", checks=wants)
    assert failed.failure_kind is FailureKind.ERROR
    retried = await shop.run("t", checks=wants, retry_count=1)
    assert retried.kind is OutcomeKind.SUCCEEDED, "the branch that it made itself takes nothing away"
    lazy = await shop.run("u", "git reset -q --hard mine", checks=wants, **after(("t", COMPLETED)))
    assert check_of(lazy)["requires"] == ["commit"]
    done = await shop.run("v", f"echo y > new; {COMMIT}", checks=wants, **after(("t", COMPLETED), ("u", FAILED)))
    assert done.kind is OutcomeKind.SUCCEEDED, check_of(done)
