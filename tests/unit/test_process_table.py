"""The process table, as /proc tells it and as psutil does (which is all there is on macOS)."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import PYTHON
from tests.support.waiting import until
from turbo.process import table as process_table
from turbo.process.table import ProcessRow

Find = Callable[[int], ProcessRow | None]

FINDS = [
    pytest.param(
        process_table._proc_row, id="proc", marks=pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
    ),
    pytest.param(process_table._psutil_row, id="psutil"),
]
TABLES = [
    pytest.param(
        process_table._proc_table, id="proc", marks=pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
    ),
    pytest.param(process_table._psutil_table, id="psutil"),
]
COOKIES = [
    pytest.param(
        process_table._proc_cookies, id="proc", marks=pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
    ),
    pytest.param(process_table._psutil_cookies, id="psutil"),
]


@pytest.fixture
def child(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    # A name that makes parsing /proc/<pid>/stat by its blanks, or by its first parenthesis, go wrong.
    sleep = tmp_path / "a (b) 1 2) S"
    sleep.symlink_to("/bin/sleep" if Path("/bin/sleep").exists() else "/usr/bin/sleep")
    process = subprocess.Popen([sleep, "1000"], env={"TURBO_RUN": "aa:bb"}, start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("find", FINDS)
def test_process_has_its_parent_group_and_start(find: Find, child: "subprocess.Popen[bytes]") -> None:
    row = find(child.pid)
    assert row is not None
    assert (row.pid, row.parent, row.group, row.zombie) == (child.pid, os.getpid(), child.pid, False)
    mine = find(os.getpid())
    assert mine is not None
    assert mine.start <= row.start
    assert find(child.pid) == row


@pytest.mark.parametrize("find", FINDS)
def test_start_time_survives_exec(find: Find) -> None:
    process = subprocess.Popen(["/bin/sh", "-c", "read go; exec sleep 1000"], stdin=subprocess.PIPE)
    before = find(process.pid)
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()
    import psutil

    until(lambda: psutil.Process(process.pid).name() == "sleep", what="the exec")
    assert find(process.pid) == before
    process.kill()
    process.wait()


@pytest.mark.parametrize("find", FINDS)
def test_uncollected_process_is_a_zombie_then_nothing(find: Find, child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    until(lambda: (row := find(child.pid)) is not None and row.zombie, what="the zombie")
    child.wait()
    assert find(child.pid) is None


@pytest.mark.parametrize("table", TABLES)
def test_table_holds_every_process(
    table: Callable[[], process_table.ProcessTable], child: "subprocess.Popen[bytes]"
) -> None:
    rows = table()
    assert {os.getpid(), os.getppid(), child.pid} <= set(rows)
    assert rows[child.pid].group == child.pid


@pytest.mark.parametrize("cookies", COOKIES)
def test_cookie_is_read_from_the_environment(cookies: Callable[[int], str], child: "subprocess.Popen[bytes]") -> None:
    until(lambda: cookies(child.pid) == "aa:bb", what="the child's own environment, after its exec")
    assert cookies(2**22 + 1) == ""


def test_cookie_must_match_whole(child: "subprocess.Popen[bytes]") -> None:
    until(lambda: process_table.has_cookie(child.pid, "aa"), what="the outer cookie")
    assert process_table.has_cookie(child.pid, "bb")
    assert not process_table.has_cookie(child.pid, "a")
    assert not process_table.has_cookie(child.pid, "aa:bb")


def test_variable_with_a_similar_name_is_not_the_cookie() -> None:
    process = subprocess.Popen([*PYTHON, "-c", "input()"], env={"NOT_TURBO_RUN": "aa"}, stdin=subprocess.PIPE)
    import psutil

    until(lambda: "NOT_TURBO_RUN" in psutil.Process(process.pid).environ(), what="the exec")
    assert not process_table.has_cookie(process.pid, "aa")
    process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere psutil reads the table")
def test_unreadable_table_is_not_an_empty_one() -> None:
    """Out of descriptors, everything would seem to be gone."""
    code = """if True:
        import os, resource
        from turbo.process import table as process_table
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
        try:
            while True: os.dup(0)
        except OSError: pass
        for call in (process_table.snapshot, lambda: process_table.find(os.getpid()),
                     lambda: process_table.has_cookie(os.getpid(), "x")):
            try: print(call())
            except OSError as error: print(error.errno)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["24", "24", "24"]
