"""The state directory: whose is a worker's directory, from its first moment on."""

import fcntl
from pathlib import Path

import pytest

from turbo.host.state_dir import StateDir, StateDirUnusable


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
