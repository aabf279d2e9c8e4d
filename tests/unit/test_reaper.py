"""Nothing that a worker started outlives it, whatever killed the worker; and nobody else is touched."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import turbo
from tests.support.processes import FAMILY, PYTHON, Saved, journalled, kill, lives, pids_in
from tests.support.waiting import until
from turbo.process import table as process_table
from turbo.process.journal import Entry, Journal, new_cookie
from turbo.process.reaper import ReaperWatcher, end_leftovers

WORKER = """
import asyncio, json, os, sys
from pathlib import Path
from turbo.domain.run import StopSignal
from turbo.process.journal import Journal
from turbo.process.running import ProcessSpec, run_process
from turbo.process.reaper import ReaperWatcher
here, family, words = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
journal = Journal(here / "journal")
watcher = ReaperWatcher()
if "unwatched" not in words:
    watcher.start(journal.directory)
async def main():
    if "forking" in words:  # as multiprocessing in a handler would
        child = os.fork()
        if child == 0:
            import time
            time.sleep(1000)
        print(json.dumps({"forked": child}), flush=True)
    spec = ProcessSpec((sys.executable, "-S", "-E", "-c", family, *words), dict(os.environ), here, here / "log",
                       wall_seconds=1000)
    def line(line, cut):
        print(json.dumps(json.loads(line) | {"watcher": watcher.pid or 0}), flush=True)
    await run_process(spec, stop=StopSignal(), journal=journal, on_line=line)
asyncio.run(main())
"""


@pytest.fixture
def saved() -> Iterator[Saved]:
    saved = Saved()
    yield saved
    kill(pid for pid in saved.pids.values() if pid)


@contextlib.contextmanager
def worker(here: Path, saved: Saved, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs a program as a worker does, its family's pids already in `saved`."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(here), FAMILY, *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    if "forking" in words:
        saved.pids |= pids_in(process.stdout.readline())
    saved.pids |= pids_in(process.stdout.readline())
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def family(saved: Saved) -> list[str]:
    return [name for name in saved.living() if name in ("program", "group", "tool", "daemon")]


ALL = ["program", "group", "tool", "daemon"]


def journalled_child(journal: Journal, *argv: str, env: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(argv, env=env, start_new_session=True)
    row = process_table.find(process.pid)
    assert row is not None
    journal.add(Entry(new_cookie(), process.pid, row.start, process_table.boot(), argv[0]))
    return process


# ── the watcher ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("words", [(), ("stubborn",), ("holding",)])
def test_programs_of_a_killed_worker_end_within_five_seconds(
    words: tuple[str, ...], tmp_path: Path, saved: Saved
) -> None:
    with worker(tmp_path, saved, *words) as process:
        assert family(saved) == ALL
        process.kill()
        killed = time.monotonic()
        process.wait()
        until(lambda: not saved.living(), what="everything is gone, the watcher too", seconds=5)
        assert time.monotonic() - killed < 5
    assert journalled(tmp_path / "journal") == []
    log = (tmp_path / "watcher.log").read_text()
    assert "1 of its programs were still running" in log
    assert str(saved.pids["daemon"]) in log


def test_without_a_watcher_programs_live_on(tmp_path: Path, saved: Saved) -> None:
    """The control: the fault bites. And the host's next worker ends them by the journal."""
    with worker(tmp_path, saved, "unwatched") as process:
        process.kill()
        process.wait()
        time.sleep(3)
        assert family(saved) == ALL
    (ended,) = end_leftovers(tmp_path / "journal")
    assert set(ended.pids) == {saved.pids[name] for name in ALL}
    assert ended.survivors == ()
    assert family(saved) == []
    assert journalled(tmp_path / "journal") == []
    assert end_leftovers(tmp_path / "journal") == []


def test_watcher_survives_signals_of_terminals_and_managers(tmp_path: Path, saved: Saved) -> None:
    with worker(tmp_path, saved) as process:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(saved.pids["watcher"], number)
        process.kill()
        process.wait()
        until(lambda: not family(saved), what="everything is gone")


def test_forked_child_of_the_worker_does_not_blind_the_watcher(tmp_path: Path, saved: Saved) -> None:
    with worker(tmp_path, saved, "forking") as process:
        process.kill()
        process.wait()
        until(lambda: not family(saved), what="everything is gone")
        assert lives(saved.pids["forked"]), "the fault did not bite"


def test_waiting_watcher_is_a_shell_in_its_own_session(tmp_path: Path) -> None:
    watcher = ReaperWatcher()
    watcher.start(tmp_path / "journal")
    assert watcher.pid is not None
    assert watcher.alive()
    until(lambda: psutil.Process(watcher.pid).cmdline()[:1] == ["/bin/sh"], what="the shell")
    assert os.getsid(watcher.pid) == watcher.pid
    assert psutil.Process(watcher.pid).memory_info().rss < 5_000_000
    assert not [name for name in psutil.Process(watcher.pid).environ() if name not in ("PATH", "PYTHONPATH", "PWD")]
    pid = watcher.pid
    watcher.close()
    watcher.close()
    assert not lives(pid)
    assert not (tmp_path / "watcher.log").exists()


