"""Whatever lies on the disk: a record, a log, a spool file or a tree of an agent's making leads nobody, and holds up nobody."""

import asyncio
import json
import logging
import os
import pickle
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.repositories import Workshop, git, repository, told
from tests.support.requirements import missing
from turbo.cli import diff as diff_command
from turbo.cli.run_log import open_log
from turbo.doctor.former_users import former_users
from turbo.domain.claim import ClaimRef
from turbo.domain.result import RunResult
from turbo.domain.states import Level
from turbo.executors import foreign
from turbo.host.atomic_file import write_atomically
from turbo.host.file_lock import FileLock
from turbo.host.regular_file import NotRegular, read_regular
from turbo.host.removal import TRASH_PREFIX
from turbo.host.spool import Spool
from turbo.host.state_dir import StateDir, owner_of, read_identity
from turbo.maintenance.file_retention import FileRetention, files_by_task
from turbo.process.attempt_log import AttemptLog
from turbo.process.identity import FOREIGN, Identity, identity_of, place_below_home
from turbo.process.journal import Entry, Journal
from turbo.process.reaper import end_leftovers
from turbo.workspaces.disk_usage import kept_worktrees, size_of
from turbo.workspaces.record import WrongRecord, load, records_of, set_aside
from turbo.workspaces.sweep import DAY, WorkspaceRetention


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, repository(tmp_path / "project"))


@pytest.fixture(autouse=True)
def removed_afterwards(tmp_path: Path) -> Iterator[None]:
    """pytest cannot remove a tree that is a thousand levels deep."""
    yield
    subprocess.run(["rm", "-rf", tmp_path], check=False)


# ── records ─────────────────────────────────────────────────────────────────────────────────────────────────────────

WRONG: dict[str, Any] = {
    "a flag as base": {"base": "--output=pwned"},
    "a flag as start": {"start_commit": "--output=pwned", "start_tree": ""},
    "an empty base": {"base": ""},
    "a branch with dots": {"branch": "../../x"},
    "a flag as branch": {"branch": "-D"},
    "another tree": {"tree": "/etc"},
    "a tree that climbs": {"tree": "{home}/../../x/project"},
    "another repository": {"repo": "/etc"},
    "a relative repository": {"repo": "project"},
    "another git directory": {"git_dir": "/etc"},
    "another task": {"task_id": "t2"},
    "a number for text": {"branch": 7},
    "a list for text": {"tree": ["/etc"]},
    "no moment": {"used_at": float("nan")},
    "an endless moment": {"used_at": float("inf")},
    "a moment as text": {"used_at": "x"},
    "an unknown policy": {"policy": {"keep": "maybe"}},
    "an endless policy": {"policy": {"keep_days": float("inf")}},
    "no policy": {"policy": None},
    "half a character in a path": {"tree": "{home}\ud800/project"},
    "half a character in a repository": {"repo": "/\ud800"},
    "half a character in an id": {"task_id": "\ud800"},
    "an unknown stage": {"stage": "x"},
}


