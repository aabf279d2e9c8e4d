"""What this installation of turbo consists of: turbo's own files, Python, psycopg, the database, the extras, programs on the host.

A part that turbo cannot work without fails. One that a feature needs is skipped where it is missing, with the command that installs
it. Nothing here reads a worker's configuration, sends a request to an agent's service, or prints more of a program than its version.
"""

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

import psycopg

import turbo
from turbo import __version__, db
from turbo.doctor.program_version import version_of
from turbo.domain.states import Level
from turbo.executors.agent.program import ProgramPlaces
from turbo.migrate.error import MigrationError
from turbo.migrate.files import newest_version
from turbo.migrate.history import SchemaFit, check_schema, explain_schema, status
from turbo.migrate.session import OLDEST_SERVER
from turbo.process.running import SpawnFailed

DISTRIBUTION = "agent-turbo"
OLDEST_PYTHON = (3, 11)
EXTRAS = {
    "embedded": "turbo db, a PostgreSQL to try things out",
    "web": "turbo web",
    "mcp": "turbo mcp",
    "otel": "traces",
    "uvloop": "a faster event loop",
}
"""The extras that users install, and what they are for."""

PACKAGES = {
    "claude": "@anthropic-ai/claude-code",
    "codex": "@openai/codex",
    "copilot": "@github/copilot",
    "opencode": "opencode-ai",
    "gemini": "@google/gemini-cli",
    "qwen": "@qwen-code/qwen-code",
}
"""The agents' CLIs, and the npm package of each."""

