"""The environment of a program: an allow-list from the worker, then what the executor, the account and the task add.

    HOME, PATH, LANG, … of the worker  ◀  `env` of the executor  ◀  the account's env file  ◀  TURBO_TASK_ID, …
                                    (each may replace what is to its left)

With `run_as`, HOME, USER and SHELL are that user's, and the worker's TMPDIR is left out. Empty and relative entries of PATH
are left out: they would count from the directory of the task, which a row may choose.

The worker's own secrets are not on the list. TURBO_DSN and PG* never reach a program; naming one in `env` or an env
file is a configuration error. Secrets belong in an env file, which must have mode 0600. It is read again whenever it
has changed, and no message shows a value from it.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from turbo.domain.redaction import secrets_in
from turbo.domain.task import Task
from turbo.process.identity import Identity

INHERITED = ("HOME", "PATH", "LANG", "TMPDIR", "TERM", "TZ", "USER", "SHELL")
INHERITED_PREFIX = "LC_"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def absolute_path(path: str) -> str:
    """A PATH without its empty and relative entries. An empty PATH would mean the current directory, too."""
    return os.pathsep.join(entry for entry in path.split(os.pathsep) if entry.startswith("/")) or os.defpath


class EnvironmentRefused(ValueError):
    """An `env` section or env file that cannot be used. The message names the place and the remedy."""


ENV_FILE_BYTES = 1024 * 1024
"""More than an environment can hold."""


class EnvFile:
    """A file of KEY=VALUE lines with secrets, read again whenever it has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        self._seen: tuple[int, ...] | None = None
        self._values: dict[str, str] = {}

    def values(self) -> Mapping[str, str]:
        """The current variables. Raises EnvironmentRefused, also if the file was usable before."""
        try:
            # Non-blocking, because opening a FIFO would wait for its writer.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise EnvironmentRefused(f"env_file {self.path}: cannot be read: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            seen = (state.st_ino, state.st_dev, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
            if seen != self._seen:
                self._check(state)
                self._values = parse_env(file.read(ENV_FILE_BYTES), str(self.path))
                self._seen = seen
        return self._values

    def _check(self, state: os.stat_result) -> None:
        if not stat.S_ISREG(state.st_mode):
            raise EnvironmentRefused(f"env_file {self.path}: is not a regular file")
        if state.st_size > ENV_FILE_BYTES:
            raise EnvironmentRefused(f"env_file {self.path}: is larger than {ENV_FILE_BYTES} bytes")
        if state.st_uid != os.geteuid():
            raise EnvironmentRefused(
                f"env_file {self.path}: belongs to user {state.st_uid}, but the worker runs as user {os.geteuid()}: chown it"
            )
        if state.st_mode & 0o077:
            mode = stat.S_IMODE(state.st_mode)
            raise EnvironmentRefused(
                f"env_file {self.path}: mode {mode:04o} lets other users read its secrets: run chmod 600 {self.path}"
            )


def parse_env(content: bytes, where: str) -> dict[str, str]:
    """KEY=VALUE lines, with `#` comments, blank lines and an optional `export`. The last of equal keys wins.

    'single quotes' keep everything. "double quotes" know \\n, \\t, \\r, and a backslash before any other character.
    Without quotes the value ends at ` #` or at the end of the line. Nothing is expanded: `$` is a dollar sign. Raises
    EnvironmentRefused with `where` and the line number, but never the content.
    """
    values = {}
    text = content.decode("utf-8-sig", "surrogateescape")
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.removeprefix("export ").partition("=")
        key = key.strip()
        if not equals or not _NAME.fullmatch(key):
            raise EnvironmentRefused(f"{where}, line {number}: expected KEY=VALUE")
        if "\0" in value:
            raise EnvironmentRefused(f"{where}, line {number}: the value of {key} contains a NUL character")
        values[key] = _value(value.strip(), f"{where}, line {number}: the value of {key}")
    return values


def _value(text: str, where: str) -> str:
    quote = text[:1]
    if quote not in ("'", '"'):
        return re.split(r"(?:^|\s)#", text, maxsplit=1)[0].rstrip()
    body = r"[^']*" if quote == "'" else r'(?:[^"\\]|\\.)*'
    match = re.fullmatch(rf"{quote}({body}){quote}\s*(?:#.*)?", text)
    if match is None:
        raise EnvironmentRefused(f"{where} has a quote that is not closed, or text after it (one value is one line)")
    if quote == "'":
        return match[1]
    return _ESCAPED.sub(lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), match[1])


class ChildEnvironment:
    """Builds the environment for one executor's programs. Raises EnvironmentRefused for a forbidden variable.

    `owner` is the executor's name, for messages. `run_as`: whose HOME and name the programs get.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        env_file: EnvFile | None = None,
        *,
        owner: str = "executor",
        run_as: Identity | None = None,
    ) -> None:
        self._run_as = run_as
        self._env = dict(env)
        self._file = env_file
        where = f"env of executor {owner}"
        for name, value in self._env.items():
            if not _NAME.fullmatch(name):
                raise EnvironmentRefused(f"{where}: {name!r} is not a valid name of an environment variable")
            if "\0" in value:
                raise EnvironmentRefused(f"{where}: the value of {name} contains a NUL character")
        _refuse_database_variables(self._env, where)
        self._from_file()

    def for_task(self, task: Task) -> dict[str, str]:
        """The whole environment of a program for this task. Raises EnvironmentRefused if the env file is unusable."""
        environment = {
            name: value for name, value in os.environ.items() if name in INHERITED or name.startswith(INHERITED_PREFIX)
        }
        if self._run_as is not None:
            environment = self._run_as.own(environment)
        environment |= self._env
        environment |= self._from_file()
        if "PATH" in environment:
            environment["PATH"] = absolute_path(environment["PATH"])
        environment["TURBO_TASK_ID"] = task.task_id
        environment["TURBO_TASK_TYPE"] = task.task_type
        environment["TURBO_ATTEMPT"] = str(task.attempt)
        if task.traceparent is not None:
            environment["TRACEPARENT"] = task.traceparent
        return environment

    def secrets(self) -> tuple[str, ...]:
        """What a program gets that nobody else is to read: all values of the env file, and of `env` those with a name that says so.
        Raises EnvironmentRefused if the env file is unusable."""
        return (*self._from_file().values(), *secrets_in(self._env))

    def _from_file(self) -> Mapping[str, str]:
        if self._file is None:
            return {}
        values = self._file.values()
        _refuse_database_variables(values, f"env_file {self._file.path}")
        return values


def _refuse_database_variables(values: Mapping[str, str], where: str) -> None:
    for name in values:
        if name in ("TURBO_DSN", "TURBO_LISTEN_DSN") or name.startswith("PG"):
            raise EnvironmentRefused(
                f"{where}: {name} gives access to turbo's own database, which programs must not have: remove it"
            )
