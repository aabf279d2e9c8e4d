"""`turbo self check`: each part that is missing, too old or hostile gets one clear line."""

import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from tests.support.waiting import gone, until
from turbo.doctor import installation
from turbo.doctor.installation import Part, examine_installation
from turbo.doctor.program_version import version_of
from turbo.domain.states import Level

Program = Callable[[str, str], Path]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Writes a shell script into a directory that is on no PATH."""

    def write(name: str, body: str) -> Path:
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{body}\n")
        file.chmod(0o755)
        return file

    return write


def parts(dsn: str | None = None, path: str = "/nowhere", home: str = "/nowhere") -> dict[str, Part]:
    return {part.name: part for part in examine_installation(dsn, {"PATH": path, "HOME": home})}


@pytest.fixture
def no_usual_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLIs that are installed on the machine of the tests are not found."""
    monkeypatch.setattr(
        installation,
        "agent_programs",
        lambda: {
            name: (type(places)(places.what, ()), package)
            for name, (places, package) in installation_programs().items()
        },
    )


installation_programs = installation.agent_programs


def test_bare_host_has_what_turbo_needs(no_usual_places: None) -> None:
    found = parts()
    assert [name for name, part in found.items() if part.level is Level.FAIL] == []
    assert {"turbo", "python", "psycopg"} <= {name for name, part in found.items() if part.level is Level.OK}
    for name in ("postgresql", "git", *installation.PACKAGES):
        assert found[name].level is Level.SKIP, name
        assert found[name].do, name
    assert found["claude"].do == "npm install -g @anthropic-ai/claude-code"


def test_programs_on_the_path_tell_their_versions(program: Program, no_usual_places: None) -> None:
    program("git", "echo git version 2.39.5")
    program("claude", "echo '2.1.330 (Claude Code)'")
    program("copilot", "echo 'GitHub Copilot CLI 1.0.102.'; echo 'Run copilot update 9.9.9'")
    directory = program("codex", "echo nothing").parent
    found = parts(path=f"{directory}:/usr/bin:/bin")
    assert found["git"].version == "2.39.5"
    assert found["claude"] == Part("claude", Level.OK, "2.1.330", f"2.1.330, {directory}/claude")
    assert found["copilot"].version == "1.0.102"
    assert (found["codex"].level, found["codex"].version) == (Level.WARN, None)


def test_version_keeps_nothing_else_that_a_program_prints(program: Program) -> None:
    """Not its colours, not the environment, not what it says on standard error."""
    secret = {"PATH": "/usr/bin:/bin", "TURBO_DSN": "host=h password=hunter2", "ANTHROPIC_API_KEY": "sk-1.2.3"}
    assert version_of(str(program("a", r"printf '\033[31m v1.2.3\033[0m'; env >&2")), secret) == "1.2.3"
    assert version_of(str(program("b", "env | grep -c 'TURBO\\|KEY'; exit 0")), secret) is None
    assert version_of(str(program("c", "echo $ANTHROPIC_API_KEY")), secret) is None
    assert version_of(str(program("d", "echo 1.2.3; exit 1")), secret) is None
    assert version_of(str(program("e", "yes 1.2.3.4.5.6.7 | head -c 100000")), secret) == "1.2.3.4"


def test_program_that_hangs_is_ended_with_its_children(program: Program, tmp_path: Path) -> None:
    mark = tmp_path / "child"
    slow = program("slow", f"sleep 600 & echo $! > {mark}; echo 1.2.3; wait")
    began = time.monotonic()
    assert version_of(str(slow), {"PATH": "/usr/bin:/bin"}, seconds=1.0) is None
    assert time.monotonic() - began < 20
    child = int(mark.read_text())
    until(lambda: gone(child), 10, "the child of a program that hangs is still there")


def test_unreachable_database_fails_without_its_password() -> None:
    part = parts("host=127.0.0.1 port=1 user=me password=hunter2 dbname=fleet")["postgresql"]
    assert part.level is Level.FAIL
    assert "127.0.0.1:1/fleet" in part.what
    assert "hunter2" not in repr(part)
    assert "TURBO_DSN" in part.do
    unreadable = parts("postgresql://me:hunter2@[::1")["postgresql"]
    assert unreadable.level is Level.FAIL
    assert "hunter2" not in repr(unreadable)


@pytest.mark.parametrize(
    ("requirement", "problem"),
    [
        ("psycopg[binary,pool]>=3.2.4", None),
        ("psycopg", None),
        ("psycopg>=99", "is too old: 99 or newer is needed"),
        ("no-such-package>=1; python_version >= '3.11'", "is not installed"),
    ],
)
def test_requirement_is_judged_by_what_is_installed(requirement: str, problem: str | None) -> None:
    found = list(installation._unmet([requirement]))
    assert [text.partition(" ")[2] if "old" in text else text for _, text in found] == ([problem] if problem else [])


def test_extra_is_whole_missing_or_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["starlette>=1; extra == 'web'", "uvicorn>=0.40; extra == 'web'", "mcp>=2; extra == 'mcp'", "cronsim>=2.6"]
    have = {"starlette": "1.2", "uvicorn": "0.50", "cronsim": "2.8"}
    monkeypatch.setattr(metadata, "requires", lambda _name: needs)
    monkeypatch.setattr(installation, "installed", have.get)
    assert installation._extra("web", "the page").level is Level.OK
    assert installation._extra("mcp", "the tools") == Part(
        "[mcp]", Level.SKIP, None, "not installed (the tools)", "pip install 'agent-turbo[mcp]'"
    )
    have["uvicorn"] = "0.9"
    part = installation._extra("web", "the page")
    assert part.level is Level.WARN
    assert "uvicorn 0.9 is too old: 0.40 or newer" in part.what


@pytest.mark.parametrize(("where", "tool"), [("pipx/venvs", "pipx"), ("uv/tools", "uv tool")])
def test_remedy_names_the_tool_that_installed_turbo(monkeypatch: pytest.MonkeyPatch, where: str, tool: str) -> None:
    needs = ["starlette>=1; extra == 'web'", "mcp>=2; extra == 'mcp'"]
    monkeypatch.setattr(metadata, "requires", lambda _name: needs)
    monkeypatch.setattr(installation, "installed", {"starlette": "1.2"}.get)
    monkeypatch.setattr(installation, "EXTRAS", {"web": "", "mcp": ""})
    monkeypatch.setattr(sys, "prefix", f"/home/me/.local/share/{where}/agent-turbo")
    assert installation._extra("mcp", "").do == f"{tool} install --force 'agent-turbo[web,mcp]'"
