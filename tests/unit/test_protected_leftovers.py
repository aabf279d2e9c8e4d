"""Whose a new file below `protect` is: the check's, also of one that was cut off, or the agent's, also of a turn that was."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from turbo.domain.run import StopSignal
from turbo.domain.states import StopCause
from turbo.workspaces.area import CannotExamine
from turbo.workspaces.protected import ProtectedList


class Task:
    """A task's runs, one list each. `git` says of its files what the test says."""

    def __init__(self, path: Path) -> None:
        self.tests = path / "work" / "tests"
        self.tests.mkdir(parents=True)
        self.file = path / "list.json"
        self.stop = StopSignal()
        self.write("a.py")

    def write(self, name: str, text: str = "x") -> None:
        (self.tests / name).write_text(text)

    async def run(self, *, begun: bool = True) -> ProtectedList:
        git = SimpleNamespace(where=self.tests.parent, stop=self.stop, run_as=None, task_id="t")

        async def said_by_git(_worktree: bool) -> set[str]:
            return set()

        one = ProtectedList(git, ["tests/**"], self.file, said_by_git)  # type: ignore[arg-type]
        await one.begin(begun=begun, fresh=not begun)
        await one.agent_begins()
        return one


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task(tmp_path)


async def test_file_of_a_check_that_was_cut_off_is_the_checks(task: Task) -> None:
    first = await task.run(begun=False)
    assert await first.changed() == ()
    task.write("report.xml")
    assert await (await task.run()).changed() == ()
    task.write("report.xml", "of the second check")
    third = await task.run()
    assert await third.changed() == (), "that one was cut off, too"
    await third.check_ran()
    task.write("report.xml", "forged")
    task.write("new.py")
    assert await third.changed() == ("tests/new.py", "tests/report.xml"), "the control"


async def test_file_of_a_turn_that_was_cut_off_is_the_agents(task: Task) -> None:
    first = await task.run(begun=False)
    assert await first.changed() == ()
    task.write("report.xml")
    await first.check_ran()
    await first.agent_begins()
    task.write("new.py")
    assert await (await task.run()).changed() == ("tests/new.py",)


async def test_file_that_a_check_changes_must_stay_as_it_was(task: Task) -> None:
    first = await task.run(begun=False)
    assert await first.changed() == ()
    task.write("a.py", "easy")
    assert await (await task.run()).changed() == ("tests/a.py",)


async def test_nothing_is_a_checks_where_none_began(task: Task) -> None:
    first = await task.run(begun=False)
    task.write("new.py")
    assert await first.changed() == ("tests/new.py",)
    await first.check_ran()
    task.write("more.py")
    assert await (await task.run()).changed() == ("tests/more.py", "tests/new.py")


async def test_stopped_run_leaves_it_to_the_next(task: Task) -> None:
    first = await task.run(begun=False)
    assert await first.changed() == ()
    task.write("report.xml")
    task.stop.set(StopCause.DRAIN)
    with pytest.raises(CannotExamine):
        await first.check_ran()
    task.stop = StopSignal()
    assert await (await task.run()).changed() == ()


async def test_turn_after_a_check_that_cannot_be_told(task: Task) -> None:
    """Nothing that comes in the turn is the check's."""
    first = await task.run(begun=False)
    assert await first.changed() == ()
    task.stop.set(StopCause.DRAIN)
    with pytest.raises(CannotExamine):
        await first.check_ran()
    await first.agent_begins()
    task.stop = StopSignal()
    task.write("new.py")
    assert await (await task.run()).changed() == ("tests/new.py",)


async def test_disk_that_takes_no_list_after_a_check(task: Task) -> None:
    """A note that a check goes on must not outlive it: without any list, git says what has changed."""
    first = await task.run(begun=False)
    assert await first.changed() == ()
    assert json.loads(task.file.read_text())["checking"] is True
    draft = task.file.with_name(f".{task.file.name}.new")
    draft.mkdir()
    await first.check_ran()
    assert not task.file.exists()
    draft.rmdir()
    await first.agent_begins()
    assert json.loads(task.file.read_text())["checking"] is False, "kept as soon as the disk takes it"
