"""The embedded server: for a person, for a test, as root from a closed home, and never left behind."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.support.database import DEBIAN
from tests.support.prefork import TURBO
from tests.support.users import User, a_user
from tests.support.waiting import gone, until
from tests.support.workers import bench
from turbo import embedded
from turbo.migrate import migrate

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


def test_server_that_the_dsn_names_elsewhere_is_pointed_out(data_dir, monkeypatch):
    dsn = turbo_db("start", "--data-dir", str(data_dir)).splitlines()[-1]
    monkeypatch.setenv("XDG_DATA_HOME", f"{data_dir.parent}/nothing here")
    assert "start it with `turbo db start`" in turbo_db("psql", "-Atc", "select 1", code=1), "the control"
    monkeypatch.setenv("TURBO_DSN", dsn)
    hint = f"TURBO_DSN names the one in {data_dir}: give --data-dir {data_dir}"
    for command in (["psql", "-Atc", "select 1"], ["url"]):
        assert turbo_db(*command, code=1).endswith(hint)
    assert turbo_db("stop") == f"not running; {hint}"
    assert turbo_db("psql", "--data-dir", str(data_dir), "-Atc", "select 1") == "1"
    assert turbo_db("stop", "--data-dir", str(data_dir)) == "stopped"
    assert "start it with `turbo db start`" in turbo_db("url", code=1), "it does not run any more"
    monkeypatch.setenv("TURBO_DSN", "no dsn")
    assert "start it with `turbo db start`" in turbo_db("url", code=1)


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


def without_password(dsn: str) -> str:
    return psycopg.conninfo.make_conninfo(dsn, passfile=os.devnull)


def refused(dsn: str) -> bool:
    """Whether a user of this host who cannot read the password file is kept out."""
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(without_password(dsn)).close()
    return True


@pytest.mark.parametrize("made_by", [*embedded.DIRECTORIES, "debian"])
def test_server_asks_every_local_user_for_a_password(data_dir, made_by):
    chosen = {"bin_dir": DEBIAN} if made_by == "debian" else {"version": made_by}
    server = embedded.start(data_dir, **chosen)
    with embedded.guarded(server):
        assert refused(server.dsn)
        with psycopg.connect(server.dsn) as db:
            methods = {row[0] for row in db.execute("select distinct auth_method from pg_hba_file_rules")}
        assert methods == {"scram-sha-256"}, "for replication and for a socket too"
        secret = server.password_file
        assert (stat.S_IMODE(secret.stat().st_mode), stat.S_IMODE(data_dir.stat().st_mode)) == (0o600, 0o700)
        assert secret.stat().st_uid == data_dir.stat().st_uid
        password = secret.read_text().strip().rpartition(":")[2]
        assert len(password) >= 32
        assert password not in server.dsn + (data_dir / "server.log").read_text()
        assert (
            server.run("psql", "-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres", "-Atc", "select 1") == "1\n"
        )


def test_only_root_and_the_servers_user_can_read_its_files(data_dir):
    """Whatever the umask is, and however its parent is open."""
    umask = os.umask(0)
    try:
        server = embedded.start(data_dir)
    finally:
        os.umask(umask)
    data_dir.parent.chmod(0o755)
    with embedded.guarded(server), a_user("reader") as reader:
        every = [data_dir, *data_dir.rglob("*")]
        assert server.password_file in every
        assert not [path for path in every if reader.may_read(path)]
        assert {path.stat().st_uid for path in every} == {data_dir.stat().st_uid}
        server_user = User("nobody", data_dir.stat().st_uid, 65534, Path("/"))
        assert server_user.may_read(server.password_file), "its own programs use it"
        listed = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
        password = server.password_file.read_text().strip().rpartition(":")[2]
        assert password not in listed
        psycopg.connect(server.dsn).close()


def test_dsn_of_the_server_works_in_a_worker_yaml(data_dir, tmp_path):
    dsn = turbo_db("start", "--data-dir", str(data_dir))
    assert "\n" not in dsn
    assert "passfile=" in dsn
    assert turbo_db("psql", "--data-dir", str(data_dir), "-Atc", "select 1") == "1"
    migrate(dsn)
    with bench(dsn, tmp_path) as fleet:
        config = fleet.config() | {"database": {"dsn": dsn}}
        worker = fleet.start(config, dsn="").listening()
        fleet.insert("a", task_type="noop")
        fleet.wait("a")
        assert "password" not in worker.log
    turbo_db("stop", "--data-dir", str(data_dir))
    again = turbo_db("start", "--data-dir", str(data_dir))
    with psycopg.connect(again) as db:  # on another port
        assert db.execute("select count(*) from agent_tasks").fetchone() == (1,)


@pytest.mark.parametrize("state", ["stopped", "running"])
def test_server_of_an_earlier_turbo_gets_a_password(data_dir, state):
    option = ("--data-dir", str(data_dir))
    server = embedded.start(data_dir, trust=True)
    with psycopg.connect(server.dsn, autocommit=True) as db:
        db.execute("create table kept ()")
    hba = data_dir / "pg_hba.conf"
    hba.write_text(hba.read_text() + "# trust nobody\nhost all all 10.0.0.0/8 reject\n")
    if state == "stopped":
        server.stop()
    said, dsn = both(option)
    assert "asks for a password from now on" in said
    assert refused(dsn)
    with psycopg.connect(dsn) as db:
        assert db.execute("select to_regclass('kept')").fetchone() == ("kept",)
    assert "# trust nobody\nhost all all 10.0.0.0/8 reject\n" in hba.read_text()
    assert both(option) == ("", dsn), "and it is said once"


def both(option: tuple[str, ...]) -> tuple[str, str]:
    """What `turbo db start` writes to standard error, and the DSN on its standard output."""
    done = subprocess.run([TURBO, "db", "start", *option], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr.strip(), done.stdout.strip()


def test_lost_password_file_is_made_again_after_a_stop(data_dir):
    option = ("--data-dir", str(data_dir))
    both(option)
    (data_dir / embedded.PASSWORD_FILE).unlink()
    assert "Stop it" in turbo_db("start", *option, code=1)
    turbo_db("stop", *option)
    dsn = both(option)[1]
    assert refused(dsn)
    psycopg.connect(dsn).close()
