"""Worktrees of tasks that belong together: one for a conversation, and dependents that begin at what their needs left. Real git."""

import json
from pathlib import Path

import pytest

from tests.support.repositories import Workshop, commit, git, repository, told
from turbo.domain.outcome import FailureKind, OutcomeKind
from turbo.domain.run import Snooze
from turbo.domain.work import Continued, Need
from turbo.workspaces.record import Keep, Policy

COMMIT = "echo {0} >{0}; git add {0}; git commit -qm {0}"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return repository(tmp_path / "project")


@pytest.fixture
def shop(tmp_path: Path, repo: Path) -> Workshop:
    return Workshop(tmp_path, repo)


def after(task_id: str, first: str = "t1", **more: object) -> dict[str, object]:
    """The fields of a follow-up to this task, in the conversation that `first` began."""
    return {"continued": Continued(task_id, "done", first, **more)}  # type: ignore[arg-type]


# ── follow-ups ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_follow_ups_work_on_the_branch_of_the_first_task(shop: Workshop, repo: Path) -> None:
    first = told(await shop.run("t1", COMMIT.format("one") + "; echo half >half"))
    second = await shop.run("t2", "cat one half; git branch --show-current; " + COMMIT.format("two"), work=after("t1"))
    assert second.output == "one\nhalf\nturbo/t1\n"
    share = told(second)
    assert (share["path"], share["branch"], share["base"]) == (first["path"], "turbo/t1", first["base"])
    assert (share["since"], share["continued"]) == (first["head"], True)
    assert (share["commits"], share["files_changed"], share["insertions"]) == (1, 1, 1), "its own share, without t1's"
    third = told(await shop.run("t3", "echo more >>half; " + COMMIT.format("three"), work=after("t2")))
    assert (third["since"], third["commits"]) == (share["head"], 1)
    assert (third["files_changed"], third["insertions"], third["uncommitted"]) == (2, 2, 1)
    assert git(repo, "log", "--format=%s", "turbo/t1").split() == ["three", "two", "one", "first"]
    assert git(repo, "branch", "--list", "turbo/t2", "turbo/t3") == ""


async def test_retry_of_a_follow_up_keeps_its_share(shop: Workshop) -> None:
    await shop.run("t1", COMMIT.format("one"))
    failed = told(await shop.run("t2", COMMIT.format("two") + "; exit 1", work=after("t1")))
    again = told(await shop.run("t2", COMMIT.format("three"), work=after("t1"), retry_count=1))
    assert (failed["commits"], again["commits"], again["since"]) == (1, 2, failed["since"])


async def test_follow_up_that_changes_nothing_keeps_the_work_before(shop: Workshop) -> None:
    space = told(await shop.run("t1", "echo draft >draft"))
    share = told(await shop.run("t2", "cat draft", work=after("t1")))
    assert (share["files_changed"], share["uncommitted"], share["kept"]) == (0, 0, True)
    assert (Path(str(space["path"])) / "draft").read_text() == "draft\n"


async def test_damaged_share_counts_from_the_run_that_finds_it(shop: Workshop) -> None:
    await shop.run("t1", COMMIT.format("one"))
    second = told(await shop.run("t2", COMMIT.format("two"), work=after("t1")))
    (file,) = shop.state.workspaces.glob("*/t1/share-t2.json")
    file.write_text(json.dumps({"commit": "--output=/etc/passwd", "tree": ""}))
    third = told(await shop.run("t2", COMMIT.format("three"), work=after("t1"), retry_count=1))
    assert (third["since"], third["commits"]) == (second["head"], 1)


@pytest.mark.parametrize("keep", ["changed", "never"])
async def test_worktree_stays_while_its_conversation_goes_on(keep: Keep, shop: Workshop) -> None:
    script = "true" if keep == "changed" else "echo draft >draft"
    policy = Policy(keep=keep)
    shop.going_on = {"t1"}
    space = told(await shop.run("t1", script, policy=policy))
    assert space["kept"] is True, "a follow-up waits"
    shop.going_on = set()
    share = told(await shop.run("t2", "true", work=after("t1"), policy=policy))
    assert (share["path"], share["continued"], share["kept"]) == (space["path"], True, False)
    assert not Path(str(space["path"])).exists()


async def test_follow_up_begins_anew_at_the_ref_of_the_first_task(shop: Workshop, repo: Path) -> None:
    git(repo, "branch", "release/1")
    commit(repo, "later", later="x")
    assert told(await shop.run("t1", "ls", data={"ref": "release/1"}, refs=("release/*",)))["kept"] is False
    outcome = await shop.run("t2", "ls", work=after("t1", directory={"ref": "release/1"}), refs=("release/*",))
    assert (outcome.output, told(outcome)["branch"]) == ("readme\n", "turbo/t1")
    outcome = await shop.run("t3", "ls", work=after("t2", directory={"ref": "release/1"}))
    assert outcome.output == "later\nreadme\n", "its own executor allows no such ref"


