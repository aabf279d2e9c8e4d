"""What the doctor judges without a database: disks, directories, clocks."""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.configs import config_of
from turbo.doctor import Level
from turbo.doctor.disk import Mount, file_system, state_directory
from turbo.doctor.programs import directory
from turbo.doctor.server import checks
from turbo.domain.finding import Finding

LOCAL = [
    Mount("/dev/disk1", "/", "apfs"),
    Mount("nas:/home", "/mnt/nas", "nfs4"),
    Mount("tmpfs", "/mnt/nas/local", "ext4"),
]


@pytest.mark.parametrize(
    ("path", "fstype"),
    [
        ("/x", "apfs"),
        ("/mnt/nas", "nfs4"),
        ("/mnt/nas/deep/er", "nfs4"),
        ("/mnt/nasty", "apfs"),
        ("/mnt/nas/local/x", "ext4"),
    ],
)
def test_directory_belongs_to_the_deepest_mount(path: str, fstype: str) -> None:
    mount = file_system(Path(path), LOCAL)
    assert mount is not None
    assert mount.fstype == fstype


def test_future_state_directory_on_a_network_disk_is_refused() -> None:
    verdict = state_directory(Path("/mnt/nas/turbo"), LOCAL)
    assert verdict.level is Level.FAIL
    assert "nfs4 at /mnt/nas" in verdict.what


def test_state_directory_must_be_private_and_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [Mount("x", "/", "ext4")]
    root = tmp_path / "state"
    assert state_directory(root, mounts).level is Level.OK
    assert not root.exists(), "the doctor makes nothing"
    root.mkdir(mode=0o755)
    assert "chmod 700" in state_directory(root, mounts).do
    root.chmod(0o700)
    assert state_directory(root, mounts).level is Level.OK
    assert list(root.iterdir()) == []
    (tmp_path / "file").touch()
    assert state_directory(tmp_path / "file", mounts).level is Level.FAIL
    assert state_directory(tmp_path / "file" / "below", mounts).level is Level.FAIL
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert "belongs to user" in state_directory(root, mounts).what


def test_nearly_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=12_000_000))
    verdict = state_directory(tmp_path, [])
    assert verdict.level is Level.WARN
    assert "12 MB left" in verdict.what


@pytest.mark.parametrize(
    ("kind", "settings", "slots", "level"),
    [
        ("claude", {"cwd": "/work"}, 2, Level.WARN),
        ("claude", {"cwd": "/work"}, 1, Level.OK),
        ("claude", {}, 2, Level.OK),
        ("claude", {"cwd": "/work", "exclusive_cwd": True}, 2, Level.OK),
        ("command", {"cwd": "/work", "account": "max", "command": ["codex"]}, 2, Level.WARN),
    ],
)
def test_shared_agent_directory_is_reported(
    tmp_path: Path, kind: str, settings: dict[str, Any], slots: int, level: Level
) -> None:
    executors = {"agent": {"kind": kind, **settings}}
    config = config_of(tmp_path, slots=slots, executors=executors, accounts={"max": {}}, routes={"default": "agent"})
    verdict = directory(config, "agent")
    assert verdict.level is level
    if level is Level.WARN:
        assert "exclusive_cwd: true" in verdict.do


class Answers:
    """A session that answers as told."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.facts = {"sees_all": True}

    def rows(self, name: str, _parameters: object = None) -> list[dict[str, Any]]:
        return [{"at": time.time() + self.answers["ahead"]}] if name == "clock" else [self.answers]


def look(name: str, session: Any) -> Finding:
    return next(check for check in checks(session, 300) if check.name == name).run()


@pytest.mark.parametrize(("ahead", "text"), [(0.0, ""), (1.5, ""), (60.0, "60 s behind"), (-60.0, "60 s ahead of")])
def test_wrong_clock_is_reported(ahead: float, text: str) -> None:
    verdict = look("clock", Answers(ahead=ahead))
    assert verdict.level is (Level.WARN if text else Level.OK)
    assert text in verdict.what


@pytest.mark.parametrize(("share", "level"), [(0.0, Level.OK), (0.2, Level.WARN), (0.6, Level.FAIL)])
def test_filling_notification_queue_is_reported(share: float, level: Level) -> None:
    session = {"pid": 4711, "who": "anybody", "database": "other", "state": "idle in transaction", "seconds": 60.0}
    verdict = look("notify queue", Answers(share=share, **session))
    assert verdict.level is level
    assert ("pid 4711 (user anybody, database other" in verdict.do) is (level is not Level.OK)
