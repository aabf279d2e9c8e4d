"""The password of an embedded server: who must know it, and how a cluster that had none gets one.

    <data directory>/turbo.pgpass   in the form of ~/.pgpass, mode 0600; the server's user owns it, and root reads it

Every user of the host can reach 127.0.0.1, so no session is let in without it.
"""

import contextlib
import os
import pwd
import re
import secrets
import time
from pathlib import Path

from turbo.embedded.programs import PASSWORD_FILE, SERVER_USER, EmbeddedError, run_as_server

_TRUST = re.compile(r"(?m)^(?!\s*#)(.*\s)trust([ \t]*(?:#.*)?)$")


def password_file(data_dir: Path) -> Path:
    return data_dir / PASSWORD_FILE


def is_open(data_dir: Path) -> bool:
    """Whether nobody has given it a password yet. A standby has its primary's."""
    return not password_file(data_dir).exists() and not (data_dir / "standby.signal").exists()


def now_protected(data_dir: Path) -> str:
    """What to say after that."""
    return f"the server in {data_dir} asks for a password from now on; {password_file(data_dir)} has it, and the DSN names it"


def protect(data_dir: Path, bin_dir: Path) -> None:
    """Give a stopped cluster a password: no session is let in meanwhile. Safe to repeat after a kill: the file comes last."""
    password = secrets.token_urlsafe(32)
    options = ("-c", "log_statement=none", "-c", "password_encryption=scram-sha-256")
    output = run_as_server(
        [str(bin_dir / "postgres"), "--single", "-D", str(data_dir), *options, "postgres"],
        data_dir,
        f"alter role postgres password '{password}'\n",
    )
    if "ERROR" in output:
        raise EmbeddedError(
            f"the server in {data_dir} could not be given a password: {' '.join(output.replace(password, '…').split())[-300:]}"
        )
    _ask_for(data_dir, password)


def protect_running(data_dir: Path, dsn: str) -> None:
    """Give a running server a password. Sessions that are open stay open."""
    import psycopg

    password = secrets.token_urlsafe(32)
    try:
        with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as admin:
            hidden = admin.pgconn.encrypt_password(password.encode(), b"postgres", b"scram-sha-256").decode()
            admin.execute(f"alter role postgres password '{hidden}'".encode())
            _ask_for(data_dir, password)
            admin.execute("select pg_catalog.pg_reload_conf()")
    except psycopg.Error as error:
        raise EmbeddedError(
            f"the server in {data_dir} has no password file, and lets nobody in without it: {str(error).strip()}. Stop it "
            "(`turbo db stop`) and start it again: it gets a new password then"
        ) from error
    end = time.monotonic() + 5
    with contextlib.suppress(psycopg.OperationalError):
        while time.monotonic() < end:  # until it has read the file
            psycopg.connect(dsn.partition("?")[0], passfile=os.devnull, connect_timeout=5).close()
            time.sleep(0.02)


def _ask_for(data_dir: Path, password: str) -> None:
    hba = data_dir / "pg_hba.conf"
    _write(hba, _TRUST.sub(r"\1scram-sha-256\2", _read(hba)))
    _write(password_file(data_dir), f"127.0.0.1:*:*:postgres:{password}\n")


def _read(file: Path) -> str:
    """A file of the data directory, itself: its owner may have put a link to another there."""
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as source:
        return source.read()


def _write(file: Path, text: str) -> None:
    """Replace a file in the data directory; only the server's user, and root, can read it."""
    new = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as out:
        if os.geteuid() == 0:
            user = pwd.getpwnam(SERVER_USER)
            os.fchown(descriptor, user.pw_uid, user.pw_gid)
        out.write(text)
        out.flush()
        os.fsync(descriptor)
    new.rename(file)
