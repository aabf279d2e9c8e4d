"""Checks of what programs have done, with real programs and repositories: what passes, what does not, and bad checks."""

import asyncio
import json
import re
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.checks import check_of, checks, results
from tests.support.processes import FAMILY, PYTHON, living
from tests.support.repositories import Workshop, commit, git, repository, told
from tests.support.size import FULL
from tests.support.waiting import until_async
from turbo.domain.outcome import FailureKind, ModelUsage, Outcome, OutcomeKind
from turbo.domain.run import Run, StopSignal
from turbo.domain.states import StopCause
from turbo.domain.task import Task
from turbo.domain.work import Continued, Earlier
from turbo.executors.checks.command import LOG_BYTES
from turbo.executors.checks.loop import Checks, Turn
from turbo.process.attempt_log import TAIL_BYTES

COMMIT = "git commit -qm work"
MUCH = 1024**3 if FULL else 96 * 1024**2


def peak_bytes() -> int:
    """Of this process's memory, so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    repo = repository(tmp_path / "project")
    for name, text in {"tests/a.py": "assert f() == 4\n", "tests/data/b.txt": "b\n", "src.py": "f\n"}.items():
        (repo / name).parent.mkdir(exist_ok=True, parents=True)
        (repo / name).write_text(text)
    commit(repo, "code", **{".gitignore": "*.log\n__pycache__/\n"})
    return Workshop(tmp_path, repo)


def one(shop: Workshop, script: str = "", **policy: Any) -> Checks:
    return checks(shop.path, script, converses=False, **policy)


def unverified(outcome: Outcome, result: str) -> dict[str, Any]:
    assert (outcome.kind, outcome.failure_kind, outcome.final) == (OutcomeKind.FAILED, FailureKind.UNVERIFIED, True)
    assert results(outcome) == [result]
    return check_of(outcome)


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_program_is_completed_by_its_check(shop: Workshop) -> None:
    passes = one(shop, 'cat made; echo "$TURBO_TASK_ID" >&2; [ -z "$(cat)" ]')
    outcome = await shop.run("t", "echo bread > made; echo '{\"a\": 1}'", checks=passes)
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, {"a": 1})
    found = check_of(outcome)
    assert (found["passed"], found["rounds"], found["exit_code"], found["why"]) == (True, 1, 0, None)
    assert sorted(found["output"].split()) == ["bread", "t"], "both streams, in its directory"
    assert Path(found["log"]).read_text().splitlines().count("bread") == 1
    assert told(outcome)["uncommitted"] == 1


async def test_work_that_fails_its_check_is_unverified(shop: Workshop) -> None:
    outcome = await shop.run("t", "echo done", checks=one(shop, "echo one; echo 'two is missing'; exit 3"))
    found = unverified(outcome, "failed")
    assert (found["exit_code"], found["output"], found["rounds"]) == (3, "one\ntwo is missing", 1)
    assert outcome.error == f"not verified: check 1: sh {shop.path}/check.sh failed with exit code 3: two is missing"
    assert outcome.output == "done\n", "what the program printed is kept"
    assert told(outcome)["kept"] is True


async def test_failed_program_is_not_checked(shop: Workshop) -> None:
    outcome = await shop.run("t", "exit 4", checks=one(shop, "touch checked"))
    assert (outcome.failure_kind, outcome.final, outcome.checked) == (FailureKind.ERROR, False, None)
    assert not list(shop.path.rglob("checked"))


@pytest.mark.parametrize(
    ("script", "code", "why"),
    [
        ("kill -9 $$", -9, "was killed by SIGKILL"),
        ("kill -TERM $$", -15, "was killed by SIGTERM"),
        ("exit 76", 76, "failed with exit code 76"),
        ("printf '\\377\\0a\\033[2J'; exit 1", 1, "failed with exit code 1"),
    ],
)
async def test_odd_end_of_a_check(shop: Workshop, script: str, code: int, why: str) -> None:
    outcome = await shop.run("t", checks=one(shop, script))
    found = unverified(outcome, "failed")
    assert found["exit_code"] == code
    assert why in found["why"]
    assert "\033" not in (outcome.error or "")


async def test_task_rests_while_its_check_cannot_be_made(shop: Workshop) -> None:
    away = one(shop, "[ -e later ] || { echo asking; echo the database is down; exit 75; }")
    for longest in (10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 600.0, 600.0):
        outcome = await shop.run("t", "echo ran >> ran; echo done", checks=away)
        assert (outcome.kind, outcome.uncounted, results_of(outcome)) == (OutcomeKind.UNAVAILABLE, True, [])
        assert longest / 2 <= (outcome.rest_seconds or 0.0) <= longest
        assert (outcome.output, outcome.account) == ("done\n", None)
        why = f"could not be made: sh {shop.path}/check.sh asks for a later attempt (exit code 75)"
        assert outcome.error == f"check 1: {why}: the database is down"
        found = check_of(outcome)
        assert (found["passed"], found["rounds"], found["exit_code"], found["why"]) == (False, 0, 75, why)
        assert found["output"] == "asking\nthe database is down"
        assert Path(found["log"]).read_text().endswith("asking\nthe database is down\n")
    (tree,) = shop.path.glob("state/workspaces/*/t/project")
    (tree / "later").touch()
    again = await shop.run("t", "echo ran >> ran; echo done", checks=away)
    assert (again.kind, again.output, results_of(again)) == (OutcomeKind.SUCCEEDED, "done\n", ["passed"])
    assert (tree / "ran").read_text() == "ran\n", "it went straight to the check each time"


async def test_check_that_hangs_is_ended_in_time_with_all_it_began(shop: Workshop) -> None:
    (shop.path / "family.py").write_text(FAMILY)
    script = f"exec {PYTHON[0]} -S -E {shop.path}/family.py stubborn"
    outcome = await shop.run("t", checks=one(shop, script, seconds=1.5))
    found = unverified(outcome, "timed_out")
    assert (found["exit_code"], "was ended after 1.5 s" in found["why"]) == (None, True)
    pids = json.loads(found["output"])
    assert len(pids) == 4, "the fault bit"
    assert living(pids.values()) == []


async def test_check_leaves_no_process_behind(shop: Workshop) -> None:
    (shop.path / "family.py").write_text(FAMILY)
    outcome = await shop.run("t", checks=one(shop, f"{PYTHON[0]} -S -E {shop.path}/family.py leaving"))
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert living(json.loads(check_of(outcome)["output"]).values()) == []


async def test_check_that_prints_without_end_takes_little(shop: Workshop) -> None:
    """Of the disk and of memory."""
    peak = peak_bytes()
    script = f"yes 'all work and no play' | head -c {MUCH}; echo; echo last; exit 1"
    outcome = await shop.run("t", checks=one(shop, script))
    found = unverified(outcome, "failed")
    assert found["output"].endswith("\nlast")
    assert len(found["output"].encode()) <= 16 * 1024
    log = Path(found["log"])
    assert LOG_BYTES < log.stat().st_size < LOG_BYTES + TAIL_BYTES + 4096
    left_out = re.search(rb"\[turbo\] (\d+) bytes are left out here", log.read_bytes())
    assert left_out is not None
    assert int(left_out[1]) > MUCH - 2 * LOG_BYTES, "the fault bit"
    assert peak_bytes() - peak < 48 * 1024 * 1024


async def test_missing_check_makes_the_executor_unavailable(shop: Workshop, tmp_path: Path) -> None:
    lacking = one(shop, command=("no-such-check", "now"))
    assert "no-such-check" in (lacking.missing() or "")
    outcome = await shop.run("t", "echo done", checks=lacking)
    assert outcome.kind is OutcomeKind.INFRASTRUCTURE
    assert "no-such-check" in (outcome.error or "")
    assert one(shop, "true").missing() is None, "the control"


async def test_secrets_are_not_in_the_environment_of_a_check(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBO_DSN", "postgresql://s3cret")
    env = {"ANTHROPIC_API_KEY": "s3cret", "PLAIN": "shown"}
    outcome = await shop.run("t", checks=one(shop, "env", env=env))
    assert "PLAIN=shown" in check_of(outcome)["output"]
    assert "s3cret" not in check_of(outcome)["output"]


@pytest.mark.parametrize("cause", [StopCause.CANCEL, StopCause.DRAIN, StopCause.LOST])
async def test_check_is_ended_with_its_run(shop: Workshop, cause: StopCause) -> None:
    hold = one(shop, "echo x >> began; [ -e go ] || sleep 1000")
    stop = StopSignal()
    running = asyncio.create_task(shop.run("t", "echo ran >> ran", stop=stop, checks=hold))
    await until_async(lambda: bool(list(shop.path.glob("state/workspaces/*/t/project/began"))))
    stop.set(cause)
    outcome = await running
    assert outcome.kind is OutcomeKind.CANCELLED
    (tree,) = shop.path.glob("state/workspaces/*/t/project")
    (tree / "go").touch()
    assert (await shop.run("t", "echo ran >> ran", checks=hold)).kind is OutcomeKind.SUCCEEDED
    straight = cause is not StopCause.CANCEL
    assert (tree / "ran").read_text() == ("ran\n" if straight else "ran\nran\n")


@pytest.mark.parametrize("cause", [StopCause.DRAIN, StopCause.LOST])
async def test_turn_is_counted_once_if_its_check_is_cut_off(tmp_path: Path, cause: StopCause) -> None:
    """By the run that ended; the next claim goes straight to the check, and has used nothing."""
    hold = checks(tmp_path / "check", f"echo x >> {tmp_path}/began; [ -e {tmp_path}/go ] || sleep 1000")
    used = (ModelUsage("m", 1000, 10, cost_usd=1.0),)
    task, stop = Task("t", "x", "make it good", fencing_token=7), StopSignal()
    turns = 0

    async def turn(_prompt: object) -> Outcome:
        nonlocal turns
        turns += 1
        return replace(Outcome.succeeded("answer"), session_id="s", usage=used)

    def run(task: Task, stop: StopSignal) -> Run:
        return Run(task, tmp_path, tmp_path / "logs" / f"{task.fencing_token}.log", stop)

    running = asyncio.create_task(hold.run(run(task, stop), tmp_path, None, turn))
    await until_async((tmp_path / "began").exists)
    stop.set(cause)
    cut_off = await running
    (tmp_path / "go").touch()
    later = replace(task, fencing_token=8, infra_count=1)
    done = await hold.run(run(later, StopSignal()), tmp_path, None, turn)
    assert (done.kind, turns) == (OutcomeKind.SUCCEEDED, 1)
    assert (cut_off.usage, done.usage) == (used, ())


async def test_lost_worktree_is_worked_in_again(shop: Workshop) -> None:
    """The run was drained in its check; then a person removed the worktree and its branch."""
    hold = one(shop, f"echo x >> {shop.path}/began; [ -e {shop.path}/go ] || sleep 1000; [ -e made ]")
    stop = StopSignal()
    running = asyncio.create_task(shop.run("t", "touch made", stop=stop, checks=hold))
    await until_async((shop.path / "began").exists)
    stop.set(StopCause.DRAIN)
    assert (await running).kind is OutcomeKind.CANCELLED
    (home,) = shop.path.glob("state/workspaces/*/t")
    git(shop.repo, "worktree", "remove", "--force", str(home / "project"))
    git(shop.repo, "branch", "-D", "turbo/t")
    (shop.path / "go").touch()
    assert (await shop.run("t", "touch made", checks=hold)).kind is OutcomeKind.SUCCEEDED


# ── before the agent ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("red", [True, False])
async def test_check_that_was_red_before_is_told_apart(shop: Workshop, red: bool) -> None:
    script = "echo always; exit 2" if red else "[ ! -e made ]"
    outcome = await shop.run("t", "touch made", checks=one(shop, script, baseline=True))
    found = unverified(outcome, "failed")
    assert (found["baseline"]["passed"], found["baseline"]["exit_code"]) == (not red, 2 if red else 0)
    assert found["baseline"]["output"] == ("always" if red else "")
    assert ("failed before the agent began" in found["why"]) is red
    assert ("failed before the agent began" in (outcome.error or "")) is red


async def test_baseline_is_taken_once(shop: Workshop) -> None:
    counts = one(shop, "echo x >> ../../counted; [ -e go ] || exit 75", baseline=True)
    first = await shop.run("t", checks=counts)
    assert (first.kind, first.uncounted) == (OutcomeKind.UNAVAILABLE, True), "the baseline itself could not be taken"
    assert str(first.error).startswith("check before the agent begins: could not be made: sh ")
    (tree,) = shop.path.glob("state/workspaces/*/t/project")
    (tree / "go").touch()
    outcome = await shop.run("t", checks=counts)
    assert (outcome.kind, check_of(outcome)["baseline"]["passed"]) == (OutcomeKind.SUCCEEDED, True)
    retried = await shop.run("t", retry_count=1, checks=counts)
    assert "baseline" not in check_of(retried)


# ── the workspace ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("script", "requires", "missing"),
    [
        ("true", ("commit",), ["commit"]),
        ("echo x > new", ("commit", "changes"), ["commit"]),
        (f"echo x > new; git add new; {COMMIT}", ("commit", "changes", "clean"), []),
        ("true", ("changes",), ["changes"]),
        ("echo x > ignored.log", ("changes",), ["changes"]),
        (f"{COMMIT} --allow-empty", ("commit", "changes"), ["changes"]),
        ("echo x > new", ("clean",), ["clean"]),
        (f"echo x > new; git add new; {COMMIT}; echo y >> new", ("commit", "clean"), ["clean"]),
        ("true", ("clean",), []),
    ],
)
async def test_what_is_required_of_a_workspace(
    shop: Workshop, script: str, requires: tuple[str, ...], missing: list[str]
) -> None:
    outcome = await shop.run("t", script, checks=one(shop, "touch ../../checked", requires=requires))
    if missing:
        assert unverified(outcome, "unmet")["requires"] == missing
        assert not list(shop.path.rglob("checked")), "the cheap judges come first"
    else:
        assert (outcome.kind, check_of(outcome)["requires"]) == (OutcomeKind.SUCCEEDED, [])
        assert len(list(shop.path.rglob("checked"))) == 1


async def test_work_of_setup_is_not_the_tasks_own(shop: Workshop) -> None:
    setup = ("sh", "-c", "echo generated > tests/a.py; echo made > set-up")
    wants = one(shop, requires=("changes",), protect=("tests/**",))
    outcome = await shop.run("t", checks=wants, setup=setup)
    assert unverified(outcome, "unmet")["requires"] == ["changes"]
    done = await shop.run("u", f"echo x > new; git add new; {COMMIT}", checks=wants, setup=setup)
    assert done.kind is OutcomeKind.SUCCEEDED, check_of(done)
    changed = await shop.run("v", "echo x > new; echo mine > tests/a.py", checks=wants, setup=setup)
    assert unverified(changed, "protected")["protect"] == ["tests/a.py"]


TAMPERS = {
    "edited": ("echo easy > tests/a.py", ["tests/a.py"]),
    "edited and committed": (f"echo easy > tests/a.py; git add -A; {COMMIT}", ["tests/a.py"]),
    "committed, and put back": (
        f"echo easy > tests/a.py; git add -A; {COMMIT}; git show HEAD~1:tests/a.py > tests/a.py",
        ["tests/a.py"],
    ),
    "edited, and called unchanged": (
        "git update-index --assume-unchanged tests/a.py; echo easy > tests/a.py",
        ["tests/a.py"],
    ),
    "edited, and left out": ("git update-index --skip-worktree tests/a.py; echo easy > tests/a.py", ["tests/a.py"]),
    "edited, same size and time": (
        "touch -r tests/a.py stamp; printf 'assert f() == 5\\n' > tests/a.py; touch -r stamp tests/a.py; rm stamp",
        ["tests/a.py"],
    ),
    "deleted": ("rm tests/a.py", ["tests/a.py"]),
    "renamed": ("git mv tests/a.py tests/c.py", ["tests/a.py", "tests/c.py"]),
    "added": ("touch tests/conftest.py", ["tests/conftest.py"]),
    "added and ignored": ("mkdir -p tests/sub; touch tests/sub/a.log", ["tests/sub/a.log"]),
    "hidden by an exclude of its own": (
        'echo "tests/conftest.py" >> "$(git rev-parse --git-common-dir)/info/exclude"; touch tests/conftest.py',
        ["tests/conftest.py"],
    ),
    "another kind of file": ("rm tests/a.py; ln -s ../src.py tests/a.py", ["tests/a.py"]),
    "a nested repository": ("git init -q tests/nested; touch tests/nested/x", ["tests/nested/"]),
    "a protected directory that becomes a repository": ("git init -q tests; touch tests/.git/conftest.py", ["tests/"]),
    "a pointer to a repository": ("echo 'gitdir: /nowhere' > tests/.git", ["tests/"]),
    "the directory is a link": ("mv tests elsewhere; ln -s elsewhere tests", ["tests/a.py"]),
    "equal by an attribute": (
        "printf 'assert f() == 5\\r\\n' > tests/a.py; echo '* text=auto' > .gitattributes",
        ["tests/a.py"],
    ),
    "equal in another encoding": (
        "iconv -t UTF-16LE tests/a.py > x; mv x tests/a.py; echo 'tests/a.py working-tree-encoding=UTF-16LE' > .gitattributes",
        ["tests/a.py"],
    ),
    "equal by an attribute of the repository": (
        "sed -i 's/$/\\r/' tests/a.py; d=$(git rev-parse --git-common-dir)/info; mkdir -p $d; echo '* text=auto' > $d/attributes",
        ["tests/a.py"],
    ),
    "equal by a setting": ("sed -i 's/$/\\r/' tests/a.py; git config core.autocrlf true", ["tests/a.py"]),
    "another base": (
        'echo easy > tests/a.py; git add -A; git commit -q --amend -m "code"; git checkout -q --detach',
        ["tests/a.py"],
    ),
    "exempt": ("echo x > tests/data/b.txt; touch tests/data/new", []),
    "something else": (f"echo x > src.py; touch new; git add -A; {COMMIT}", []),
}


@pytest.mark.parametrize("way", TAMPERS)
async def test_protected_file_that_was_tampered_with(shop: Workshop, way: str) -> None:
    script, changed = TAMPERS[way]
    outcome = await shop.run("t", script, checks=one(shop, "true", protect=("tests/**", "!tests/data/**")))
    if not changed:
        assert outcome.kind is OutcomeKind.SUCCEEDED, check_of(outcome)
        return
    found = unverified(outcome, "protected")
    assert found["protect"] == changed
    assert changed[0] in found["why"]
    assert (found["exit_code"], found["output"]) == (None, ""), "the command did not run"


async def test_many_protected_files_are_counted(shop: Workshop) -> None:
    outcome = await shop.run(
        "t", "for i in $(seq 30); do touch tests/$i.py; done", checks=one(shop, protect=("tests/",))
    )
    found = unverified(outcome, "protected")
    assert (len(found["protect"]), found["why"].endswith("and 10 more")) == (20, True)


async def test_pattern_that_matches_nothing_protects_what_is_added(shop: Workshop) -> None:
    nothing = one(shop, protect=("spec/**",))
    assert (await shop.run("t", "touch new", checks=nothing)).kind is OutcomeKind.SUCCEEDED
    unverified(await shop.run("u", "mkdir spec; touch spec/a", checks=nothing), "protected")


async def test_file_in_a_new_nested_repository_is_protected(shop: Workshop) -> None:
    script = "git init -q new; touch new/conftest.py"
    outcome = await shop.run("t", script, checks=one(shop, "true", protect=("**/conftest.py",)))
    assert unverified(outcome, "protected")["protect"] == ["new/conftest.py"]


async def test_what_the_baseline_and_a_check_leave_is_not_the_agents(shop: Workshop) -> None:
    leaves = "mkdir -p tests/cache; touch tests/cache/$(date +%s%N)"
    outcome = await shop.run("t", checks=one(shop, leaves, protect=("tests/**",), baseline=True))
    assert outcome.kind is OutcomeKind.SUCCEEDED, check_of(outcome)


@pytest.mark.parametrize("way", ["drained", "lost", "killed"])
async def test_what_a_cut_off_check_leaves_is_not_the_agents(shop: Workshop, way: str) -> None:
    leaves = "echo made > tests/report.xml; touch tests/made.log; echo x >> began; [ -e go ] || sleep 1000"
    hold = one(shop, leaves, protect=("tests/**",))
    stop = StopSignal()
    running = asyncio.create_task(shop.run("t", "echo ran >> ran", stop=stop, checks=hold))
    await until_async(lambda: bool(list(shop.path.glob("state/workspaces/*/t/project/began"))))
    if way == "killed":
        running.cancel()
        await asyncio.wait([running])
    else:
        stop.set(StopCause.DRAIN if way == "drained" else StopCause.LOST)
        assert (await running).kind is OutcomeKind.CANCELLED
    (tree,) = shop.path.glob("state/workspaces/*/t/project")
    assert (tree / "tests" / "report.xml").exists(), "the control"
    (tree / "go").touch()
    outcome = await shop.run("t", "echo ran >> ran", checks=hold)
    assert outcome.kind is OutcomeKind.SUCCEEDED, check_of(outcome)
    assert (tree / "ran").read_text() == "ran\n"


async def test_keyword_of_git_hides_no_change(shop: Workshop) -> None:
    (shop.repo / "tests" / "i.py").write_text("# $Id$\n")
    commit(shop.repo, "ident")
    script = "echo '* ident' > .gitattributes; echo '# $Id: any code $' > tests/i.py"
    outcome = await shop.run("t", script, checks=one(shop, "true", protect=("tests/**",)))
    assert unverified(outcome, "protected")["protect"] == ["tests/i.py"]


async def test_file_in_a_submodule_is_protected(shop: Workshop) -> None:
    library = repository(shop.path / "lib", **{"lib.py": "x\n"})
    git(shop.repo, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(library), "vendor/lib")
    commit(shop.repo, "submodule")
    setup = ("git", "-c", "protocol.file.allow=always", "submodule", "-q", "update", "--init")
    checked = one(shop, "true", protect=("vendor/**",))
    untouched = await shop.run("c", "true", checks=checked, setup=setup)
    assert untouched.kind is OutcomeKind.SUCCEEDED, check_of(untouched)
    for task_id, name in (("t", "lib.py"), ("u", "new.py")):
        outcome = await shop.run(task_id, f"echo evil > vendor/lib/{name}", checks=checked, setup=setup)
        assert unverified(outcome, "protected")["protect"] == [f"vendor/lib/{name}"]


async def test_files_of_setup_and_baseline_are_protected_as_made(shop: Workshop) -> None:
    setup = ("sh", "-c", "mkdir -p venv; touch venv/conftest.py tests/made.log")
    checked = one(shop, "touch tests/seen tests/seen.log", protect=("tests/**", "**/conftest.py"), baseline=True)
    untouched = await shop.run("t", "true", checks=checked, setup=setup)
    assert untouched.kind is OutcomeKind.SUCCEEDED, check_of(untouched)
    outcome = await shop.run("u", "echo x > venv/conftest.py; echo x > tests/seen", checks=checked, setup=setup)
    assert unverified(outcome, "protected")["protect"] == ["tests/seen", "venv/conftest.py"]


async def test_retry_does_not_forget_what_was_changed(shop: Workshop) -> None:
    checked = one(shop, "true", protect=("tests/**",))
    failed = await shop.run("t", "echo easy > tests/a.py; exit 1", checks=checked)
    assert failed.failure_kind is FailureKind.ERROR
    outcome = await shop.run("t", "true", retry_count=1, checks=checked)
    assert unverified(outcome, "protected")["protect"] == ["tests/a.py"]


async def test_worktree_that_cannot_be_examined_passes_nothing(shop: Workshop) -> None:
    script = 'd=$(git rev-parse --absolute-git-dir); rm -f "$d/index"; mkfifo "$d/index"'
    outcome = await shop.run("t", script, checks=one(shop, "true", requires=("changes",)))
    assert "cannot be examined" in unverified(outcome, "unmet")["why"]


async def test_check_that_changes_the_worktree_goes_by_its_exit_code(shop: Workshop) -> None:
    changes = one(shop, "echo x >> src.py; echo y > report.xml", requires=("clean",))
    outcome = await shop.run("t", f"echo z >> src.py; git add -A; {COMMIT}", checks=changes)
    assert (outcome.kind, results(outcome)) == (OutcomeKind.SUCCEEDED, ["passed"])
    assert told(outcome)["uncommitted"] == 2, "and what it left is shown"


async def test_follow_up_is_checked_for_its_own_share(shop: Workshop) -> None:
    first = await shop.run("t", f"echo x > new; echo y > tests/a.py; git add -A; {COMMIT}")
    assert first.kind is OutcomeKind.SUCCEEDED
    follows = {"continued": Continued("t", None, "t", earlier=(Earlier("t", "x", status="completed"),))}
    wants = one(shop, requires=("commit",), protect=("tests/**",))
    lazy = await shop.run("u", work=follows, checks=wants)
    assert unverified(lazy, "unmet")["requires"] == ["commit"]
    done = await shop.run("v", f"echo z > new; git add -A; {COMMIT}", work=follows, checks=wants)
    assert done.kind is OutcomeKind.SUCCEEDED, check_of(done)


@pytest.mark.parametrize(("told", "kept"), [(None, "s"), ("", None), ("s2", "s2")])
async def test_turn_that_did_not_begin_keeps_its_conversation(
    shop: Workshop, told: str | None, kept: str | None
) -> None:
    """The agent's second turn is ended before it names its session; '' forbids a resume."""
    turns: list[Turn] = []

    async def take(turn: Turn) -> Outcome:
        turns.append(turn)
        if len(turns) == 1:
            return replace(Outcome.succeeded("done"), session_id="s")
        return replace(Outcome.unavailable("overloaded"), session_id=told)

    loop = checks(shop.path, "exit 1")
    (shop.path / "work").mkdir()
    first = await loop.run(shop.task("t"), shop.path / "work", None, take)
    assert first.kind is OutcomeKind.UNAVAILABLE
    await loop.run(shop.task("t", agent_session_id=kept or "other"), shop.path / "work", None, take)
    again = turns[2]
    assert (again.feedback == turns[1].feedback, again.session) == (True, kept)


def results_of(outcome: Outcome) -> list[str]:
    return [] if outcome.checked is None else results(outcome)
