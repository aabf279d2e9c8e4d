"""A program is looked up as a shell does it: an entry of the PATH that cannot be used is passed over."""

import json
import os
import stat
from pathlib import Path

import pytest

from tests.support.privileges import ordinary_python
from turbo.executors.claude.cli import find_program
from turbo.executors.claude.executor import ClaudeExecutor
from turbo.executors.command import CommandExecutor
from turbo.process.journal import Journal
from turbo.process.launch import SpawnFailed, obstacle, resolve


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\necho found\n")
    path.chmod(mode)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return program(tmp_path / "good" / "tool")


def unusable(tmp_path: Path, kind: str) -> str:
    """An entry of the PATH in which no program can be found."""
    entry = tmp_path / "entry"
    match kind:
        case "missing":
            return str(entry)
        case "a file":
            return str(program(entry))
        case "below a file":
            return f"{program(entry)}/bin"
        case "broken link":
            entry.symlink_to(tmp_path / "nowhere")
        case "loop of links":
            entry.symlink_to(entry)
        case "broken link to the program":
            entry.mkdir()
            (entry / "tool").symlink_to(tmp_path / "nowhere")
        case "directory of its name":
            (entry / "tool").mkdir(parents=True)
        case "not executable":
            program(entry / "tool", 0o644)
        case "too long":
            return str(tmp_path / ("x" * 300))
        case "NUL":
            return f"{tmp_path}/a\0b"
        case "empty":
            return ""
        case "relative":
            return "no/such/place"
    return str(entry)


KINDS = [
    "missing", "a file", "below a file", "broken link", "loop of links", "broken link to the program",
    "directory of its name", "not executable", "too long", "NUL", "empty", "relative",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_path_entry_is_passed_over(tmp_path: Path, good: Path, kind: str) -> None:
    path = f"{unusable(tmp_path, kind)}:{good.parent}"
    cwd = tmp_path / "work"
    cwd.mkdir()
    assert resolve("tool", path, cwd) == str(good)
    assert obstacle("tool", path, None) is None
    assert find_program("tool", {"PATH": path}) == str(good)


LOOK_UP = """if True:
    import json, os, sys
    from pathlib import Path
    from turbo.executors.claude.cli import find_program
    from turbo.executors.command import CommandExecutor
    from turbo.process.journal import Journal
    from turbo.process.launch import obstacle, resolve

    here, path = Path(sys.argv[1]), sys.argv[2]
    found = {}
    def note(name, call):
        try:
            found[name] = str(call())
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    executor = CommandExecutor("x", ["tool"], journal=Journal(here / "journal"), env={"PATH": path})
    note("bitten", lambda: os.listdir(here / "closed"))
    note("run", lambda: resolve("tool", path, here))
    note("check", lambda: obstacle("tool", path, None))
    note("executor", executor.missing)
    note("claude", lambda: find_program("tool", {"PATH": path, "HOME": str(here / "closed" / "home")}))
    note("claude at home", lambda: find_program("tool", {"PATH": "/nowhere", "HOME": str(here / "closed" / "home")}))
    note("closed program", lambda: resolve("tool", str(here / "closed"), here))
    note("closed directory", lambda: resolve("tool", path, here / "closed" / "work"))
    note("written out", lambda: resolve(str(here / "closed" / "tool"), path, here))
    print(json.dumps(found))
"""


def test_entry_that_may_not_be_searched_is_passed_over(tmp_path: Path, good: Path) -> None:
    closed = tmp_path / "closed"
    program(closed / "tool")
    (closed / "work").mkdir()
    closed.chmod(0)
    try:
        found = json.loads(ordinary_python(LOOK_UP, tmp_path, f"{closed}:{good.parent}"))
    finally:
        closed.chmod(0o700)
    assert found.pop("bitten").startswith("PermissionError")
    assert found["run"] == str(good)
    assert found["check"] == found["executor"] == "None"
    assert found["claude"] == str(good)
    assert "not on the PATH" in found["claude at home"]
    assert found["closed program"].startswith("SpawnFailed: cannot start tool: not found"), "and it names no errno"
    assert f"may not be searched: {closed}" in found["closed program"]
    assert "cannot be entered" in found["closed directory"]
    assert found["written out"].startswith("SpawnFailed")
    assert "may not be searched" in found["written out"]


def test_relative_entry_of_the_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would count from the run's directory, which a row may choose, or from the one in which the worker was started."""
    own = program(tmp_path / "bin" / "own")
    monkeypatch.chdir(tmp_path)
    for path in ("bin", "./bin", "", ".", ":", "bin:/nowhere", "/nowhere:"):
        for cwd in (tmp_path, own.parent):
            with pytest.raises(SpawnFailed, match="not found"):
                resolve("own", path, cwd)
            assert "not found" in (obstacle("own", path, cwd) or "")
        with pytest.raises(SpawnFailed, match="not on the PATH"):
            find_program("own", {"PATH": path})
        executor = CommandExecutor("x", ["own"], journal=Journal(tmp_path / "journal"), env={"PATH": path})
        assert "not found" in (executor.missing() or "")
        agent = ClaudeExecutor("x", ["own"], journal=Journal(tmp_path / "journal"), env={"PATH": path}, cwd=tmp_path)
        assert "not on the PATH" in (agent.missing() or "")


def test_only_a_file_without_x_is_found_and_named(tmp_path: Path) -> None:
    program(tmp_path / "a" / "tool", stat.S_IRUSR)
    with pytest.raises(SpawnFailed, match=r"a/tool is not executable \(chmod \+x\?\)"):
        resolve("tool", f"/nowhere:{tmp_path / 'a'}{os.pathsep}/bin", tmp_path)
