"""A real PgBouncer in front of a database, on a free port of 127.0.0.1, for the length of a test."""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import conninfo

from tests.support.requirements import require
from tests.support.waiting import until
from turbo import embedded

PROGRAM = "/usr/sbin/pgbouncer"


@dataclass
class PgBouncer:
    dsn: str
    process: "subprocess.Popen[bytes]"
    file: Path

    def kill(self) -> None:
        """SIGKILL: every session is gone at once."""
        self.process.kill()
        self.process.wait(10)

    def start_again(self) -> None:
        self.process = _launch(self.file)
        until(lambda: _answers(self.dsn), what="PgBouncer answers")

    def change(self, mode: str, *, pool_size: int = 20) -> None:
        """Another mode, and every session is ended, as by an operator who restarts it."""
        text = re.sub(r"(?m)^pool_mode = .*$", f"pool_mode = {mode}", self.file.read_text())
        self.file.write_text(re.sub(r"(?m)^default_pool_size = .*$", f"default_pool_size = {pool_size}", text))
        name = conninfo.conninfo_to_dict(self.dsn)["dbname"]
        with psycopg.connect(conninfo.make_conninfo(self.dsn, dbname="pgbouncer"), autocommit=True) as db:
            for command in ("RELOAD", f"KILL {name}", f"RESUME {name}"):
                db.execute(command.encode())

    def lead(self, entry: str, database: str) -> None:
        """From now on the entry's transactions reach `database`. Sessions of clients stay open."""
        text = re.sub(rf"(?m)^{entry} = .*\n", "", self.file.read_text())
        (place,) = re.findall(r"(?m)^\* = (.*)$", text)
        self.file.write_text(text.replace("[databases]\n", f"[databases]\n{entry} = {place} dbname={database}\n"))
        with psycopg.connect(conninfo.make_conninfo(self.dsn, dbname="pgbouncer"), autocommit=True) as db:
            db.execute("RELOAD")


def documented() -> str:
    """The settings of docs/operations.md, without those of a place."""
    (block,) = re.findall(
        r"```ini\n(.*?)```", (Path(__file__).parents[2] / "docs/operations.md").read_text(), re.DOTALL
    )
    lines = block.partition("[pgbouncer]\n")[2].splitlines()
    return "\n".join(line for line in lines if not re.match(r"listen_|auth_|default_pool_size|pool_mode", line))


@contextlib.contextmanager
def pgbouncer(dsn: str, mode: str, *, pool_size: int = 20, more: str = "") -> Iterator[PgBouncer]:
    """`mode`: session or transaction. Prepared statements are not tracked (1.18), as in many an installation. `more`: settings."""
    require(PROGRAM)
    where = conninfo.conninfo_to_dict(dsn)
    home = Path(tempfile.mkdtemp(prefix="turbo-pgbouncer-"))
    port = embedded.free_port()
    file = home / "pgbouncer.ini"
    users = home / "users.txt"
    users.write_text(f'"{where["user"]}" "x"\n')
    file.write_text(
        f"""[databases]
* = host={where["host"]} port={where["port"]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
admin_users = {where["user"]}
pool_mode = {mode}
default_pool_size = {pool_size}
max_client_conn = 200
logfile = {home / "log"}
server_login_retry = 0.2
ignore_startup_parameters = extra_float_digits
{more}
"""
    )
    if os.geteuid() == 0:  # it refuses root
        home.chmod(0o755)
        for path in (home, *home.iterdir()):
            shutil.chown(path, embedded.SERVER_USER)
    one = PgBouncer(conninfo.make_conninfo(dsn, host="127.0.0.1", port=port), _launch(file), file)
    try:
        until(lambda: _answers(one.dsn), what="PgBouncer answers")
        yield one
    finally:
        one.kill()
        shutil.rmtree(home, ignore_errors=True)


def _launch(file: Path) -> "subprocess.Popen[bytes]":
    as_user = {"user": embedded.SERVER_USER, "extra_groups": []} if os.geteuid() == 0 else {}
    return subprocess.Popen([PROGRAM, "-q", str(file)], cwd="/", stdin=subprocess.DEVNULL, **as_user)  # type: ignore[call-overload,no-any-return]


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.Error:
        return False
    return True
