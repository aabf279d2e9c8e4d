"""A directory is removed with everything in it, and with nothing that lies outside."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.privileges import ordinary_python
from tests.support.requirements import missing
from turbo.host.removal import remove_tree, set_aside

FILL = """if True:
    import os, sys
    from pathlib import Path
    def fill(tree, outside):
        for name in ("closed", "read-only", "unsearchable", "empty and closed"):
            (tree / name / "below").mkdir(parents=True)
            (tree / name / "file").write_text("x")
        (tree / "read-only" / "link").symlink_to(outside)
        (tree / "read-only" / "link to a file").symlink_to(outside / "file")
        (tree / "broken").symlink_to("nowhere")
        os.mkfifo(tree / "fifo")
        os.link(outside / "file", tree / "another name")
        (tree / "empty and closed" / "file").unlink()
        (tree / "empty and closed" / "below").rmdir()
        for name, mode in (("closed", 0), ("read-only", 0o555), ("unsearchable", 0o600), ("empty and closed", 0)):
            if name != "empty and closed":
                (tree / name / "below").chmod(mode)
            (tree / name).chmod(mode)
        tree.chmod(0o500)
"""

REMOVE = (
    FILL
    + """
    import json, shutil
    from turbo.host.removal import remove_tree, set_aside
    here = Path(sys.argv[1])
    (here / "tree").mkdir()
    fill(here / "tree", here / "outside")
    shutil.rmtree(here / "tree", ignore_errors=True)
    bitten = (here / "tree").exists()
    moved = set_aside(here / "tree", here)
    print(json.dumps([bitten, moved.name, str(remove_tree(moved)), sorted(p.name for p in here.iterdir())]))
"""
)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A read-only directory that links lead to."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "file").write_text("mine")
    (directory / "file").chmod(0o444)
    directory.chmod(0o555)
    return directory


def test_read_only_directories_go_and_links_are_not_followed(tmp_path: Path, outside: Path) -> None:
    bitten, going, remains, left = json.loads(ordinary_python(REMOVE, tmp_path))
    assert bitten, "shutil.rmtree leaves it"
    assert going.startswith(".going-")
    assert (remains, left) == ("", ["outside"])
    assert stat.S_IMODE(outside.stat().st_mode) == 0o555
    assert stat.S_IMODE((outside / "file").stat().st_mode) == 0o444
    assert (outside / "file").read_text() == "mine"


def test_tree_deeper_than_a_path_can_be_long_goes(tmp_path: Path) -> None:
    """Made in a process of its own, which enters it step by step."""
    code = """if True:
        import os, sys
        os.chdir(sys.argv[1])
        for number in range(1200):
            os.mkdir("a-directory")
            open("file", "w").close()
            os.chdir("a-directory")
    """
    subprocess.run([sys.executable, "-S", "-c", code, tmp_path], check=True)
    assert remove_tree(tmp_path / "a-directory").count == 0
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", ["link to a directory", "file", "missing"])
def test_what_is_no_directory_goes_alone(tmp_path: Path, outside: Path, kind: str) -> None:
    path = tmp_path / "tree"
    if kind == "file":
        path.write_text("x")
    elif kind != "missing":
        path.symlink_to(outside)
    assert not remove_tree(path)
    assert not os.path.lexists(path)
    assert (outside / "file").exists()
    assert set_aside(path, tmp_path) is None


@pytest.fixture
def immutable(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "tree" / "a" / "immutable"
    path.parent.mkdir(parents=True)
    path.write_text("x")
    if subprocess.run(["chattr", "+i", path], capture_output=True).returncode != 0:
        missing("chattr +i needs root and a file system that knows it")
    yield path
    for one in tmp_path.rglob("immutable"):
        subprocess.run(["chattr", "-i", one], check=True)


def test_immutable_file_stays_and_the_rest_goes(tmp_path: Path, immutable: Path) -> None:
    for name in ("b", "a/c"):
        (tmp_path / "tree" / name).mkdir()
        (tmp_path / "tree" / name / "file").write_text("x")
    remains = remove_tree(tmp_path / "tree")
    assert str(remains) == f"{immutable}: not permitted (immutable? lsattr shows it)"
    assert sorted(p.name for p in (tmp_path / "tree").rglob("*")) == ["a", "immutable"]


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting needs root, on Linux")
@pytest.mark.parametrize("kind", ["bind", "tmpfs", "bind at the top"])
def test_mount_inside_is_not_entered(tmp_path: Path, kind: str) -> None:
    """A bind mount of the same file system has the same device number."""
    elsewhere, tree = tmp_path / "elsewhere", tmp_path / "tree"
    point = tree if kind == "bind at the top" else tree / "a b" / "mount"
    for directory in (elsewhere, point, tree / "other"):
        directory.mkdir(parents=True, exist_ok=True)
    (elsewhere / "file").write_text("mine")
    what = ["-t", "tmpfs", "none"] if kind == "tmpfs" else ["--bind", str(elsewhere)]
    if subprocess.run(["mount", *what, point], capture_output=True).returncode != 0:
        missing("nothing can be mounted here")
    try:
        (point / "file").write_text("mine")
        remains = remove_tree(tree)
        assert "a mount point" in str(remains)
        assert (point / "file").read_text() == "mine"
        assert kind == "bind at the top" or [p.name for p in tree.iterdir()] == ["a b"]
    finally:
        subprocess.run(["umount", point], check=True)
    assert not remove_tree(tree)
    assert (elsewhere / "file").read_text() == "mine"


def test_removal_leaves_no_descriptor_open(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / "tree" / f"d{number}").mkdir(parents=True)
        for name in range(10):
            (tmp_path / "tree" / f"d{number}" / f"f{name}").touch()
    set_aside(tmp_path / "nothing", tmp_path)
    before = os.listdir("/dev/fd")  # noqa: PTH208
    going = set_aside(tmp_path / "tree", tmp_path)
    assert going is not None
    assert not remove_tree(going)
    assert os.listdir("/dev/fd") == before  # noqa: PTH208
