"""A real Patroni cluster of three nodes on loopback, from PyPI alone: Patroni with its Raft store, PostgreSQL from the wheel.

Patroni lives in a venv of its own, made once per set of pins and kept where the server's user can execute it (as root
that is `nobody`, who may not enter the Python of a closed home: Patroni would hang at "bootstrap in progress").
"""

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
import yaml

from tests.support.database import place
from tests.support.requirements import missing
from tests.support.waiting import until
from turbo import embedded

PINS = Path(__file__).with_name("patroni-constraints.txt")
ROOT = Path("/var/tmp") if os.geteuid() == 0 else Path("~/.cache/turbo").expanduser()
TTL_SECONDS = 20
"""Patroni's least: how long a leader that says nothing stays leader."""


def _as_server_user() -> dict[str, object]:
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam(embedded.SERVER_USER)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _usable_python() -> str:
    """A Python that the server's user can execute."""
    for python in (sys._base_executable, "/usr/bin/python3"):  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [python, "-c", "import venv, ensurepip"], cwd="/", capture_output=True, **_as_server_user()
            )  # type: ignore[call-overload]
            if done.returncode == 0:
                return str(python)
    missing("no Python that the server's user can execute: install python3 and python3-venv")
    raise AssertionError


def program() -> Path:
    """Patroni's, installed on first use."""
    home = ROOT / f"turbo-patroni-{hashlib.sha256(PINS.read_bytes()).hexdigest()[:12]}"
    ROOT.mkdir(parents=True, exist_ok=True)
    with (ROOT / "turbo-patroni.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / ".complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([_usable_python(), "-m", "venv", home], check=True, cwd="/")
            pip: list[str | Path] = [home / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", PINS]
            subprocess.run(pip, check=True, cwd="/")
            if os.geteuid() == 0:
                subprocess.run(["/bin/chmod", "-R", "a+rX", home], check=True)
            (home / ".complete").touch()
    return home / "bin/patroni"


@dataclass
class Node:
    name: str
    home: Path
    port: int
    rest: int
    raft: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def log(self) -> str:
        return (self.home / "patroni.log").read_text(errors="replace")

    def ask(self, path: str) -> int:
        """The REST interface's status code for `path`; 0 when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.rest, timeout=1)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def processes(self) -> list[psutil.Process]:
        """Patroni, the postmaster, and all their children."""
        roots = [self.process.pid] if self.process is not None and self.process.poll() is None else []
        with contextlib.suppress(OSError, ValueError, IndexError):
            roots.append(int((self.home / "data/postmaster.pid").read_text().splitlines()[0]))
        found: list[psutil.Process] = []
        for pid in roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                root = psutil.Process(pid)
                if str(self.home) in " ".join(root.cmdline()):
                    found += [root, *root.children(recursive=True)]
        return found

    def signal(self, number: signal.Signals) -> int:
        """To the whole node at once, Patroni first. How many processes it reached."""
        reached = 0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
                reached += 1
        if number == signal.SIGKILL and self.process is not None:
            self.process.wait()
        return reached


@dataclass
class Cluster:
    nodes: list[Node]
    patroni: Path
    up_seconds: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def dsn(self) -> str:
        """Every node, as operations.md says: libpq finds the one that takes writes."""
        ports = ",".join(str(n.port) for n in self.nodes)
        hosts = ",".join("127.0.0.1" for _ in self.nodes)
        return (
            f"host={hosts} port={ports} user=postgres dbname=postgres connect_timeout=2 target_session_attrs=read-write"
        )

    def leader(self) -> Node | None:
        return next((n for n in self.nodes if n.ask("/primary") == 200), None)

    def start(self, node: Node) -> None:
        with (node.home / "patroni.log").open("ab") as log:
            node.process = subprocess.Popen(
                [self.patroni, node.home / "patroni.yml"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=self.environment,
                start_new_session=True, **_as_server_user(),  # type: ignore[call-overload]
            )  # fmt: skip
        (node.home / "patroni.pid").write_text(str(node.process.pid))

    def whole(self, seconds: float = 60.0) -> Node:
        """Wait for one leader that takes writes and two streaming replicas, one of them synchronous; the leader."""

        def ready() -> Node | None:
            leader = self.leader()
            if leader is None:
                return None
            try:
                with psycopg.connect(leader.dsn, autocommit=True, connect_timeout=2) as db:
                    rows = db.execute(  # not pg_basebackup, which streams, too
                        "select application_name from pg_stat_replication where state = 'streaming' and application_name ~ '^n[1-3]$'"
                    ).fetchall()
            except psycopg.Error:
                return None
            # Patroni must know of the synchronous one, too: it promotes no other.
            known = any(n.ask("/synchronous") == 200 for n in self.nodes)
            return leader if len(rows) == 2 and known else None

        found: Node = until(
            ready, seconds, "a leader and two replicas:\n" + "\n".join(n.log[-800:] for n in self.nodes)
        )
        return found

    def switch_over(self) -> None:
        leader = self.leader()
        assert leader is not None
        connection = http.client.HTTPConnection("127.0.0.1", leader.rest, timeout=30)
        connection.request(
            "POST", "/switchover", json.dumps({"leader": leader.name}), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == 200, text


def _configuration(node: Node, nodes: list[Node], bin_dir: Path) -> dict[str, object]:
    users = {
        "superuser": {"username": "postgres"},
        "replication": {"username": "replicator"},
        "rewind": {"username": "postgres"},
    }
    return {
        "scope": "turbo",
        "name": node.name,
        "log": {"level": "INFO"},
        "restapi": {"listen": f"127.0.0.1:{node.rest}", "connect_address": f"127.0.0.1:{node.rest}"},
        "raft": {
            "data_dir": str(node.home / "raft"),
            "self_addr": f"127.0.0.1:{node.raft}",
            "partner_addrs": [f"127.0.0.1:{n.raft}" for n in nodes if n is not node],
        },
        "bootstrap": {
            "dcs": {
                "ttl": TTL_SECONDS,
                "loop_wait": 1,
                "retry_timeout": 3,
                "synchronous_mode": True,
                "postgresql": {
                    "use_pg_rewind": True,
                    "remove_data_directory_on_diverged_timelines": True,
                    "remove_data_directory_on_rewind_failure": True,
                    "parameters": {"max_connections": 200, "unix_socket_directories": "", "wal_keep_size": "128MB"},
                },
            },
            "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, {"auth": "trust"}, {"username": "postgres"}],
        },
        "postgresql": {
            "listen": f"127.0.0.1:{node.port}",
            "connect_address": f"127.0.0.1:{node.port}",
            "data_dir": str(node.home / "data"),
            "bin_dir": str(bin_dir),
            "pgpass": str(node.home / "pgpass"),
            "authentication": users,
            "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
        },
    }


_DIE_WITH_PARENT = """read -r _; for d in "$@"; do
  kill -9 $(cat "$d/patroni.pid") $(head -1 "$d/data/postmaster.pid"); done"""
"""The pids are in the nodes' own directories, which a cluster that ended as it should has removed."""


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Three nodes, whole; gone with the block, or with this process, however that ends."""
    patroni = program()
    bin_dir = embedded.binaries(18)
    root = Path(tempfile.mkdtemp(prefix="turbo-patroni-", dir=place()))
    root.chmod(0o755)
    nodes = []
    for name in ("n1", "n2", "n3"):
        home = root / name
        home.mkdir(mode=0o755)
        nodes.append(Node(name, home, embedded.free_port(), embedded.free_port(), embedded.free_port()))
    for node in nodes:
        (node.home / "patroni.yml").write_text(yaml.safe_dump(_configuration(node, nodes, bin_dir)))
        if os.geteuid() == 0:
            user = pwd.getpwnam(embedded.SERVER_USER)
            os.chown(node.home, user.pw_uid, user.pw_gid)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "PATRONI"))}
    one = Cluster(nodes, patroni, environment={**kept, "LC_ALL": "C", "HOME": str(root)})
    began = time.monotonic()
    guard = subprocess.Popen(
        ["/bin/sh", "-c", _DIE_WITH_PARENT, "guard", *(str(n.home) for n in nodes)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
    )  # fmt: skip
    try:
        for node in nodes:
            one.start(node)
        one.whole()
        one.up_seconds = time.monotonic() - began
        yield one
    finally:
        for node in nodes:
            node.signal(signal.SIGKILL)
        shutil.rmtree(root, ignore_errors=True)
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait(timeout=30)
