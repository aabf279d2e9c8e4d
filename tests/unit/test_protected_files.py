"""The files that `check.protect` names: which names match, as git has it, and what every kind of file is told by."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.repositories import git
from turbo.workspaces import contents as module
from turbo.workspaces.area import CannotExamine, TooManyFiles
from turbo.workspaces.contents import contents
from turbo.workspaces.globs import Globs
from turbo.workspaces.patterns import MATCHES_PATTERNS, pathspec

NAMES = (
    "a", "a.py", "tests/a.py", "tests/sub/a.py", "tests/sub/deep/b.txt", "testsuite/x", "src/tests/a.py", "Tests/a.py",
    "conftest.py", "src/conftest.py", "x.lock", "src/x.lock", "a b/c d", "new\nline/a.py", "é/ü.py", "-x", ".hidden/a.py",
    "[a].py", "a]b", "back\\slash", "star*", "who?", "abc1", "abc-", "aXc", "a/b/c/d/e/f", "tests/.gitkeep",
)  # fmt: skip
PATTERNS = (
    "tests/**", "tests/", "tests", "tests/*", "**/conftest.py", "*.lock", "**/*.lock", "*", "**", "a?c*", "[[]a].py", "a[]]b",
    "abc[[:digit:]]", "abc[!0-9]", "abc[^0-9]", "**/a.py", "a/**/f", "a/**/d/**", "a/*/c", "./tests/./a.py", "x**", "te**/a.py",
    r"\[a\].py", r"back\\slash", r"star\*", "who\\?", "é/*", "*/ü.py", "new*/a.py", "-x", "[z-a]", "[", "tests/**/", "**/sub/**",
    "a[a-zA-Z]c", "Tests/**", "src/**/*.py",
)  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("globs") / "tree"
    top.mkdir()
    git(top, "init", "-q")
    for name in NAMES:
        if name == "a":  # which is a directory here
            continue
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()
    git(top, "add", "--all")
    return top


def by_git(tree: Path, pattern: str) -> set[str]:
    """Of one pattern: git leaves out the wrong files where an exemption does not begin as the other patterns do."""
    listed = git(tree, "ls-files", "-z", "--", pathspec(pattern), **MATCHES_PATTERNS)
    return {name for name in listed.split("\0") if name}


@pytest.mark.parametrize("exempt", [None, "tests/sub/**", "**/*.py"])
def test_names_match_as_git_has_it(tree: Path, exempt: str | None) -> None:
    everything = git(tree, "ls-files", "-z").rstrip("\0").split("\0")
    assert len(everything) == len(NAMES) - 1, "the control"
    for pattern in PATTERNS:
        patterns = [pattern] if exempt is None else [pattern, f"!{exempt}"]
        globs, wanted = Globs(patterns), by_git(tree, pattern) - (by_git(tree, exempt) if exempt else set())
        assert {name for name in everything if globs.match(name)} == wanted, patterns
        assert set(contents(tree, globs, lambda: False)) == wanted, f"{patterns}: found by a walk, too"


def test_hostile_name_takes_no_time_to_match() -> None:
    globs = Globs(["**/a*a*a*a*a*a*b/**/c", "*a*a*a*a*a*a*a*a*b", "**/x/**/x/**/x/**/y"])
    assert not globs.match("a" * 4000)
    assert not globs.match("x/" * 2000 + "z")


def listed(top: Path) -> dict[str, str]:
    return contents(top, Globs(["**"]), lambda: False)


def bound(path: Path) -> None:
    os.chdir(path.parent)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)


KINDS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a socket": bound,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link out": lambda path: path.symlink_to("/etc/passwd"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to the directory it is in": lambda path: path.symlink_to("."),
    "a file": lambda path: path.write_text("x"),
    "a program": lambda path: (path.write_text("x"), path.chmod(0o755)),
    "a large hole": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 300 * 1024**2),
}


def test_every_kind_of_file_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = {}
    for number, (kind, make) in enumerate(KINDS.items()):
        top = tmp_path / str(number)
        top.mkdir()
        make(top / "one")
        found[kind] = listed(top)["one"]
        assert listed(top) == {"one": found[kind]}, f"{kind}: the same when nothing has changed"
    assert len(set(found.values())) == len(KINDS), found
    assert found["a FIFO"].startswith("special ")
    assert found["a large hole"].startswith("large ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a device")
def test_device_is_not_opened(tmp_path: Path) -> None:
    os.mknod(tmp_path / "one", 0o600 | 0o020000, os.makedev(1, 8))  # /dev/random
    assert listed(tmp_path)["one"].startswith("special ")


def test_large_file_is_told_by_its_times(tmp_path: Path) -> None:
    os.truncate(os.open(tmp_path / "one", os.O_CREAT | os.O_WRONLY), 300 * 1024**2)
    before, status = listed(tmp_path), (tmp_path / "one").stat()
    with (tmp_path / "one").open("r+b") as file:
        file.write(b"x")
    os.utime(tmp_path / "one", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert listed(tmp_path) != before, "nobody can set back when it last changed"


def test_directory_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Seen from a process without rights: root reads everything."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "a").touch()
    (tmp_path / "closed").chmod(0)
    script = (
        "import os, sys; os.geteuid() or os.setresuid(65534, 65534, 65534)\n"
        "from pathlib import Path; from turbo.workspaces.contents import contents; from turbo.workspaces.globs import Globs\n"
    )
    child = f"{script}print(contents(Path(sys.argv[1]), Globs(['**']), lambda: False))"
    done = subprocess.run(
        [*_python(), "-c", f"import turbo.workspaces.contents, turbo.workspaces.globs\n{child}", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    (tmp_path / "closed").chmod(0o700)
    if os.geteuid() == 0 and done.returncode:  # the directories above are closed to that user as well
        assert "Permission denied" in done.stderr
        return
    assert "'closed/': 'closed " in done.stdout, done.stderr


def _python() -> list[str]:
    import sys

    return [sys.executable]


def test_nested_repositories_and_their_files_are_listed(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "nested")
    (tmp_path / "nested" / "a").touch()
    assert set(listed(tmp_path)) == {"nested/", "nested/a"}


@pytest.mark.parametrize(("limit", "value"), [("MOST_FILES", 9), ("MOST_BYTES", 200)])
def test_more_files_than_are_kept_in_mind_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    for number in range(10):
        (tmp_path / str(number)).touch()
    assert len(listed(tmp_path)) == 10, "the control"
    monkeypatch.setattr(module, limit, value)
    with pytest.raises(TooManyFiles, match="narrow the patterns, or exempt directories with !"):
        listed(tmp_path)
    assert len(contents(tmp_path, Globs(["1"]), lambda: False)) == 1, "only what matches counts"


def test_listing_ends_with_its_run_and_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(CannotExamine, match="it is to end"):
        contents(tmp_path, Globs(["**"]), lambda: True)
    with pytest.raises(OSError, match="nowhere"):
        listed(tmp_path / "nowhere")
    monkeypatch.setattr(module, "SECONDS", -1.0)
    with pytest.raises(CannotExamine, match=r"narrow check\.protect"):
        listed(tmp_path)