DATA = ("sql", "migrations", "web/templates", "web/static", "config/agents", "examples")
"""Directories of the package that hold no Python: what a broken build would leave out."""

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(?:\(?>=\s*([0-9.]+))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")


@dataclass(frozen=True, slots=True)
class Part:
    """`version` is None where the part is missing, or does not tell. `what` describes it, `do` is the remedy."""

    name: str
    level: Level
    version: str | None
    what: str
    do: str = ""


def examine_installation(dsn: str | None, environment: Mapping[str, str] | None = None) -> Iterator[Part]:
    """Every part, in order, as soon as it is known. `dsn`: None for no database; '' for libpq's PG* variables."""
    environment = os.environ if environment is None else environment
    yield _own_files()
    yield _python()
    yield from _requirements()
    yield _psycopg()
    yield _database(dsn)
    yield from (_extra(name, purpose) for name, purpose in EXTRAS.items())
    yield from _programs(environment)


# ── the package ─────────────────────────────────────────────────────────────────────────────────────────────────────


def examples_directory() -> Path:
    """Where the example files are: inside the package when installed from a wheel, its parent directory in a source checkout.

    Raises FileNotFoundError when neither is there.
    """
    packaged = Path(str(resources.files(turbo))) / "examples"
    if packaged.is_dir():
        return packaged
    checkout = Path(turbo.__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file() and (checkout / "config").is_dir():
        return checkout
    raise FileNotFoundError("turbo's example files are missing from this installation: install agent-turbo again")


def _own_files() -> Part:
    package = Path(turbo.__file__).resolve().parent
    checkout = (package.parent / "pyproject.toml").is_file()
    missing = [
        name
        for name in DATA
        if not any((package / name).glob("*")) and not (checkout and name in ("migrations", "examples"))
    ]
    missing += _unpacked_in_part(package)
    try:
        schema = f"schema {newest_version()}"
    except MigrationError as error:
        missing.append(str(error))
        schema = "no schema"
    if missing:
        what = f"files are missing from {package}: {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}"
        return Part("turbo", Level.FAIL, __version__, what, "install agent-turbo again")
    return Part("turbo", Level.OK, __version__, f"{__version__}, {schema}, in {package}")


def _unpacked_in_part(package: Path) -> list[str]:
    """Files that the wheel recorded when it was installed, and that are no longer there."""
    try:
        found = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return []
    return [
        str(file)
        for file in found.files or ()
        if file.parts[0] == package.name and not Path(str(found.locate_file(file))).exists()
    ]


def _python() -> Part:
    version = platform.python_version()
    what = f"{version}, {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        return Part("python", Level.FAIL, version, what, f"use Python {'.'.join(map(str, OLDEST_PYTHON))} or newer")
    return Part("python", Level.OK, version, what)


def _requirements() -> Iterator[Part]:
    """One part for each required package that is missing or too old."""
    try:
        needed = [text for text in metadata.requires(DISTRIBUTION) or () if not _EXTRA.search(text)]
    except metadata.PackageNotFoundError:
        yield Part("packages", Level.SKIP, None, "turbo runs from a directory that was never installed")
        return
    for name, problem in _unmet(needed):
        yield Part(name, Level.FAIL, None, problem, "install agent-turbo again")


def _unmet(requirements: "list[str]") -> Iterator[tuple[str, str]]:
    """Those that are missing or older than asked for, with the problem."""
    for text in requirements:
        found = _REQUIREMENT.match(text)
        if found is None:
            continue
        name, least = found[1], found[2]
        have = installed(name)
        if have is None:
            yield name, "is not installed"
        elif least is not None and _numbers(have) < _numbers(least):
            yield name, f"{have} is too old: {least} or newer is needed"


def installed(name: str) -> str | None:
    """The version of a Python package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:4])


def _psycopg() -> Part:
    libpq = psycopg.pq.version()
    version = psycopg.__version__
    return Part(
        "psycopg", Level.OK, version, f"{version}, libpq {_libpq(libpq)} ({psycopg.pq.__impl__} implementation)"
    )


def _libpq(number: int) -> str:
    """180004 as 18.4."""
    return f"{number // 10000}.{number % 10000}"


def _extra(name: str, purpose: str) -> Part:
    label = f"[{name}]"
    install = _install_command(name)
    try:
        texts = [text for text in metadata.requires(DISTRIBUTION) or () if _of_extra(text, name)]
    except metadata.PackageNotFoundError:
        texts = []
    if not texts:
        return Part(label, Level.SKIP, None, f"unknown, because {DISTRIBUTION} is not installed ({purpose})", install)
    unmet = dict(_unmet(texts))
    if len(unmet) == len(texts):
        return Part(label, Level.SKIP, None, f"not installed ({purpose})", install)
    if unmet:
        what = "; ".join(f"{package} {problem}" for package, problem in unmet.items())
        return Part(label, Level.WARN, None, f"incomplete: {what} ({purpose})", install)
    have = [(found[1], installed(found[1])) for text in texts if (found := _REQUIREMENT.match(text))]
    return Part(label, Level.OK, have[0][1], f"{', '.join(f'{package} {version}' for package, version in have)}")


def _install_command(extra: str) -> str:
    """The command that adds an extra, by whatever installed turbo. pipx and uv make the environment anew, so they get all extras."""
    tool = next((tool for part, tool in (("pipx/venvs", "pipx"), ("uv/tools", "uv tool")) if part in sys.prefix), None)
    if tool is None:
        return f"pip install '{DISTRIBUTION}[{extra}]'"
    extras = ",".join(name for name in EXTRAS if name == extra or _is_whole(name))
    return f"{tool} install --force '{DISTRIBUTION}[{extras}]'"


def _is_whole(extra: str) -> bool:
    return not dict(_unmet([text for text in metadata.requires(DISTRIBUTION) or () if _of_extra(text, extra)]))


def _of_extra(requirement: str, extra: str) -> bool:
    found = _EXTRA.search(requirement)
    return found is not None and found[1] == extra and not requirement.startswith(DISTRIBUTION)


# ── the database ────────────────────────────────────────────────────────────────────────────────────────────────────


def _database(dsn: str | None) -> Part:
    if dsn is None:
        return Part(
            "postgresql", Level.SKIP, None, "no database is named", "set TURBO_DSN, or start one: turbo db start"
        )
    where = db.describe(dsn)
    try:
        with db.open_client(dsn, "turbo self check", 5.0) as connection:
            number = connection.info.server_version
            version = (connection.info.parameter_status("server_version") or _libpq(number)).split()[0]
            if number < OLDEST_SERVER:
                what = f"{version} at {where} is too old"
                return Part("postgresql", Level.FAIL, version, what, "use PostgreSQL 14 or later")
            schema = status(connection)
    except (psycopg.Error, OSError, ValueError) as error:
        what = f"{where}: {db.why_unreachable(error)}"
        return Part("postgresql", Level.FAIL, None, what, "start the server, or correct TURBO_DSN or the PG* variables")
    known = (schema.version, schema.latest, schema.compatible_from)
    level = Level.OK if check_schema(*known) is SchemaFit.OK else Level.WARN
    what, _, do = explain_schema(*known).partition(": ")
    return Part("postgresql", level, version, f"{version} at {where}; {what}", do)


# ── programs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _programs(environment: Mapping[str, str]) -> Iterator[Part]:
    """Asked side by side: an agent's CLI may take seconds to say its version."""
    wanted = [*_tools(environment), *_agents(environment)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        yield from pool.map(lambda program: program.part(environment), wanted)


@dataclass(frozen=True, slots=True)
class _Program:
    """`path`: None where it was not found. `purpose`: what it is needed for. `install`: the command that brings it."""

    name: str
    path: str | None
    purpose: str
    install: str

    def part(self, environment: Mapping[str, str]) -> Part:
        if self.path is None:
            return Part(self.name, Level.SKIP, None, f"not found ({self.purpose})", self.install)
        version = version_of(self.path, environment)
        if version is None:
            what = f"{self.path} does not tell its version"
            return Part(self.name, Level.WARN, None, what, f"run: {self.path} --version")
        return Part(self.name, Level.OK, version, f"{version}, {self.path}")


def _tools(environment: Mapping[str, str]) -> Iterator[_Program]:
    path = environment.get("PATH", os.defpath)
    on_mac = sys.platform == "darwin"
    yield _Program("git", shutil.which("git", path=path), "workspaces", f"{'brew' if on_mac else 'apt'} install git")
    if not on_mac:
        yield _Program("bwrap", shutil.which("bwrap", path=path), "sandboxes", "apt install bubblewrap")


def _agents(environment: Mapping[str, str]) -> Iterator[_Program]:
    for name, (places, package) in agent_programs().items():
        try:
            path: str | None = places.find(name, environment)
        except (SpawnFailed, OSError):
            path = None
        yield _Program(name, path, f"{name} agents", f"npm install -g {package}")


def agent_programs() -> dict[str, tuple[ProgramPlaces, str]]:
    """The CLIs of agents that turbo knows: where each is looked for, as its executor does, and its npm package."""
    from turbo.executors.acp.cli import PLACES as ACP
    from turbo.executors.claude.cli import PLACES as CLAUDE
    from turbo.executors.codex.program import PLACES as CODEX
    from turbo.executors.copilot.program import PLACES as COPILOT

    places = {"claude": CLAUDE, "codex": CODEX, "copilot": COPILOT}
    return {name: (places.get(name, ACP), package) for name, package in PACKAGES.items()}
