"""The worker's own log file: rotated, its owner's alone, and found again where it belongs."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from turbo.observability import log
from turbo.observability.log_file import LogFile


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    one = logging.Logger("test")
    yield one
    for handler in one.handlers:
        handler.close()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_log_file_is_private_and_makes_its_directory(tmp_path: Path, logger: logging.Logger) -> None:
    path = tmp_path / "a" / "b" / "worker.log"
    old = os.umask(0)
    try:
        logger.addHandler(LogFile(path))
    finally:
        os.umask(old)
    logger.warning("x")
    assert mode(path) == 0o600
    open_to_all = tmp_path / "open.log"
    open_to_all.touch(0o644)
    logger.addHandler(LogFile(open_to_all))
    assert mode(open_to_all) == 0o600


def test_log_rotates_and_keeps_a_fixed_number(tmp_path: Path, logger: logging.Logger) -> None:
    path = tmp_path / "worker.log"
    logger.addHandler(LogFile(path, rotate_bytes=100, keep=2))
    for i in range(50):
        logger.warning("line %d", i)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["worker.log", "worker.log.1", "worker.log.2"]
    assert "line 49\n" in path.read_text()
    assert all(mode(p) == 0o600 and p.stat().st_size <= 100 for p in tmp_path.iterdir())


@pytest.mark.parametrize("how", ["moved", "removed", "directory removed and made again"])
def test_removed_log_file_is_reopened(tmp_path: Path, logger: logging.Logger, how: str) -> None:
    path = tmp_path / "logs" / "worker.log"
    logger.addHandler(LogFile(path))
    logger.warning("before")
    if how == "moved":
        path.rename(tmp_path / "away")
    else:
        path.unlink()
    if how.startswith("directory"):
        path.parent.rmdir()
        logger.warning("nowhere")  # no exception, whatever becomes of the line
        path.parent.mkdir()
    logger.warning("after")
    assert path.read_text() == "after\n"


def test_reconfiguring_leaves_no_file_open(tmp_path: Path) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        log.configure(log_file=tmp_path / "a.log")
        first = root.handlers[0]
        log.configure("w-1-abcdef", tmp_path / "a.log")
        assert isinstance(first, LogFile)
        assert first.stream is None
        logging.getLogger("turbo").warning("password=geheim")
        assert "worker=w-1-abcdef" in (tmp_path / "a.log").read_text()
        assert "geheim" not in (tmp_path / "a.log").read_text()
    finally:
        log.configure()
        root.handlers[:], root.level = before, level
