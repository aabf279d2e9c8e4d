"""A real PgBouncer in front of a server, on loopback, gone with the block."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import conninfo

from tests.real import require
from tests.workers import until
from turbo import embedded


@contextlib.contextmanager
def pooler(dsn: str, mode: Literal["session", "transaction"]) -> Iterator[str]:
    """The DSN of the same database through it."""
    program = require("pgbouncer")
    server = conninfo.conninfo_to_dict(dsn)
    port = embedded.free_port()
    home = Path(tempfile.mkdtemp(prefix="turbo-pgbouncer-"))
    home.chmod(0o755)
    settings = home / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n* = host={server['host']} port={server['port']} user={server['user']}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\npool_mode = {mode}\nmax_client_conn = 100\ndefault_pool_size = 20\n"
    )
    log = home / "log"
    as_user = ["-u", embedded.SERVER_USER] if os.geteuid() == 0 else []
    with log.open("wb") as out:
        process = subprocess.Popen([program, *as_user, settings], stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    through = conninfo.make_conninfo(dsn, port=port)
    try:
        until(lambda: process.poll() is not None or _answers(through), what="PgBouncer answers")
        assert process.poll() is None, log.read_text()
        yield through
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        shutil.rmtree(home, ignore_errors=True)


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