@pytest.mark.parametrize("what", WRONG)
async def test_wrong_record_is_one_line_and_set_aside(
    what: str, shop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    (home,) = await homes(shop, "t1")
    fields = json.loads((home / "record.json").read_text())
    change = {k: v.format(home=home) if isinstance(v, str) else v for k, v in WRONG[what].items()}
    (home / "record.json").write_text(json.dumps(fields | change))
    with pytest.raises(WrongRecord) as refused:
        load(home)
    assert str(refused.value).startswith(f"{home / 'record.json'}: ")
    assert "\n" not in str(refused.value)
    said: list[str] = []
    assert records_of(shop.state.workspaces, "t1", lambda _, error: said.append(str(error))) == []
    assert kept_worktrees(shop.state.root) == []
    assert len(said) == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert await sweep(shop).once(time.time() + 15 * DAY) == []
    assert [record.getMessage() for record in caplog.records] == [f"{refused.value}; set aside"]
    assert (home / "record.json.wrong").exists()
    assert (home / "project" / "work").exists(), "nothing of it is removed"
    assert git(shop.repo, "branch", "--list", "turbo/t1")


def test_wrong_record_is_set_aside_past_any_file(tmp_path: Path) -> None:
    (tmp_path / "record.json.wrong" / "full").mkdir(parents=True)
    (tmp_path / "record.json").write_text("{}")
    set_aside(tmp_path)
    assert not (tmp_path / "record.json").exists()


@pytest.mark.parametrize("shape", ["deep", "fifo", "link", "huge", "directory"])
async def test_odd_record_file_stops_nobody(shape: str, shop: Workshop) -> None:
    for task in ("t1", "t2"):
        (home,) = await homes(shop, task)
        if task == "t2":
            break
        odd(home / "record.json", shape)
    assert await asyncio.wait_for(sweep(shop).once(time.time() + 15 * DAY), 30) == []
    assert [kept.task_id for kept in kept_worktrees(shop.state.root)] == ["t2"]
    outcome = await shop.run("t1", "true", retry_count=1)
    if shape != "directory":
        assert "the branch turbo/t1 already exists" in str(outcome.error)


async def test_record_of_a_newer_turbo_stays(shop: Workshop) -> None:
    (home,) = await homes(shop, "t1")
    fields = json.loads((home / "record.json").read_text())
    (home / "record.json").write_text(json.dumps(fields | {"new": 1}))
    await sweep(shop).once(time.time() + 15 * DAY)
    assert (home / "record.json").exists()


async def test_linked_workspace_is_not_entered(shop: Workshop, tmp_path: Path) -> None:
    (home,) = await homes(shop, "t1")
    elsewhere = tmp_path / "elsewhere"
    home.parent.rename(elsewhere)
    home.parent.symlink_to(elsewhere)
    assert kept_worktrees(shop.state.root) == []
    assert await sweep(shop).once(time.time() + 15 * DAY) == []
    assert (elsewhere / "t1" / "record.json").exists()


async def homes(shop: Workshop, task: str) -> list[Path]:
    told(await shop.run(task, "echo work >work"))
    return [file.parent for file in shop.state.workspaces.glob(f"*/{task}/record.json")]


def sweep(shop: Workshop) -> WorkspaceRetention:
    return WorkspaceRetention(shop.state.workspaces, shop.state.locks, shop.journal, {})


def odd(path: Path, shape: str) -> None:
    path.unlink(missing_ok=True)
    if shape == "fifo":
        os.mkfifo(path)
    elif shape == "link":
        path.symlink_to("/etc/passwd")
    elif shape == "directory":
        path.mkdir()
    elif shape == "huge":
        path.touch()
        os.truncate(path, 2**42)
    else:
        path.write_text("[" * 100_000)


# ── files that turbo opens ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", ["deep", "fifo", "link", "huge"])
def test_odd_files_of_a_dead_worker_are_passed_over(shape: str, tmp_path: Path) -> None:
    spool, journal = Spool(tmp_path / "spool"), Journal(tmp_path / "journal")
    spool.directory.mkdir()
    journal.directory.mkdir()
    odd(spool.directory / "1.json", shape)
    odd(journal.directory / "1.json", shape)
    assert spool.pending() == []
    assert os.path.lexists(spool.directory / "corrupt" / "1.json")
    assert [entry.pid for entry in journal.entries()] == [0]


@pytest.mark.parametrize("shape", ["fifo", "link"])
def test_probe_of_the_spool_writes_a_file_of_its_own(shape: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    spool = Spool(tmp_path / "spool")
    spool.directory.mkdir(exist_ok=True)
    if shape == "fifo":
        os.mkfifo(spool.directory / "probe.tmp")
    else:
        (spool.directory / "probe.tmp").symlink_to(victim)
    spool.probe()
    assert victim.read_text() == "precious"


def test_links_in_a_spool_lead_no_result_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    spool = Spool(tmp_path / "spool")
    spool.directory.symlink_to(elsewhere)
    entry, refused = (spool.put(RunResult("t", 7, "succeeded", worker_id="w")) for _ in range(2))
    (spool.directory / "1.json").write_text("{")
    for name in ("done", "corrupt", "quarantine"):
        (spool.directory / name).symlink_to(elsewhere)
    assert len(spool.pending()) == 2
    spool.done(entry)
    spool.quarantine(refused, "why")
    assert len(spool.recently_done()) == 1
    other = Spool(tmp_path / "other")
    other.adopt(spool)
    assert len(other.recently_done()) == 1
    assert not list(elsewhere.iterdir())
    journal = Journal(tmp_path / "journal")
    journal.directory.symlink_to(elsewhere)
    with pytest.raises(NotRegular, match="journal: is a symbolic link"):
        journal.add(Entry("c", 5, 7, "b"))
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("shape", ["fifo", "link", "directory"])
def test_journal_of_any_shape_has_no_entries(shape: str, tmp_path: Path) -> None:
    if shape != "directory":
        odd(tmp_path / "journal", shape)
    else:
        (tmp_path / "journal" / "x.json").mkdir(parents=True)
    assert Journal(tmp_path / "journal").entries() == []
    assert end_leftovers(tmp_path / "journal") == []


def test_worker_directories_of_any_name_are_passed_by(shop: Workshop) -> None:
    workers = shop.state.root / "workers"
    workers.mkdir(exist_ok=True)
    (workers / os.fsdecode(b"\xff\xfe")).mkdir()
    (workers / "linked").symlink_to("/")
    assert shop.state.workers() == {}
    assert shop.state.dead_workers() == []
    logs = shop.state.root / "logs" / "t"
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "3-7.log").symlink_to("nowhere")
    assert [claim.task_id for claim in shop.state.unowned_logs()] == ["t"]


@pytest.mark.parametrize("shape", ["fifo", "link", "directory"])
def test_identity_is_read_from_a_file_and_nothing_else(shape: str, tmp_path: Path) -> None:
    odd(tmp_path / "database", shape)
    assert read_identity(tmp_path / "database") is None
    assert owner_of(tmp_path) is None


@pytest.mark.parametrize("shape", ["fifo", "link"])
def test_writing_leads_to_no_other_file(shape: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")

    def trap(path: Path) -> Path:
        if shape == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(victim)
        return path

    log = AttemptLog(trap(tmp_path / "1-1.log"))
    log.write(b"x")
    log.close()
    assert isinstance(log.error, NotRegular)
    trap(tmp_path / ".file.new")
    write_atomically(tmp_path / "file", "content")
    assert (tmp_path / "file").read_text() == "content"
    with pytest.raises(NotRegular):
        FileLock(trap(tmp_path / "lock")).take()
    assert victim.read_text() == "precious"


def test_log_of_a_task_is_no_way_to_another_file(tmp_path: Path) -> None:
    here = tmp_path / "logs" / "t1"
    here.mkdir(parents=True)
    (here / "1-1.log").write_text("fine\n")
    with open_log(here / "1-1.log", here) as file:
        assert file.read() == b"fine\n"
    (here / "1-2.log").symlink_to("/etc/passwd")
    os.mkfifo(here / "1-3.log")
    (tmp_path / "logs" / "t2").symlink_to("/etc")
    for path in (here / "1-2.log", here / "1-3.log", tmp_path / "logs" / "t2" / "passwd"):
        with pytest.raises(OSError, match=r"symbolic link|not a regular file|Not a directory|Too many levels"):
            open_log(path, path.parent)
    if os.geteuid() == 0:
        os.chown(tmp_path, 12345, -1)
        (here / "1-4.log").write_text("root's\n")  # a hard link to a file of root's
        with pytest.raises(NotRegular, match="belongs to user 0"):
            open_log(here / "1-4.log", here)


def test_file_larger_than_its_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("1234")
    assert read_regular(tmp_path / "f", 4) == b"1234"
    with pytest.raises(NotRegular, match="larger than 3 bytes"):
        read_regular(tmp_path / "f", 3)


# ── the directories of tasks ───────────────────────────────────────────────────────────────────────────────────────


class Nothing:
    """No task is unfinished, and no claim known."""

    async def unfinished(self) -> list[str]:
        return []

    def known(self) -> list[ClaimRef]:
        return []

    def directories(self) -> list[str]:
        return []


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was removed as another user."""
    found: list[Path] = []
    monkeypatch.setattr(Identity, "remove", lambda _, path: found.append(path))
    return found


def another_user() -> Identity:
    user = identity_of("nobody")
    assert user is not None
    return user


def old_task(tmp_path: Path, name: str, content: str | None = None) -> Path:
    directory = StateDir(tmp_path / "state").root / "tasks" / name
    directory.mkdir()
    (directory / "file").write_text("x")
    if content is not None:
        (directory / FOREIGN).write_text(content)
    return directory


def age(*directories: Path) -> None:
    for directory in directories:
        os.utime(directory, (1, 1))


def retention(tmp_path: Path) -> FileRetention:
    nothing: Any = Nothing()
    return FileRetention(nothing, StateDir(tmp_path / "state"), nothing, days=14, gigabytes=None)


def naming(user: object, directory: object) -> str:
    return json.dumps({"user": user, "directory": directory})


NOT_OURS: dict[str, str] = {
    "no JSON": "{",
    "a list": "[]",
    "a number": "5",
    "endless nesting": "[" * 200_000,
    "a user as number": naming(0, "{place}"),
    "a user with NUL": naming("nobody\0", "{place}"),
    "half a character as user": naming("\ud800", "{place}"),
    "an unknown user": naming("nosuch", "{place}"),
    "root": naming("root", "{place}"),
    "no directory": '{"user": "nobody"}',
    "a directory as list": naming("nobody", ["{place}"]),
    "NUL in the directory": naming("nobody", "{place}\0"),
    "half a character in the directory": naming("nobody", "{place}\ud800"),
    "another task's": naming("nobody", "{place}2"),
    "all tasks'": naming("nobody", "{place}/.."),
    "all of turbo's": naming("nobody", "{home}/.turbo"),
}


@pytest.mark.parametrize("what", NOT_OURS)
async def test_file_in_a_tasks_directory_names_nobody_elses(what: str, tmp_path: Path, removed: list[Path]) -> None:
    directory = old_task(tmp_path, "t1")
    place = another_user().place(directory)
    content = NOT_OURS[what].replace("{place}", str(place)).replace("{home}", str(another_user().home))
    (directory / FOREIGN).write_text(content)
    age(directory)
    assert await retention(tmp_path).once() == ["t1"]
    assert removed == []
    assert not list((tmp_path / "state" / "tasks").iterdir())


@pytest.mark.parametrize("shape", ["fifo", "link", "huge", "directory", "closed"])
async def test_odd_file_in_a_tasks_directory_holds_up_nobody(shape: str, tmp_path: Path, removed: list[Path]) -> None:
    directories = [old_task(tmp_path, name) for name in ("t1", "t2")]
    if shape == "closed":
        directories[0].chmod(0)
    else:
        odd(directories[0] / FOREIGN, shape)
    age(*directories)
    assert await asyncio.wait_for(retention(tmp_path).once(), 10) == ["t1", "t2"]
    assert removed == []
    assert not list((tmp_path / "state" / "tasks").iterdir())


@pytest.mark.parametrize("name", ["tasks", "logs", "locks"])
async def test_link_in_place_of_the_tasks_costs_no_file_elsewhere(name: str, tmp_path: Path) -> None:
    """A program has made it since the start."""
    directory = old_task(tmp_path, "t1")
    tidier = retention(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "precious").mkdir(parents=True)
    age(elsewhere / "precious", directory)
    state = tmp_path / "state"
    (state / name).rename(tmp_path / "moved")
    (state / name).symlink_to(elsewhere)
    with pytest.raises(NotRegular, match=f"{name} is a symbolic link"):
        await tidier.once()
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]


async def test_directory_of_another_user_goes_with_its_task(tmp_path: Path, removed: list[Path]) -> None:
    directory = old_task(tmp_path, "t1")
    place = another_user().place(directory)
    (directory / FOREIGN).write_text(naming("nobody", str(place)))
    rest = old_task(tmp_path, f"{TRASH_PREFIX}t1", naming("nobody", str(place)))
    age(directory)
    tidier = retention(tmp_path)
    await tidier.once()
    assert removed == [place], "the name is in use until its own directory goes"
    assert not rest.exists()
    old_task(tmp_path, f"{TRASH_PREFIX}.0123abcd-t1", naming("nobody", str(place)))
    old_task(tmp_path, f"{TRASH_PREFIX}0123abcd-t1", naming("nobody", str(place)))
    await tidier.once()
    assert removed == [place] * 2, "0123abcd-t1 is another task"


async def test_directory_of_a_deleted_user_stays_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No worker can become that user. A person learns where it is, and its name goes once the directory does."""
    directory = old_task(tmp_path, "t1")
    gone, there = (tmp_path / home / place_below_home(directory) for home in ("gone", "a b"))
    there.mkdir(parents=True)
    former = [{"user": "nosuch", "directory": str(there)}, {"user": "x", "directory": str(gone)}]
    (directory / FOREIGN).write_text(json.dumps({"user": "nosuch", "directory": str(gone), "former": former}))
    age(directory)
    tidier = retention(tmp_path)
    await tidier.once()
    (going,) = (tmp_path / "state" / "tasks").iterdir()
    assert [inside.name for inside in going.iterdir()] == [FOREIGN]
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{there}: run_as: this host has no user 'nosuch'" in line
    finding = former_users(tmp_path / "state")
    assert finding.level is Level.WARN
    assert f"{there} (user nosuch)" in finding.what
    assert str(gone) not in finding.what
    assert finding.do.endswith(f"as root: rm -rf -- '{there}'")
    there.rmdir()
    await tidier.once()
    assert not going.exists()
    assert former_users(tmp_path / "state").level is Level.OK


async def test_directory_of_a_replaced_user_goes_too(
    tmp_path: Path, removed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """run_as was changed between two runs of a task."""
    monkeypatch.setattr(Identity, "make_directory", lambda *_: None)
    directory = old_task(tmp_path, "t1")
    (directory / FOREIGN / "x").mkdir(parents=True)  # by an earlier run, without run_as
    users = [user for name in ("nobody", "games") if (user := identity_of(name)) is not None]
    for user in (*users, users[0]):
        assert foreign.use(user, directory) == user.place(directory)
    age(directory)
    await retention(tmp_path).once()
    assert removed == [user.place(directory) for user in users]
    assert not list((tmp_path / "state" / "tasks").iterdir())


async def test_directory_that_cannot_go_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: Identity, path: Path) -> None:
        raise RuntimeError("of a kind that nobody foresaw")

    monkeypatch.setattr(Identity, "remove", fails)
    directory = old_task(tmp_path, "t1")
    (directory / FOREIGN).write_text(naming("nobody", str(another_user().place(directory))))
    age(directory, old_task(tmp_path, "t2"), old_task(tmp_path, "x" * 255))
    tidier = retention(tmp_path)
    for _ in range(2):
        await tidier.once()
    said = sorted(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert [line.partition(" /")[0] for line in said] == [
        "cannot remove",
        "cannot remove the directory that belongs to",
    ]
    left = {path.name: [inside.name for inside in path.iterdir()] for path in (tmp_path / "state" / "tasks").iterdir()}
    assert left == {f"{TRASH_PREFIX}t1": [FOREIGN], "x" * 255: ["file"]}


# ── trees ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def deep(root: Path, levels: int) -> None:
    """Deeper than any path may be long."""
    root.mkdir(parents=True)
    here = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        inside = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inside
    os.close(here)


def test_size_of_any_tree_is_found_in_bounded_time(tmp_path: Path) -> None:
    root = tmp_path / "tasks" / "t1"
    deep(root / "deep", 1500)
    os.mkfifo(root / "fifo")
    (root / "loop").symlink_to(root)
    (root / "sparse").touch()
    os.truncate(root / "sparse", 2**43)
    (root / os.fsdecode(b"\xff\n\x1b")).write_bytes(b"x" * 10_000)
    (tmp_path / "logs").mkdir()
    (found,) = files_by_task(tmp_path, sizes=True)
    assert 10_000 <= found.size < 2**30
    began = time.monotonic()
    size_of(root, seconds=0.0)
    assert time.monotonic() - began < 1


async def test_any_tree_is_measured_in_bounded_time(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turbo.workspaces.git.SECONDS", 2.0)  # git itself waits for the FIFO of odd/.git
    script = r"""
        mkfifo fifo; ln -s / root; truncate -s 8T sparse; printf x >"$(printf 'a\n\033b')"; mkdir -p a/b; echo x >a/b/.git
        mkdir nested; mkfifo nested/.git; mkdir -p odd/.git/objects odd/.git/refs; mkfifo odd/.git/HEAD odd/.git/config
        ln -s odd/.git .gitmodules
        python3 -c 'import os
for _ in range(1200): os.mkdir("d"); os.chdir("d")'; echo done
    """
    began = time.monotonic()
    outcome = await shop.run("t1", script)
    assert outcome.output == "done\n"
    assert told(outcome)["kept"] is True
    assert "was ended after 2 s" in str(told(outcome)["error"])
    assert time.monotonic() - began < 40
    (home,) = [file.parent for file in shop.state.workspaces.glob("*/t1/record.json")]
    assert await sweep(shop).once(time.time() + 15 * DAY) == []
    assert home.exists()


# ── root ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def as_child(work: Callable[[], object]) -> object:
    """What `work` returns in a process of its own."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(writing, pickle.dumps(work()))
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading, "rb") as file:
        return pickle.loads(file.read())


def test_diff_by_root_has_the_rights_of_the_owner(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        missing("only root can become another user")
    os.chown(tmp_path, 12345, 12345)

    def ids() -> object:
        diff_command._become_owner_of(tmp_path)
        return os.getresuid(), os.getresgid(), os.getgroups()

    assert as_child(ids) == ((12345,) * 3, (12345,) * 3, [])
    os.chown(tmp_path, 0, 0)
    assert as_child(ids)[0] == (0,) * 3  # type: ignore[index]
