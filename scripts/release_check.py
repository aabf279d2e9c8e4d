"""make release-check: whether this commit can be released. Builds dist/, and writes the release's notes to dist/notes.md.

    python scripts/release_check.py [--tag v1.2.3]

Prints a line for each check, and exits 1 if one fails. It does not run the tests: `make check` does. docs/releasing.md has the rest.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

VERSION = re.compile(r'^__version__ = "(\d+\.\d+\.\d+)"$', re.M)
HOSTS = re.compile(
    "|".join(("files\\.pythonhosted", "pypi\\.or" + "g", "registry\\.npmj" + "s", "deb\\.debia" + "n")), re.I
)
"""Of package registries: what is written from a machine's own mirror is of no use to others."""

MAY_NAME_HOSTS = ("tests/support/shell_texts.py",)
BIN = Path(sys.executable).parent


@dataclass
class Release:
    """What is checked. `tag`: of the commit, as in v1.2.3; None before there is one."""

    root: Path
    tag: str | None = None
    lint: Sequence[Sequence[str]] = field(
        default=(("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",), ("lint-imports",))
    )

    @property
    def version(self) -> str:
        found = VERSION.findall((self.root / "turbo" / "__init__.py").read_text())
        return str(found[0]) if len(found) == 1 else "unknown"

    @property
    def files(self) -> list[str]:
        return [name for name in self.run("git", "ls-files", "-z").split("\0") if name]

    def run(self, *argv: str | Path) -> str:
        """Its output. Raises ValueError with what it printed when it fails."""
        done = subprocess.run(argv, cwd=self.root, capture_output=True, text=True)
        if done.returncode != 0:
            raise ValueError("\n".join((done.stdout + done.stderr).strip().splitlines()[-8:]))
        return done.stdout

    def notes(self) -> str:
        """The section of CHANGELOG.md for this version; empty if there is none."""
        text = (self.root / "CHANGELOG.md").read_text()
        found = re.search(rf"^## {re.escape(self.version)}\b[^\n]*\n(.*?)(?=^## |\Z)", text, re.M | re.S)
        return found[1].strip() if found else ""


def version(release: Release) -> str:
    """The version is a number, and stands in one place."""
    if release.version == "unknown":
        return 'turbo/__init__.py has no line __version__ = "1.2.3"'
    if release.tag is not None and release.tag != f"v{release.version}":
        return f"the tag is {release.tag}, and the version {release.version}"
    return (
        ""
        if 'dynamic = ["version"]' in (release.root / "pyproject.toml").read_text()
        else "pyproject.toml has a version"
    )


def changelog(release: Release) -> str:
    """CHANGELOG.md has a section for it."""
    return (
        ""
        if release.notes()
        else f"CHANGELOG.md has no section {release.version}: rename Unreleased, and begin a new one"
    )


def clean(release: Release) -> str:
    """Nothing is uncommitted."""
    return release.run("git", "status", "--porcelain").strip()


def generated(release: Release) -> str:
    """docs/reference and the dashboards are as their scripts write them."""
    from scripts import dashboards, docs

    pages = {release.root / "docs" / "reference" / name: page() for name, page in docs.PAGES.items()}
    boards = release.root / "monitoring" / "grafana" / "dashboards"
    pages |= {boards / name: text for name, text in dashboards.dashboards().items()}
    old = [str(file.relative_to(release.root)) for file, text in pages.items() if file.read_text() != text]
    return f"run make docs dashboards: {', '.join(old)}" if old else ""


def links(release: Release) -> str:
    """Every link to a file of the repository resolves."""
    broken = []
    for name in release.files:
        if name.endswith(".md"):
            file = release.root / name
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", file.read_text()):
                if not target.startswith(("http:", "https:", "mailto:")) and not (file.parent / target).exists():
                    broken.append(f"{name}: {target}")
    return ", ".join(broken)


def hosts(release: Release) -> str:
    """No file names the host of a package registry."""
    found = []
    for name in release.files:
        file = release.root / name
        if name in MAY_NAME_HOSTS or not file.is_file():
            continue
        if HOSTS.search(file.read_bytes().decode(errors="replace")):
            found.append(name)
    return ", ".join(found)


def lint(release: Release) -> str:
    """ruff, mypy and import-linter have nothing to say."""
    for argv in release.lint:
        release.run(BIN / argv[0], *argv[1:])
    return ""


def packages(release: Release) -> str:
    """The wheel and the sdist are built into dist/; tests/integration/test_packages.py compares them with the tree."""
    dist = release.root / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    release.run(sys.executable, "-m", "hatchling", "build", "-d", dist)
    (dist / "notes.md").write_text(release.notes() + "\n")
    wanted = {f"agent_turbo-{release.version}-py3-none-any.whl", f"agent_turbo-{release.version}.tar.gz", "notes.md"}
    found = {file.name for file in dist.iterdir()}
    return "" if found == wanted else f"dist/ has {', '.join(sorted(found))}"


CHECKS: tuple[Callable[[Release], str], ...] = (version, changelog, clean, generated, links, hosts, lint, packages)


def failed(release: Release, checks: Sequence[Callable[[Release], str]] = CHECKS) -> list[str]:
    """The names of the checks that failed. Prints a line for each."""
    names = []
    for check in checks:
        try:
            problem = check(release)
        except (ValueError, OSError) as error:
            problem = str(error)
        print(f"{'fail' if problem else 'ok':4}  {check.__name__:10} {check.__doc__}")
        if problem:
            names.append(check.__name__)
            print("      " + problem.replace("\n", "\n      "))
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tag")
    release = Release(ROOT, parser.parse_args().tag)
    print(f"turbo {release.version}")
    return 1 if failed(release) else 0


if __name__ == "__main__":
    sys.exit(main())
