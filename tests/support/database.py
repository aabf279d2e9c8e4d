"""The tests' PostgreSQL: one server for each run, one database for each test, copied from a migrated template. A server for one
test alone starts from a copy of one migrated cluster.

TURBO_TEST_DSN names a server to use as it is. TURBO_TEST_DB=container starts one with testcontainers. Otherwise the
embedded server runs and ends with the test run: TURBO_TEST_PG=16 or 18 chooses the wheel's version,
TURBO_TEST_PG=debian the system's PostgreSQL 15, and TURBO_TEST_PG=/usr/lib/postgresql/14/bin the programs there.
"""

import contextlib
import functools
import multiprocessing.connection
import os
import shutil
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from psycopg import conninfo

from tests.support.requirements import require
from turbo import embedded
from turbo.migrate import migrate

DEBIAN = Path("/usr/lib/postgresql/15/bin")

ADDRESS = "TURBO_TEST_SERVER"
"""The variable that names the socket where the run's controller answers. Without it, a process has no run that it belongs to."""


UNSYNCED = {"fsync": "off"}
"""The disk is not waited for: DROP DATABASE syncs every file of the server, 0.3 to 0.9 s a test. A killed server loses nothing
by it that it would not lose anyway: what it had written is in the page cache."""


MEMORY, ENOUGH = Path("/dev/shm"), 4 << 30
"""Where the servers have their files if so many bytes are free there: ext4 takes its time to find an inode for a new file while
many have just been deleted, which is what databases that come and go do. It was a tenth of all that a run computed."""


OPEN = {"trust": True}
"""No password: it would cost every session 10 ms of hashing. tests/integration/test_embedded.py has servers as users have them."""


def embedded_arguments() -> dict[str, object]:
    """The version that TURBO_TEST_PG asks for, as arguments of `embedded.temporary`."""
    chosen = os.environ.get("TURBO_TEST_PG", "18")
    if chosen.isdigit():
        return {"version": int(chosen), **OPEN}
    programs = DEBIAN if chosen == "debian" else Path(chosen)
    require(str(programs / "postgres"))
    return {"bin_dir": programs, **OPEN}


@contextlib.contextmanager
def _container() -> Iterator[str]:
    try:
        from testcontainers.community.postgres import PostgresContainer
    except ImportError:
        from testcontainers.postgres import PostgresContainer
    with PostgresContainer("postgres:16", driver=None) as container:
        yield container.get_connection_url()


@contextlib.contextmanager
def _server() -> Iterator[str]:
    if given := os.environ.get("TURBO_TEST_DSN"):
        yield given
    elif os.environ.get("TURBO_TEST_DB") == "container":
        with _container() as dsn:
            yield dsn
    else:
        settings = {"max_prepared_transactions": "10", "synchronous_commit": "on", **UNSYNCED}
        with embedded.temporary(settings=settings, parent=place(), **embedded_arguments()) as server:  # type: ignore[arg-type]
            yield server.dsn


@dataclass(frozen=True)
class TestServer:
    """A running server, and the name of a migrated database to copy."""

    __test__ = False
    dsn: str
    template: str

    def database(self, name: str) -> str:
        return conninfo.make_conninfo(self.dsn, dbname=name)


class SharedServer:
    """The run's one server, and the cluster that others are copied from. Each is made when a test first asks for it.

        server() in a test ──▶ connect to the controller; it starts the server once, and answers with DSN and template
        cluster()          ──▶ …; it makes the cluster once, and answers with its directory

    The controller owns them: a worker that has run out of tests must not take the server away from the others.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._made: dict[str, object] = {}

    def offer(self) -> None:
        """From now on this process and its children find it through their environment."""
        directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="turbo-tests-"))
        listener = multiprocessing.connection.Listener(f"{directory}/server", "AF_UNIX", backlog=64)
        self._stack.callback(listener.close)
        os.environ[ADDRESS] = str(listener.address)
        threading.Thread(target=self._answer, args=[listener], daemon=True).start()

    def close(self) -> None:
        self._stack.close()

    def _answer(self, listener: multiprocessing.connection.Listener) -> None:
        makers = {"server": _server_with_template, "cluster": _stopped_cluster}
        while True:
            try:
                connection = listener.accept()
            except OSError:  # closed
                return
            with connection:
                try:
                    what = connection.recv()
                    if what not in self._made:
                        self._made[what] = self._stack.enter_context(makers[what]())
                    connection.send(self._made[what])
                except Exception as error:
                    connection.send(repr(error))


def _ask(what: str) -> object:
    with multiprocessing.connection.Client(os.environ[ADDRESS], "AF_UNIX") as connection:
        connection.send(what)
        answer = connection.recv()
    assert not isinstance(answer, str), answer
    return answer


@functools.cache
def server() -> TestServer:
    """The run's server, from any of its processes. Starts it on first use."""
    answer = _ask("server")
    assert isinstance(answer, TestServer)
    return answer