def test_reaper_imports_the_turbo_of_its_worker(tmp_path: Path) -> None:
    watcher = ReaperWatcher()
    watcher.start(tmp_path / "journal")
    process = psutil.Process(watcher.pid)
    try:
        until(lambda: "PYTHONPATH" in process.environ(), what="the exec")
        first, *others = process.environ()["PYTHONPATH"].split(os.pathsep)
    finally:
        watcher.close()
    package = Path(turbo.__file__).resolve().parent
    assert first == str(package.parent), "found first, also if it is not installed"
    assert str(package) not in [first, *others], "its rooms would be top-level modules"


@pytest.mark.parametrize("log", ["missing", "fifo", "link"])
def test_goodbye_is_withheld_while_a_program_runs(log: str, tmp_path: Path) -> None:
    """Whatever a program has put in place of the watcher's log."""
    if log == "fifo":
        os.mkfifo(tmp_path / "watcher.log")
    elif log == "link":
        (tmp_path / "watcher.log").symlink_to(tmp_path / "victim")
    journal = Journal(tmp_path / "journal")
    watcher = ReaperWatcher()
    watcher.start(journal.directory)
    program = journalled_child(journal, "sleep", "1000")
    watcher.close()
    program.wait(timeout=10)
    assert program.returncode == -signal.SIGTERM
    until(lambda: not journalled(journal.directory), what="its entry is gone")
    assert not (tmp_path / "victim").exists()


def test_killed_watcher_is_noticed_and_replaced(tmp_path: Path) -> None:
    watcher = ReaperWatcher()
    watcher.start(tmp_path / "journal")
    assert watcher.pid is not None
    os.kill(watcher.pid, signal.SIGKILL)
    until(lambda: not watcher.alive(), what="it is noticed")
    watcher.start(tmp_path / "journal")
    assert watcher.alive()
    watcher.close()


# ── the reaper ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_reused_pid_is_never_signalled(tmp_path: Path) -> None:
    """The same pid with another start is a stranger; with the right one it is ended (or this would prove nothing)."""
    journal = Journal(tmp_path)
    program = journalled_child(journal, "sleep", "1000")
    (true,) = journal.entries()
    for false in (
        replace(true, start=true.start - 1),
        replace(true, start=true.start + 1),
        *([replace(true, boot="another boot")] if true.boot else []),
    ):
        journal.add(false)
        assert end_leftovers(tmp_path, grace=0.2) == []
        assert journalled(tmp_path) == []
    assert program.poll() is None
    journal.add(true)
    assert [ended.pids for ended in end_leftovers(tmp_path)] == [(program.pid,)]
    assert program.wait(timeout=10) == -signal.SIGTERM


def test_entry_without_a_pid_signals_no_group(tmp_path: Path) -> None:
    """Pid 0 would be the reaper's own group."""
    (tmp_path / f"{new_cookie()}.json").write_text("torn")
    assert end_leftovers(tmp_path, grace=0.2) == []
    assert journalled(tmp_path) == []


def test_descendants_are_found_by_cookie_without_the_program(tmp_path: Path, saved: Saved) -> None:
    journal = Journal(tmp_path)
    cookie = new_cookie()
    program = subprocess.Popen(
        [*PYTHON, "-c", FAMILY, "leaving"],
        env={"TURBO_RUN": f"outer:{cookie}"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    row = process_table.find(program.pid)
    assert row is not None
    out, _ = program.communicate()
    saved.line(out)
    assert family(saved) == ["group", "tool", "daemon"]
    journal.add(Entry(cookie, program.pid, row.start, process_table.boot()))
    assert [set(ended.pids) for ended in end_leftovers(tmp_path)] == [{saved.pids[name] for name in ALL[1:]}]
    assert family(saved) == []


def test_torn_entry_still_finds_descendants_by_cookie(tmp_path: Path) -> None:
    cookie = new_cookie()
    program = subprocess.Popen(["sleep", "1000"], env={"TURBO_RUN": cookie}, start_new_session=True)
    until(lambda: process_table.has_cookie(program.pid, cookie), what="the exec")
    (tmp_path / f"{cookie}.json").write_text("torn")
    end_leftovers(tmp_path)
    assert program.wait(timeout=10) == -signal.SIGTERM


def test_many_stubborn_programs_take_one_grace(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({!r}, 'w'); signal.pause()"
    programs = []
    for number in range(6):
        ready = tmp_path / f"ready{number}"
        programs.append(journalled_child(journal, *PYTHON, "-c", stubborn.format(str(ready))))
        until(ready.exists, what="TERM is ignored")
    began = time.monotonic()
    assert len(end_leftovers(tmp_path, grace=2)) == 6
    assert 2 <= time.monotonic() - began < 8  # six graces would be twelve
    assert {program.wait(timeout=10) for program in programs} == {-signal.SIGKILL}


def test_two_reapers_do_not_disturb_each_other(tmp_path: Path) -> None:
    """The watcher of a dead worker, and the worker that replaces it."""
    journal = Journal(tmp_path)
    program = journalled_child(journal, "sleep", "1000")
    other = subprocess.Popen([sys.executable, "-m", "turbo.process.reaper", str(tmp_path), "1"], stdout=subprocess.PIPE)
    end_leftovers(tmp_path, grace=1)
    other.communicate()
    assert other.returncode == 0
    assert program.wait(timeout=10) == -signal.SIGTERM
    assert journalled(tmp_path) == []


def test_missing_journal_is_empty(tmp_path: Path) -> None:
    assert end_leftovers(tmp_path / "never") == []
