"""Which files of a hostile directory are kept, and what is said of the others."""

import os
import socket
import sys
from pathlib import Path

import pytest

from turbo.config.executors import CommandSection
from turbo.domain.kept import FILE_BYTES, Kept
from turbo.workspaces.kept_files import keep_files


def paths(kept: Kept) -> list[str]:
    return [one.path for one in kept.files]


def notes(kept: Kept) -> dict[str, str]:
    return {one.path: one.why for one in kept.left_out}


def made(top: Path, *names: str) -> None:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)


def test_matching_files_are_kept(tmp_path: Path) -> None:
    made(
        tmp_path,
        "report/a.html",
        "report/b.txt",
        "coverage.xml",
        "x/y/junit.xml",
        ".git/x.xml",
        ".turbo/diff.patch",
        "R/A",
        "R/a",
    )
    kept = keep_files(tmp_path, ["report/*.html", "coverage.xml", "**/junit.xml", "R/*", "**/*.patch", ".g*/*"])
    assert paths(kept) == ["R/A", "R/a", "coverage.xml", "report/a.html", "x/y/junit.xml"]
    assert kept.files[2].content == b"coverage.xml"
    assert kept.left_out == ()


def test_links_are_never_followed(tmp_path: Path) -> None:
    top, outside = tmp_path / "top", tmp_path / "outside"
    made(outside, "secret.txt")
    made(top, "own.txt")
    (top / "passwd.txt").symlink_to("/etc/passwd")
    (top / "dir").symlink_to(outside)
    (top / "up.txt").symlink_to("../outside/secret.txt")
    kept = keep_files(top, ["**/*.txt", "dir/*"])
    assert paths(kept) == ["own.txt"]
    assert notes(kept)["passwd.txt"] == notes(kept)["up.txt"] == "it is a link, not a regular file"


def test_directory_swapped_for_a_link_is_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top, outside = tmp_path / "top", tmp_path / "outside"
    made(outside, "secret.txt")
    made(top, "dir/own.txt")
    real, swapped = os.lstat, []

    def swap(name: str, *, dir_fd: int) -> os.stat_result:
        state = real(name, dir_fd=dir_fd)
        if name == "dir":
            (top / "dir").rename(top / "gone")
            (top / "dir").symlink_to(outside)
            swapped.append(name)
        return state

    monkeypatch.setattr(os, "lstat", swap)
    kept = keep_files(top, ["dir/*"])
    assert swapped
    assert paths(kept) == []


def test_file_swapped_for_a_link_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "a.txt")
    real = os.lstat

    def swap(name: str, *, dir_fd: int) -> os.stat_result:
        state = real(name, dir_fd=dir_fd)
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to("/etc/passwd")
        return state

    monkeypatch.setattr(os, "lstat", swap)
    kept = keep_files(tmp_path, ["*.txt"])
    assert paths(kept) == []
    assert list(notes(kept)) == ["a.txt"]


def test_what_is_no_file_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        (tmp_path / "directory").mkdir()
        kept = keep_files(tmp_path, ["*"])
    assert paths(kept) == []
    assert notes(kept)["fifo"] == "it is a FIFO, not a regular file"
    assert notes(kept)["socket"] == "it is a socket, not a regular file"


def test_device_is_left_out() -> None:
    kept = keep_files(Path("/dev"), ["null"])
    assert notes(kept) == {"null": "it is a device, not a regular file"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a file of another user")
def test_hard_link_to_file_of_others_is_left_out(tmp_path: Path) -> None:
    top = tmp_path / "top"
    made(top, "own.txt")
    made(tmp_path, "other.txt")
    os.chown(top, 1234, 1234)
    os.chown(tmp_path / "other.txt", 4321, 4321)
    os.link(tmp_path / "other.txt", top / "linked.txt")
    kept = keep_files(top, ["*.txt"])
    assert notes(kept)["linked.txt"] == "it belongs to another user"


def test_file_that_grows_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "a.txt")
    real = os.read

    def grow(opened: int, size: int) -> bytes:
        with (tmp_path / "a.txt").open("a") as file:
            file.write("more")
        return real(opened, size)

    monkeypatch.setattr(os, "read", grow)
    kept = keep_files(tmp_path, ["*.txt"])
    assert notes(kept) == {"a.txt": "it changed while it was read"}


def test_large_files_are_left_out(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(FILE_BYTES + 1)
    (tmp_path / "a").write_bytes(b"x" * 60)
    (tmp_path / "b").write_bytes(b"x" * 60)
    kept = keep_files(tmp_path, ["*"], room=100)
    assert paths(kept) == ["a"]
    assert notes(kept) == {
        "b": "the files of a task are larger than 50 MiB together",
        "large": "it is larger than 10 MiB",
    }


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems keep no such name")
def test_odd_names_are_kept_or_named(tmp_path: Path) -> None:
    made(tmp_path, "a\nb.txt", "c\x1b[31m.txt")
    (Path(os.fsdecode(bytes(tmp_path) + b"/\xff.txt"))).write_text("x")
    kept = keep_files(tmp_path, ["*.txt"])
    assert paths(kept) == ["a\nb.txt", "c\x1b[31m.txt"]
    assert notes(kept) == {"\\xff.txt": "its name is not UTF-8"}


def test_search_is_bounded(tmp_path: Path) -> None:
    made(tmp_path, *(f"many/{number}.txt" for number in range(30)), "a.txt")
    kept = keep_files(tmp_path, ["**/*.txt"], most_names=20)
    assert paths(kept) == ["a.txt"]
    assert notes(kept) == {"": "the search ended early: the directory has too many files"}
    assert "too long" in notes(keep_files(tmp_path, ["**/*.txt"], seconds=-1))[""]


def test_directory_that_is_gone_is_a_note(tmp_path: Path) -> None:
    assert notes(keep_files(tmp_path / "none", ["*"])) == {
        "": "the directory cannot be read: No such file or directory"
    }


@pytest.mark.parametrize(
    "pattern", ["/etc/*", "../x", "a/../../x", "~/x", "", "/", "!", ".turbo/*", "./.turbo/x", "a\nb", "x" * 201]
)
def test_bad_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"must name files|turbo's own|at most 200"):
        CommandSection(kind="command", command=["true"], files=[pattern])