@functools.cache
def cluster() -> Path:
    """A migrated cluster that no server runs on, to be copied. Makes it on first use."""
    answer = _ask("cluster")
    assert isinstance(answer, Path)
    return answer


@contextlib.contextmanager
def _stopped_cluster() -> Iterator[Path]:
    home = _new_home()
    try:
        made = embedded.start(home / "data", settings=UNSYNCED, **embedded_arguments())  # type: ignore[arg-type]
        with embedded.guarded(made):
            migrate(made.dsn)
            made.stop()
        yield made.data_dir
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _new_home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="turbo-pg-", dir=place()))
    home.chmod(0o755)
    return home


def place() -> Path | None:
    """For the directories of servers; None for the usual place."""
    try:
        there = os.statvfs(MEMORY)
    except OSError:
        return None
    return MEMORY if min(there.f_bavail * there.f_frsize, psutil.virtual_memory().available) >= ENOUGH else None


@contextlib.contextmanager
def _server_with_template() -> Iterator[TestServer]:
    with _server() as dsn:
        found = TestServer(dsn, f"turbo_template_{uuid.uuid4().hex[:8]}")
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(f"create database {found.template}")
        migrate(found.database(found.template))
        try:
            yield found
        finally:
            with contextlib.suppress(psycopg.Error), psycopg.connect(dsn, autocommit=True) as admin:
                admin.execute(f"drop database if exists {found.template} with (force)")


@contextlib.contextmanager
def fresh_database(template: str = "template0") -> Iterator[str]:
    """The DSN of a new database, which is dropped at the end."""
    name = f"turbo_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server().dsn, autocommit=True) as admin:
        # The files are copied: written through the WAL, which is the default since version 15, a database costs twice as much.
        how = " strategy file_copy" if admin.info.server_version >= 150_000 else ""
        admin.execute(f"create database {name} template {template}{how}")
    try:
        yield server().database(name)
    finally:
        with psycopg.connect(server().dsn, autocommit=True) as admin:
            admin.execute(f"drop database if exists {name} with (force)")


def migrated_database() -> contextlib.AbstractContextManager[str]:
    """The DSN of a new database with turbo's schema, which is dropped at the end."""
    return fresh_database(server().template)


@contextlib.contextmanager
def migrated_server(settings: Mapping[str, str] | None = None) -> Iterator[embedded.Server]:
    """A server that a test may stop, freeze and start again, with turbo's schema in its database `postgres`.

    `settings` instead of the usual ones: then it waits for the disk, as a user's server does.
    """
    if settings is None:
        settings = {"max_prepared_transactions": "10", "autovacuum": "off", **UNSYNCED}
    if ADDRESS not in os.environ:  # `python -m tests.soak` and its like
        with embedded.temporary(settings=settings, **embedded_arguments()) as server:  # type: ignore[arg-type]
            migrate(server.dsn)
            yield server
        return
    home = _new_home()
    try:
        # A tenth of what initdb and the migrations cost.
        subprocess.run(["cp", "-Rp", cluster(), home / "data"], check=True)
        started = embedded.start(home / "data", settings=settings, **embedded_arguments())  # type: ignore[arg-type]
        with embedded.guarded(started) as server:
            yield server
    finally:
        shutil.rmtree(home, ignore_errors=True)
