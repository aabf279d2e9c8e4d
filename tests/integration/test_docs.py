"""The tutorial and the README, followed literally: every shell block, in order, in a copy of the repository and a home of
its own, with the real server and workers that their commands start."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.markdown import MAIN, Bash, blocks, printed_as, terminals
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
SECONDS = 90.0

NOT_HERE = {"make test": "it is what runs this"}
"""Lines of the README that are not run, and why."""


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[tuple[Path, Mapping[str, str], Path]]:
    """The files of the repository as they are now, compiled, the environment made already; what a new terminal there has set."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    # All of it in a place that the embedded server's user can enter: pytest's own directories are closed.
    base = Path(f"/var/tmp/turbo-docs-{os.getpid()}-{tmp_path.name}")
    here, home, data = base / "turbo", base / "home", base / "data"
    for directory in (base, here, home, data):
        directory.mkdir(mode=0o755)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, here / name)
    for compiled in (ROOT / "turbo").rglob("*.pyc"):
        there = here / compiled.relative_to(ROOT)
        if there.parents[1].is_dir():
            there.parent.mkdir(exist_ok=True)
            shutil.copy2(compiled, there)
    # Not a link to the whole: `make venv` in the clone must never clear the real one.
    (here / ".venv").mkdir()
    for entry in (ROOT / ".venv").iterdir():
        if entry.name != ".installed":
            (here / ".venv" / entry.name).symlink_to(entry)
    (here / ".venv" / ".installed").touch()
    environment = {
        "HOME": str(home), "XDG_DATA_HOME": str(data), "PATH": os.environ["PATH"], "LANG": "C.UTF-8",
        "PYTHONPATH": str(here),
    }  # fmt: skip
    try:
        yield here, environment, tmp_path
    finally:
        subprocess.run(
            [ROOT / ".venv" / "bin" / "turbo", "db", "stop", "--mode", "immediate"],
            env=environment,
            capture_output=True,
        )
        shutil.rmtree(base, ignore_errors=True)


def follow(page: Path, clone: tuple[Path, Mapping[str, str], Path]) -> list[str]:
    """Run it; the commands that were run."""
    here, environment, logs = clone
    done: list[str] = []
    printed = ""
    with terminals(here, environment, logs) as opened:
        for block in blocks(page):
            if block.language == "text":
                assert printed_as(block.text, printed), (
                    f"{page.name}:{block.line} says\n{block.text}\nand it was\n{printed}"
                )
            elif block.language == "sh" and block.info:
                opened[block.info].send(block.text)
                listening(opened[block.info])
                done.append(block.text)
            elif block.language == "sh":
                lines = [
                    line for line in block.text.splitlines(keepends=True) if line.split("#")[0].strip() not in NOT_HERE
                ]
                printed = opened[MAIN].run("".join(lines), SECONDS)
                done.append(block.text)
    return done


def listening(terminal: Bash) -> None:
    until(lambda: "listening on channel" in terminal.said(), 30, terminal.said())


def test_tutorial_works_as_written(clone: tuple[Path, Mapping[str, str], Path]) -> None:
    assert len(follow(ROOT / "docs" / "tutorial.md", clone)) >= 12


def test_readme_works_as_written(clone: tuple[Path, Mapping[str, str], Path]) -> None:
    done = "".join(follow(ROOT / "README.md", clone))
    for command in ("make demo", "turbo migrate", "turbo worker", "turbo submit", "turbo cancel"):
        assert command in done


def test_page_with_a_wrong_block_fails(clone: tuple[Path, Mapping[str, str], Path]) -> None:
    page = clone[2] / "page.md"
    page.write_text("```sh\necho one\necho two\n```\n\n```text\n…\ntwo\n```\n")
    assert len(follow(page, clone)) == 1
    page.write_text("```sh\necho one\n```\n\n```text\ntwo\n```\n")
    with pytest.raises(AssertionError, match=r"says\n\s*two"):
        follow(page, clone)
    page.write_text("```sh\nfalse\necho one\n```\n")
    with pytest.raises(AssertionError, match="failed"):
        follow(page, clone)


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"], ids=lambda p: p.name)
def test_every_link_resolves(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
