"""`make release-check`: each check notices what it is for, and a whole repository passes."""

import subprocess
from pathlib import Path

import pytest

from scripts import release_check
from scripts.release_check import Release, failed

CHECKS = (release_check.version, release_check.changelog, release_check.clean, release_check.links, release_check.hosts)
HOST = "registry." + "npmjs" + ".org"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "turbo").mkdir()
    (tmp_path / "turbo" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "pyproject.toml").write_text('dynamic = ["version"]\n')
    (tmp_path / "CHANGELOG.md").write_text("## Unreleased\n\n## 1.2.3 - 2026-12-01\n\n- New.\n\n## 1.2.2\n\n- Old.\n")
    (tmp_path / "page.md").write_text("[this](turbo/__init__.py#top), [that](https://example.com)\n")
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def git(path: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], cwd=path, check=True)


def commit(path: Path) -> None:
    git(path, "add", "-A")
    git(path, "commit", "-qm", "x")


def test_whole_repository_passes_and_has_its_notes(repository: Path) -> None:
    release = Release(repository, "v1.2.3")
    assert failed(release, CHECKS) == []
    assert release.notes() == "- New."


@pytest.mark.parametrize(
    ("file", "text", "check"),
    [
        ("turbo/__init__.py", '__version__ = "1.2.4"\n', "version"),
        ("CHANGELOG.md", "## Unreleased\n", "changelog"),
        ("page.md", "[gone](missing.md)\n", "links"),
        ("lock.json", f'"resolved": "https://{HOST}/x"\n', "hosts"),
    ],
)
def test_check_notices_what_it_is_for(repository: Path, file: str, text: str, check: str) -> None:
    (repository / file).write_text(text)
    assert "clean" in failed(Release(repository, "v1.2.3"), CHECKS)
    commit(repository)
    found = failed(Release(repository, "v1.2.3"), CHECKS)
    assert check in found
    assert set(found) <= {check, "changelog"}, "the version's section is missing, too, after another version"
