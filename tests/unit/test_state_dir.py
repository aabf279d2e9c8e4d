"""The state directory: whose is a worker's directory, from its first moment on."""

import fcntl
import os
from pathlib import Path

import pytest

from tests.support.requirements import missing
from turbo.doctor.disk import state_directory
from turbo.domain.states import Level
from turbo.host.state_dir import StateDir, StateDirUnusable, replaceable_by


def test_starting_worker_is_never_taken_for_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stepped: a sibling looks for the dead right before the new one has its lock, and right after."""
    root = tmp_path / "state"
    ours, sibling = StateDir(root), StateDir(root)
    lock = fcntl.flock
    looked = []

    def lock_late(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        looked.append(descriptor)
        assert sibling.dead_workers() == []
        lock(descriptor, operation)

    monkeypatch.setattr("turbo.host.file_lock.fcntl.flock", lock_late)
    home = ours.open_worker("w-1-abcdef")
    assert looked, "the step was taken"
    assert sibling.dead_workers() == []
    home.close()
    assert [dead.worker_id for dead in sibling.dead_workers()] == ["w-1-abcdef"]
    with pytest.raises(StateDirUnusable, match="another process uses it"):
        ours.open_worker("w-1-abcdef")


@pytest.mark.parametrize("whose", ["another's", "everybody's"])
def test_directory_above_that_others_can_change_is_named(whose: str, tmp_path: Path) -> None:
    """As root's below the home of the user who called sudo. Not so in /tmp, where everybody can only change their own."""
    if os.geteuid() != 0:
        missing("only root can give a directory away")
    above = tmp_path / "above"
    above.mkdir()
    state = StateDir(above / "deep" / "state").root
    assert replaceable_by(state) is None
    assert state_directory(state, []).level is Level.OK
    if whose == "another's":
        os.chown(above, 65534, 65534)
    else:
        above.chmod(0o777)
    assert str(above) in (replaceable_by(state) or "")
    assert state_directory(state, []).level is Level.WARN
    above.chmod(0o1777)
    assert (replaceable_by(state) is None) == (whose == "everybody's")


def test_directories_of_an_id_are_found(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    assert not state.has_files("t")
    (state.files / "tasks" / "t").mkdir(parents=True)
    (state.workspaces / "repo-1234" / "u").mkdir(parents=True)
    assert [state.has_files(name) for name in ("t", "u", "v")] == [True, True, False]
