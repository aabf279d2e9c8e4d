"""Where a worker's database is, and the login that its next session uses.

    an env file with TURBO_DSN, PG*, or a variable that database.dsn names
        └── a session cannot be opened, or HUP ──▶ has the file changed? ──▶ its login is used from now on

Only the login may change: user, password and client certificate. A worker never moves to another database, because its
spool would answer there (turbo.db.identity). libpq itself reads a password file, a service file and certificates at each connect.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from psycopg import conninfo

from turbo.db.dsn import UnreadableDsn, parse
from turbo.db.identity import DatabaseIdentity, ListeningServer
from turbo.process.environment import EnvFile, EnvironmentRefused

log = logging.getLogger(__name__)

LOGIN = ("user", "password", "passfile", "sslcert", "sslkey", "sslpassword")

_LOGIN_VARIABLES = {
    "PGUSER": "user", "PGPASSWORD": "password", "PGPASSFILE": "passfile", "PGSSLCERT": "sslcert", "PGSSLKEY": "sslkey"
}  # fmt: skip
_PLACE_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGSERVICE", "PGSERVICEFILE")

DsnIn = Callable[[Mapping[str, str]], str]
"""The DSN that a worker with this environment would use."""


class Address:
    """A DSN whose login follows an env file. Any thread may use it. `identity`: of the database it must lead to. `listen`: where LISTEN
    and beats go, itself unless there is a second DSN. `server`: the one that `listen` is on; None unless there is a second DSN."""

    def __init__(
        self,
        dsn: str,
        env_file: EnvFile | None = None,
        dsn_in: DsnIn | None = None,
        listen: "Address | None" = None,
    ) -> None:
        """`dsn` is what `dsn_in` gives for the file as it is now, which was put into this process's environment. `listen`: of
        database.listen_dsn; then `dsn` may lead through a pooler in transaction mode."""
        self._dsn = self._first = dsn
        self._file = env_file
        self._dsn_in = dsn_in or (lambda _environment: dsn)
        self._values = dict(env_file.values()) if env_file is not None else {}
        self._at_start = dict(self._values)
        self._lock = threading.Lock()
        self.listen = self if listen is None else listen
        self.server = None if listen is None else ListeningServer()
        self.identity: DatabaseIdentity = DatabaseIdentity() if listen is None else listen.identity
        self.password = ""
        """What its last session has logged in with, from wherever libpq had it; '' for none."""
        self._warned = ""

    @property
    def dsn(self) -> str:
        """For the next session."""
        return self._dsn

    @property
    def apart(self) -> bool:
        """Whether LISTEN and beats go another way than the rest."""
        return self.listen is not self

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that hold the login."""
        return () if self._file is None else (self._file.path.absolute(),)

    def changed_since(self, dsn: str) -> bool:
        """Whether there is another login now than in `dsn`. Reads the file if it has changed; costs 20 µs if it has not."""
        self.reload()
        return self._dsn != dsn

    def reload(self) -> str:
        """Read the file again if it has changed. Returns what came of it, for a log; logs a new login, and a problem once."""
        said = self._reload()
        if self.apart and (also := self.listen.reload()) != said:
            return f"{said}; for listen_dsn: {also}"
        return said

    def _reload(self) -> str:
        if self._file is None:
            return "no --env-file to read again"
        with self._lock:
            try:
                values = dict(self._file.values())
                if values == self._values:
                    return f"{self._file.path} has not changed"
                dsn = self._with_login_of(values)
            except (EnvironmentRefused, UnreadableDsn, ValueError) as error:
                return self._warn(
                    str(error) if isinstance(error, EnvironmentRefused) else f"{self._file.path}: {error}"
                )
            self._values = values
            self._warned = ""
            if dsn == self._dsn:
                return f"read {self._file.path} again: the login is the same"
            self._dsn = dsn
            log.info("%s has changed: sessions opened from now on use its login", self._file.path)
            return f"read {self._file.path} again"

    def _warn(self, text: str) -> str:
        if text != self._warned:
            self._warned = text
            log.warning("%s. The login that was read before is used", text)
        return text

    def _with_login_of(self, values: Mapping[str, str]) -> str:
        """The first DSN with the login that `values` give. Raises ValueError if they name another database."""
        old = parse(self._first)
        new = parse(self._dsn_in({**os.environ, **values}))
        moved = sorted(key for key in old.keys() | new.keys() if key not in LOGIN and old.get(key) != new.get(key))
        moved += [name for name in _PLACE_VARIABLES if values.get(name) != self._at_start.get(name)]
        if moved:
            raise ValueError(f"names another database ({', '.join(moved)}); restart the worker to use it")
        login = {key: value for key, value in new.items() if key in LOGIN}
        for name, key in _LOGIN_VARIABLES.items():
            # libpq reads them from the environment as it was at the start. One that has changed is passed to it instead.
            if key not in login and values.get(name) not in (None, self._at_start.get(name)):
                login[key] = values[name]
        place = {key: value for key, value in old.items() if key not in LOGIN}
        return conninfo.make_conninfo("", **place, **login)
