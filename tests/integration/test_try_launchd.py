"""What the workflow on macOS runs, against the stand-in for launchd: the script itself works, and a failure tells what it was."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import free_ports
from tests.support.launchd import Launchd, launchd

ROOT = Path(__file__).parents[2]


@pytest.fixture
def mac(tmp_path: Path) -> Iterator[Launchd]:
    with launchd(tmp_path / "launchd") as one:
        yield one


def tried(mac: Launchd, dsn: str, path: Path) -> "subprocess.CompletedProcess[str]":
    (path / "home").mkdir()
    environment = {
        "PATH": f"{mac.bin}:/usr/bin:/bin", "HOME": str(path / "home"), "TURBO_DSN": dsn, "LANG": os.environ.get("LANG", "C.UTF-8"),
    }  # fmt: skip
    argv: list[str | Path] = [
        sys.executable,
        ROOT / "scripts" / "try_launchd.py",
        "--directory",
        path / "try",
        "--port",
        str(free_ports(2)),
    ]
    with (path / "said").open("w+") as said:
        done = subprocess.run(argv, env=environment, stdout=said, stderr=said, timeout=150)
        said.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, said.read(), "")


def test_every_step_passes_under_the_stand_in(mac: Launchd, dsn: str, tmp_path: Path) -> None:
    done = tried(mac, dsn, tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert "all 10 steps passed" in done.stdout
    assert [len(mac.history[f"com.agent-turbo.try.pair-{n}"]) for n in (1, 2)] == [2, 2], "started, and restarted"
    first = mac.history["com.agent-turbo.try.pair-1"][0]
    assert first.ends[0] == -9, "killed, and started again"
    assert mac.jobs == {}


def test_first_failure_says_which_step_and_what_was_seen(
    mac: Launchd, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is logged in at the screen: there is no domain gui/UID."""
    monkeypatch.setattr(mac, "_answer", lambda *_words: (113, "Could not find domain for user gui\n"))
    done = tried(mac, dsn, tmp_path)
    assert done.returncode == 1
    assert "[2/10]" not in done.stdout
    assert "FAILED in step 1 of 10, this_machine" in done.stdout
    assert "Could not find domain for user gui" in done.stdout
    assert "(launchd does not know it)" in done.stdout
