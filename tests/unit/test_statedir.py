"""The state directory: whose is a worker's directory, from its first moment on."""

from pathlib import Path

import pytest

from turbo.host import state_dir as statedir
from turbo.host.state_dir import StateDir, StateDirUnusable


def test_a_worker_that_starts_is_never_taken_for_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stepped: a sibling looks for the dead right before the new one has its lock, and right after."""
    root = tmp_path / "state"
    ours, sibling = StateDir(root), StateDir(root)
    lock = statedir._lock
    looked = []

    def lock_late(path: Path) -> int | None:
        monkeypatch.undo()
        looked.append(path)
        assert sibling.dead_workers() == []
        return lock(path)

    monkeypatch.setattr(statedir, "_lock", lock_late)
    home = ours.open_worker("w-1-abcdef")
    assert looked, "the step was taken"
    assert sibling.dead_workers() == []
    home.close()
    assert [dead.worker_id for dead in sibling.dead_workers()] == ["w-1-abcdef"]
    with pytest.raises(StateDirUnusable, match="is somebody else's"):
        ours.open_worker("w-1-abcdef")
