"""The embedded server: for a person, for a test, as root from a closed home, and never left behind."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.support.prefork import TURBO
from tests.support.waiting import gone, until
from turbo import embedded

PARENT = """
import sys, time
from turbo import embedded
with embedded.temporary() as server:
    print(server.pid, flush=True)
    time.sleep(600)
"""


def turbo_db(*arguments: str, code: int = 0) -> str:
    done = subprocess.run([TURBO, "db", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return (done.stdout + done.stderr).strip()


@pytest.fixture
def data_dir(tmp_path):
    """A place the server's user can enter: pytest's own directories are closed."""
    where = Path(f"/var/tmp/turbo-test-{os.getpid()}-{tmp_path.name}")
    yield where / "data"
    subprocess.run([TURBO, "db", "stop", "--mode", "immediate", "--data-dir", str(where / "data")], capture_output=True)
    shutil.rmtree(where, ignore_errors=True)


def test_start_stop_and_url_work_from_the_command_line(data_dir):
    assert "start it with `turbo db start`" in turbo_db("url", "--data-dir", str(data_dir), code=1)
    dsn = turbo_db("start", "--data-dir", str(data_dir)).splitlines()[-1]  # read through a pipe: it is not held
    assert turbo_db("start", "--data-dir", str(data_dir)).splitlines()[-1] == dsn
    assert turbo_db("url", "--data-dir", str(data_dir)) == dsn
    with psycopg.connect(dsn) as db:
        assert db.execute("select current_setting('fsync'), current_setting('max_connections')").fetchone() == (
            "on",
            "300",
        )
    assert turbo_db("stop", "--data-dir", str(data_dir)) == "stopped"
    assert turbo_db("stop", "--data-dir", str(data_dir)) == "not running"


def test_every_command_uses_the_clusters_own_version(data_dir):
    option = ("--data-dir", str(data_dir))
    embedded.start(data_dir, version=16)
    assert "(PostgreSQL) 16" in turbo_db("psql", *option, "--version")
    assert turbo_db("psql", *option, "-Atc", "show server_version").startswith("16")
    running = embedded.running(data_dir)
    assert running is not None
    assert embedded.major(running.bin_dir) == 16
    dsn = turbo_db("url", *option)
    assert turbo_db("start", *option) == dsn
    assert turbo_db("stop", *option) == "stopped"
    turbo_db("start", *option)
    assert turbo_db("psql", *option, "-Atc", "show server_version").startswith("16")


def test_a_cluster_of_an_unknown_version_is_named(data_dir):
    data_dir.mkdir(parents=True)
    (data_dir / "PG_VERSION").write_text("17\n")
    told = turbo_db("start", "--data-dir", str(data_dir), code=1)
    assert "has PostgreSQL 16 and 18, not 17: use another --data-dir" in told


def test_temporary_server_dies_with_its_killed_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert not gone(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: gone(pid), 10)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another user")
def test_root_runs_a_wheel_that_the_server_user_cannot_read(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    package = embedded.package()
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.is_dir():
            shutil.copytree(part, closed / part.name, symlinks=True)
    program = "from turbo import embedded\nwith embedded.temporary() as s: print(s.bin_dir)"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(closed)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout.startswith(str(tmp_path))
    shutil.rmtree(Path(done.stdout.strip()).parents[2])
