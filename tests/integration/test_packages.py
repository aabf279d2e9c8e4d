"""The wheel and the sdist: they hold what the tree holds, and an installed wheel does a task without the tree.

Built without an index by the backend, once. The wheel is installed into an environment of its own, which finds the packages that
turbo depends on in this one.
"""

import json
import os
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from tests.support import database
from turbo import __version__

ROOT = Path(__file__).parents[2]
EXAMPLES = {"migrations": "migrations", "config": "examples/config"} | {
    name: f"examples/{name}" for name in ("monitoring", "launchd")
}
"""Directories beside the package, and where the wheel has them below turbo/."""


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", out], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return Built(next(out.glob("*.whl")), next(out.glob("*.tar.gz")))


@pytest.fixture(scope="module")
def tree() -> set[str]:
    """The files of the repository, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()}


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it, and a home that the server's user can enter."""

    bin: Path
    package: Path
    home: Path

    def turbo(self, *arguments: str | Path, code: int = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [self.bin / "turbo", *arguments], cwd=self.home, env={**self.environment, **environment}, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done

    @property
    def environment(self) -> dict[str, str]:
        return {"HOME": str(self.home), "PATH": f"{self.bin}:/usr/bin:/bin", "LANG": "C.UTF-8"}


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    base = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", base / "venv"], check=True)
    python = base / "venv" / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check",
         "--no-index", "--no-deps", built.wheel],
        check=True,
    )  # fmt: skip
    packages = next((base / "venv" / "lib").glob("python*/site-packages"))
    # A line in a .pth file adds a directory, and does not read that one's .pth files: the checkout stays unknown.
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    (base / "home").mkdir()
    return Installed(python.parent, packages / "turbo", base / "home")


# ── what they hold ──────────────────────────────────────────────────────────────────────────────────────────────────


def in_wheel(name: str) -> str | None:
    """Where the wheel has a file of the tree; None where it leaves it out."""
    first, _, rest = name.partition("/")
    if first == "turbo":
        return name
    return f"turbo/{EXAMPLES[first]}/{rest}" if first in EXAMPLES else None


def test_wheel_holds_the_package_and_its_examples(built: Built, tree: set[str]) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
        assert built.wheel.name == f"agent_turbo-{__version__}-py3-none-any.whl"
        notes = {name for name in names if name.startswith(f"agent_turbo-{__version__}.dist-info/")}
        expected = {where for name in tree if (where := in_wheel(name))}
        assert names - notes == expected
        assert archive.read("turbo/py.typed") == b""
        for name in tree:
            if (where := in_wheel(name)) is not None:
                assert archive.read(where) == (ROOT / name).read_bytes(), name
    kinds = {PurePosixPath(name).suffix for name in expected}
    assert kinds >= {".py", ".sql", ".html", ".css", ".js", ".svg", ".yaml", ".json", ".plist", ".typed"}


def test_sdist_holds_the_whole_tree(built: Built, tree: set[str]) -> None:
    """Whoever has it can run the tests, and build the wheel again."""
    top = f"agent_turbo-{__version__}"
    with tarfile.open(built.sdist) as archive:
        names = {name.removeprefix(f"{top}/") for name in archive.getnames()}
    assert {name.split("/")[0] for name in names} <= {name.split("/")[0] for name in tree} | {"PKG-INFO"}
    assert names - {"PKG-INFO"} == {name for name in tree if not name.startswith(".git/")}


def test_packages_hold_no_secret_and_no_link(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        members = archive.getmembers()
    assert all(member.isfile() or member.isdir() for member in members)
    assert not [m.name for m in members if PurePosixPath(m.name).name.endswith((".env", ".pem", ".key", ".pgpass"))]


def test_version_stands_in_one_place(built: Built) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in settings["project"]["dynamic"]
    assert settings["tool"]["hatch"]["version"]["path"] == "turbo/__init__.py"
    with zipfile.ZipFile(built.wheel) as archive:
        notes = archive.read(f"agent_turbo-{__version__}.dist-info/METADATA").decode()
    assert f"\nVersion: {__version__}\n" in notes


# ── the installed wheel ─────────────────────────────────────────────────────────────────────────────────────────────


def test_installed_wheel_knows_its_version_and_parts(installed: Installed) -> None:
    assert installed.turbo("--version").stdout == f"turbo {__version__}\n"
    with database.fresh_database() as dsn:
        report = json.loads(installed.turbo("self", "check", "--json", TURBO_DSN=dsn).stdout)
        parts = {part["name"]: part for part in report["parts"]}
        assert report["healthy"] is True
        assert str(installed.package) in parts["turbo"]["what"], "not the checkout"
        assert parts["turbo"]["version"] == __version__
        assert (parts["postgresql"]["level"], parts["postgresql"]["do"]) == ("warn", "run `turbo migrate`")
        for name in ("[embedded]", "[web]", "[mcp]", "[otel]", "psycopg", "python"):
            assert (parts[name]["level"], bool(parts[name]["version"])) == ("ok", True), parts[name]


def test_installed_wheel_does_a_task_from_its_own_examples(installed: Installed) -> None:
    """As a stranger would: examples, tables, a worker, a task."""
    said = installed.turbo("self", "examples", "here").stdout
    written = [file for file in (installed.home / "here").rglob("*") if file.is_file()]
    assert said == f"{len(written)} files written to here\n"
    again = installed.turbo("self", "examples", "here")
    assert again.stdout == "0 files written to here\n"
    assert len(again.stderr.splitlines()) == len(written)
    config = installed.home / "here" / "config" / "worker.yaml"
    installed.turbo("config", "check", config)
    with database.fresh_database() as dsn:
        installed.turbo("migrate", TURBO_DSN=dsn)
        worker = subprocess.Popen(
            [installed.bin / "turbo", "worker", "--config", config, "--metrics-port", "0"], cwd=installed.home,
            env={**installed.environment, "TURBO_DSN": dsn}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            done = installed.turbo(
                "submit", "one two three", "--type", "words", "--wait", "--timeout", "60", TURBO_DSN=dsn
            )
        finally:
            worker.terminate()
            code = worker.wait(30)
        assert code == 0
        assert done.stdout.split()[-1].isdigit(), done.stdout


def test_broken_installation_says_what_is_missing(installed: Installed) -> None:
    lost = installed.package / "web" / "templates" / "base.html"
    aside = installed.home / "aside.html"
    shutil.move(lost, aside)
    try:
        done = installed.turbo("self", "check", code=1)
    finally:
        shutil.move(aside, lost)
    line = next(line for line in done.stdout.splitlines() if line.startswith("fail"))
    assert "turbo/web/templates/base.html" in line
    assert line.endswith("→ install agent-turbo again")
    assert os.access(lost, os.R_OK)
