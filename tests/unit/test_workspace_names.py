"""Branch names out of any task id, held against git's own judgement."""

import re
import subprocess
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turbo.workspaces.names import branch_of, branch_problem, ref_problem

PARTS = [*"aZ9/.-_~^:?*[]\\@{} \x01\x7f", "é", "💥", ".lock", "..", "@{", "//"]
TRICKY = st.lists(st.sampled_from(PARTS), max_size=8).map("".join)


def git_takes(*names: str) -> list[bool]:
    """By one shell, for speed: is refs/heads/<name> a ref?"""
    script = 'while IFS= read -r name; do git check-ref-format "refs/heads/$name" && echo y || echo n; done'
    with tempfile.TemporaryDirectory() as place:
        told = subprocess.run(
            ["sh", "-c", script], input="\n".join(names) + "\n", cwd=place, capture_output=True, text=True, check=True
        )
    return [line == "y" for line in told.stdout.splitlines()]


@settings(max_examples=6)
@given(st.lists(TRICKY, min_size=20, max_size=40))
def test_accepted_refs_are_valid_in_git(names: list[str]) -> None:
    mine = [name for name in names if ref_problem(name) is None]
    assert git_takes(*mine) == [True] * len(mine) if mine else True
    others = [n for n in names if n and not n.startswith("-") and n not in ("@",) and ref_problem(n) is not None]
    assert not any(git_takes(*others)) if others else True, "and nothing is refused that git would take"


@settings(max_examples=6)
@given(st.sets(st.one_of(TRICKY, st.text(max_size=300)), min_size=20, max_size=40))
def test_every_task_id_gets_its_own_branch(task_ids: set[str]) -> None:
    for template in ("turbo/{task_id}", "{task_id}", "a-{task_id}.x"):
        branches = {branch_of(template, task_id) for task_id in task_ids}
        assert len({branch.lower() for branch in branches}) == len(task_ids), "also where a file system folds case"
        assert all(git_takes(*branches))
        assert not any(branch.startswith("-") or len(branch) > 120 for branch in branches)


def test_id_that_fits_a_branch_is_used_unchanged() -> None:
    assert branch_of("turbo/{task_id}", "t_9f3a1c") == "turbo/t_9f3a1c"
    assert re.fullmatch(r"turbo/Fix_the_README_\+[0-9a-f]{16}", branch_of("turbo/{task_id}", "Fix the README!"))


@pytest.mark.parametrize(
    "template", ["turbo/x", "{task_id}{task_id}", "turbo/{task}/{task_id}", "-{task_id}", "a b/{task_id}"]
)
def test_unusable_template_is_refused(template: str) -> None:
    assert branch_problem(template) is not None
