"""What other processes can read of this one: its environment and its arguments, without secrets.

    the kernel's block of strings ──values overwritten with stars──▶ /proc/PID/environ, `ps -E`: names only
             └── each value set again ──▶ the heap: os.environ, getenv (libpq) and a reload find it as before

Every program that a worker starts may read the block of the worker: it runs as the same user. Deleting a variable does not
change the block. Every variable is overwritten that is not known to be harmless, because worker.yaml may take a secret from a
variable of any name. The memory itself stays readable for a debugger of the same user, where the system allows that.
"""

import ctypes
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from turbo.process.environment import INHERITED

STAR = b"*"

_SEEN = frozenset(
    {*INHERITED, "TURBO_RUN", "TURBO_CONFIG", "TURBO_FLEET", "TURBO_DEBUG", "VIRTUAL_ENV", "PWD", "LOGNAME"}
)
_SEEN_PREFIXES = ("LC_", "PYTHON", "XDG_", "LD_", "DYLD_")
"""What people and `turbo doctor` look for in a worker's environment, and what the loader may read again."""

_HARMLESS = frozenset(
    {"host", "hostaddr", "port", "dbname", "user", "service", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey",
     "application_name", "connect_timeout", "target_session_attrs", "options"}
)  # fmt: skip
"""Keywords of libpq without secrets. Its versions differ in those that have some."""

_SUSPICIOUS = re.compile(r"[=\s]|://")

_ARGUMENTS, _ENVIRONMENT = 45, 47
"""Fields of /proc/self/stat after the name: arg_start and env_start, each followed by its end."""


def conceal_environment() -> None:
    """Overwrite the values in this process's block. Call it before there are threads: no variable is set for a moment."""
    hidden = {name: value for name, value in os.environb.items() if name and not _may_be_seen(os.fsdecode(name))}
    strings = list(_block(_ENVIRONMENT, "_NSGetEnviron"))
    try:
        for name in hidden:  # BSD's setenv would write the value into the block again
            del os.environb[name]
        for address, text in strings:
            name, equals, value = text.partition(b"=")
            if equals and not _may_be_seen(os.fsdecode(name)):
                ctypes.memset(address + len(name) + 1, ord(STAR), len(value))
    finally:
        os.environb.update(hidden)


def conceal_option(option: str, arguments: Sequence[str]) -> None:
    """Overwrite the DSNs of `--option value` and `--option=value` in the process list, unless they clearly hold no secret."""
    values = {os.fsencode(value) for value in _values(option, arguments) if not _is_harmless(value)}
    if not values:
        return
    for address, text in _block(_ARGUMENTS, "_NSGetArgv"):
        for value in values:
            if text in (value, os.fsencode(option) + b"=" + value):
                ctypes.memset(address + len(text) - len(value), ord(STAR), len(value))


def showing(secrets: Iterable[str]) -> list[tuple[int, str]]:
    """The processes above this one whose arguments hold one of these texts, with their names: `sudo` and a shell live as long as what
    they started, and only they could overwrite their own."""
    import psutil

    wanted = [secret for secret in secrets if secret]
    found = []
    with suppress(psutil.Error):
        for process in psutil.Process().parents() if wanted else ():
            with suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if any(secret in line for secret in wanted):
                    found.append((process.pid, process.name()))
    return found


def _is_harmless(dsn: str) -> bool:
    """Whether it can be read, and has nothing but keywords that say where and how to connect. A value with an equals sign, a
    blank or a URI in it may be a password behind a quote that slipped."""
    from psycopg import ProgrammingError, conninfo

    try:
        given = conninfo.conninfo_to_dict(dsn)
        return (
            "@" not in dsn and given.keys() <= _HARMLESS and not any(_SUSPICIOUS.search(str(v)) for v in given.values())
        )
    except ProgrammingError:
        return False


def concealed(value: str) -> bool:
    """Whether a value of another process's environment was overwritten."""
    return bool(value) and not value.strip(STAR.decode())


def _may_be_seen(name: str) -> bool:
    return name in _SEEN or name.startswith(_SEEN_PREFIXES)


def _values(option: str, arguments: Sequence[str]) -> Iterable[str]:
    for position, word in enumerate(arguments):
        if word == option and position + 1 < len(arguments):
            yield arguments[position + 1]
        elif word.startswith(f"{option}="):
            yield word.removeprefix(f"{option}=")


def _block(field: int, apple: str) -> Iterator[tuple[int, bytes]]:
    """The strings that the kernel gave this process at its start, with their addresses; none where they are not known."""
    if sys.platform == "darwin":
        find = getattr(ctypes.CDLL(None), apple)
        find.restype = ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p))
        strings = find().contents
        position = 0
        while address := strings[position]:
            yield address, ctypes.string_at(address)
            position += 1
    elif sys.platform == "linux":
        try:
            line = Path("/proc/self/stat").read_bytes()
        except OSError:  # then nobody reads the block there either
            return
        start, end = (int(number) for number in line[line.rindex(b")") + 2 :].split()[field : field + 2])
        if start == 0:
            return
        address = start
        for text in ctypes.string_at(start, end - start).split(b"\0"):
            yield address, text
            address += len(text) + 1