# ── from: needs ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def needed(shop: Workshop, task_id: str, script: str, **more: object) -> dict[str, Need]:
    outcome = await shop.run(task_id, script, **more)  # type: ignore[arg-type]
    return {task_id: Need("completed", outcome.output, workspace=told(outcome))}


async def test_dependent_begins_at_the_head_its_need_left(shop: Workshop, repo: Path) -> None:
    plan = await needed(shop, "plan", COMMIT.format("plan"))
    outcome = await shop.run("do", "cat plan; " + COMMIT.format("do"), work={"needs": plan}, from_needs=True)
    space, before = told(outcome), plan["plan"].workspace
    assert before is not None
    assert outcome.output == "plan\n"
    assert (space["base"], space["ref"], space["branch"]) == (before["head"], "turbo/plan", "turbo/do")
    assert space["commits"] == 1
    assert (await shop.run("other", "ls", work={"needs": plan})).output == "readme\n", "only with from: needs"


async def test_unchanged_need_hands_on_where_it_began_itself(shop: Workshop) -> None:
    do = await needed(shop, "do", COMMIT.format("do"))
    review = await needed(shop, "review", "cat do", work={"needs": do}, from_needs=True)
    assert (await shop.run("fix", "cat do", work={"needs": review}, from_needs=True)).output == "do\n"


async def test_needs_that_left_nothing_leave_the_ref(shop: Workshop) -> None:
    needs = await needed(shop, "plan", "true") | {"fetch": Need("completed", "text")}
    assert (await shop.run("do", "ls", work={"needs": needs}, from_needs=True)).output == "readme\n"


async def test_need_that_has_the_others_is_where_it_begins(shop: Workshop) -> None:
    plan = await needed(shop, "plan", COMMIT.format("plan"))
    do = await needed(shop, "do", COMMIT.format("do"), work={"needs": plan}, from_needs=True)
    outcome = await shop.run("review", "ls", work={"needs": plan | do}, from_needs=True)
    assert outcome.output == "do\nplan\nreadme\n"


async def test_needs_with_different_branches_are_refused(shop: Workshop) -> None:
    needs = await needed(shop, "a", COMMIT.format("a")) | await needed(shop, "b", COMMIT.format("b"))
    outcome = await shop.run("c", work={"needs": needs}, from_needs=True)
    assert (outcome.kind, outcome.failure_kind, outcome.final) == (OutcomeKind.FAILED, FailureKind.REFUSED, True)
    assert "a (turbo/a on host here), b (turbo/b on host here) left different branches" in str(outcome.error)


async def test_work_that_its_need_did_not_commit_is_refused(shop: Workshop) -> None:
    outcome = await shop.run("do", work={"needs": await needed(shop, "plan", "echo x >x")}, from_needs=True)
    assert "plan, which it needed, left changes that are in no commit" in str(outcome.error)


async def test_branch_on_another_host_pins_the_task_to_it(shop: Workshop, repo: Path) -> None:
    (plan,) = (await needed(shop, "plan", COMMIT.format("plan"))).values()
    there = {**(plan.workspace or {}), "host": "other", "repo": f"/elsewhere/{repo.name}"}
    outcome = await shop.run(
        "do", "cat plan", work={"needs": {"plan": Need("completed", workspace=there)}}, from_needs=True
    )
    assert outcome.output == "plan\n", "its commit is here as well: pushed, and fetched"
    away = Need("completed", workspace={**there, "head": "0" * 39 + "1"})
    with pytest.raises(Snooze, match="the branch of plan, which it needed, is on host other") as snooze:
        await shop.run("do2", work={"needs": {"plan": away}}, from_needs=True)
    assert (snooze.value.host, snooze.value.seconds) == ("other", 0.0)
    lost = Need("completed", workspace={**there, "head": "0" * 39 + "1", "host": "here", "repo": str(repo)})
    outcome = await shop.run("do3", work={"needs": {"plan": lost}}, from_needs=True)
    assert "has lost it" in str(outcome.error)


@pytest.mark.parametrize("head", ["--upload-pack=x", "HEAD", 7, None])
async def test_head_that_is_no_commit_is_left_out(head: object, shop: Workshop, repo: Path) -> None:
    space = {"host": "here", "repo": str(repo), "branch": "turbo/plan", "head": head, "base": "x", "ref": "HEAD"}
    needs = {"plan": Need("completed", workspace=space)}
    assert (await shop.run("do", "ls", work={"needs": needs}, from_needs=True)).output == "readme\n"
