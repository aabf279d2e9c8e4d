"""A password that is rotated while workers run: every session of every worker gets the new one, without a restart."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo, sql

from tests.support import workers
from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess
from turbo import db, embedded
from turbo.db.address import Address
from turbo.migrate import grant_roles
from turbo.process.environment import EnvFile

ROLE = "rotated"
SESSIONS = {"turbo claims", "turbo results", "turbo heartbeat", "turbo listener"}


def set_password(server: embedded.Server, password: str) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(ROLE), sql.Literal(password)))


def end_sessions(server: embedded.Server) -> int:
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        query = "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity where usename = %s"
        return int((admin.execute(query, [ROLE]).fetchone() or (0,))[0])


def secret(path: Path, text: str, mode: int = 0o600) -> Path:
    """Written as a rotation does it: a new file, renamed over the old one."""
    new = path.with_suffix(".new")
    new.touch(mode)
    new.write_text(text)
    new.chmod(mode)
    return new.rename(path)


@pytest.fixture
def guarded(own_server: embedded.Server) -> embedded.Server:
    """A server that asks ROLE for its password."""
    with psycopg.connect(own_server.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("create role {} login password 'first'").format(sql.Identifier(ROLE)))
        grant_roles(own_server.dsn)
        admin.execute(sql.SQL("grant turbo_worker to {}").format(sql.Identifier(ROLE)))
        hba = own_server.data_dir / "pg_hba.conf"
        hba.write_text(f"host all {ROLE} 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
        admin.execute("select pg_reload_conf()")
        with pytest.raises(psycopg.OperationalError, match="password"):
            until(lambda: not psycopg.connect(where(own_server, password="wrong")).close())
    return own_server


@pytest.fixture
def fleet(guarded: embedded.Server, tmp_path: Path) -> Iterator[Bench]:
    with workers.bench(guarded.dsn, tmp_path) as bench:
        yield bench


def where(server: embedded.Server, **more: str) -> str:
    return conninfo.make_conninfo(server.dsn, user=ROLE, **more)


def test_rotation_reaches_every_session_of_every_worker(guarded: embedded.Server, fleet: Bench) -> None:
    """However the worker was told: in TURBO_DSN, PGPASSWORD, a variable of the configuration, or a password file."""
    known = conninfo.conninfo_to_dict(guarded.dsn)
    plain = where(guarded)
    home = fleet.path / "home"
    home.mkdir()

    def contents(password: str) -> dict[str, str]:
        return {
            "dsn": f"TURBO_DSN='{plain} password={password}'\n",
            "variable": f"TURBO_DSN=\nSECRET={password}\n",
            "environment": f"TURBO_DSN='{plain}'\nPGPASSWORD={password}\n",
            "passfile": f"TURBO_DSN='{plain} passfile={home}/pgpass'\n",
        }

    def write(password: str, mode: int = 0o600) -> None:
        for name, text in contents(password).items():
            secret(fleet.path / f"{name}.env", text, mode)
        secret(home / "pgpass", f"*:*:*:*:{password}\n")

    def start(name: str) -> WorkerProcess:
        config = fleet.config(name=name, state_dir=str(fleet.path / name), queues=[name])
        if name == "variable":
            host = f"host={known['host']} port={known['port']} dbname={known['dbname']}"
            config["database"] = {"dsn": f"{host} user={ROLE} password=${{SECRET}}"}
        return fleet.start(config, "--env-file", str(fleet.path / f"{name}.env"))

    write("first")
    started = {name: start(name) for name in contents("")}
    for worker in started.values():
        worker.listening()

    def sessions(name: str) -> set[str]:
        query = "select application_name from pg_stat_activity where usename = %s"
        found = [row[0] for row in fleet.sql(query, ROLE)]
        return {" ".join(text.split()[:2]) for text in found if started[name].worker_id in text}

    set_password(guarded, "second")
    assert end_sessions(guarded) >= 4 * 3
    for worker in started.values():
        worker.said("password authentication failed")
    write("second", 0o644)  # readable by others: refused, and said once
    for name in ("dsn", "variable", "environment"):
        started[name].said("run chmod 600")
    write("second")
    for name, worker in started.items():
        fleet.insert(name, queue=name)
        fleet.wait(name)
        until(lambda name=name: sessions(name) >= SESSIONS, what=lambda name=name: f"{name}: {sessions(name)}")
        if name != "passfile":
            assert worker.log.count("run chmod 600") == 1
            assert worker.log.count("sessions opened from now on use its login") == 1
        assert "second" not in worker.log.replace("seconds", ""), "no password is logged"
        assert worker.process.poll() is None
    # A second rotation, in the order that the documentation gives: no session fails.
    before = {name: worker.log.count("password authentication failed") for name, worker in started.items()}
    write("third")
    for name in ("dsn", "variable", "environment"):
        started[name].kill(signal.SIGHUP)
        started[name].said("sessions opened from now on use its login", times=2)
    set_password(guarded, "third")
    assert end_sessions(guarded) >= 4 * 3
    for name, worker in started.items():
        fleet.insert(f"{name} again", queue=name)
        fleet.wait(f"{name} again")
        until(lambda name=name: sessions(name) >= SESSIONS, what=lambda name=name: f"{name}: {sessions(name)}")
        assert worker.log.count("password authentication failed") == before[name]


def test_hangup_never_moves_a_worker_to_another_database(bench: Bench) -> None:
    file = secret(bench.path / "env", f"TURBO_DSN='{bench.dsn}'\n")
    worker = bench.start(None, "--env-file", str(file)).listening()
    secret(file, f"TURBO_DSN='{conninfo.make_conninfo(bench.dsn, dbname='elsewhere')}'\nPGHOST=x\n")
    worker.kill(signal.SIGHUP)
    worker.said("names another database (dbname, PGHOST); restart the worker to use it")
    secret(file, f"TURBO_DSN='{bench.dsn}'\n")
    worker.kill(signal.SIGHUP)
    worker.said("SIGHUP: ", times=2)
    bench.sql("select pg_terminate_backend(pid) from pg_stat_activity where starts_with(application_name, 'turbo ')"
              " and datname = current_database() and pid <> pg_backend_pid()")  # fmt: skip
    bench.insert("t")
    bench.wait("t")
    file.unlink()
    worker.kill(signal.SIGHUP)
    worker.said("cannot be read")
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("old", "new", "login"),
    [
        ("TURBO_DSN='host=h user=a password=1'", "TURBO_DSN='host=h user=b password=2'", ("b", "2")),
        ("TURBO_DSN='host=h user=a'\nPGPASSWORD=1", "TURBO_DSN='host=h user=a'\nPGPASSWORD=2", ("a", "2")),
        ("PGPASSWORD=1", "PGPASSWORD=2\nPGUSER=b", ("b", "2")),
        ("TURBO_DSN='host=h password=1'", "TURBO_DSN='host=g password=2'", (None, "1")),
        ("PGPASSWORD=1\nPGHOST=h", "PGPASSWORD=2\nPGHOST=g", (None, None)),
        ("PGPASSWORD=1", "PGPASSWORD=1\nOTHER=2", (None, None)),
        ("TURBO_DSN='host=h password=1'", "TURBO_DSN='host='", (None, "1")),
    ],
)
def test_only_the_login_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, login: tuple[str | None, str | None]
) -> None:
    file = EnvFile(secret(tmp_path / "env", old))
    for name, value in file.values().items():
        monkeypatch.setenv(name, value)

    def dsn_in(environment: object) -> str:
        assert isinstance(environment, dict)
        return str(environment.get("TURBO_DSN", ""))

    address = Address(dsn_in(dict(file.values())), file, dsn_in)
    first = address.dsn
    assert not address.changed_since(first)
    secret(file.path, new)
    changed = address.changed_since(first)
    found = conninfo.conninfo_to_dict(address.dsn)
    assert (found.get("user"), found.get("password")) == login
    assert changed is (address.dsn != first)
    assert found.get("host") == conninfo.conninfo_to_dict(first).get("host")
    assert not address.changed_since(address.dsn)


async def test_address_without_an_env_file_is_its_dsn(dsn: str) -> None:
    address = Address(dsn)
    assert not address.changed_since(dsn)
    assert "no --env-file" in address.reload()
    connection = await db.connect(address, "test")
    await connection.close()
