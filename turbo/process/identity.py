"""As whom programs run: as the worker's own user, or as another one that the operator names (`run_as`).

    run_as: agents ──the worker is root──▶ setgroups, setgid, setuid between fork and exec
             └── it is not ──▶ sudo -n -u agents -- env -i sh …     (sudo stays, as the parent of the program)

Everything that touches the files of such a run happens as that user: the program, and the small scripts of `Identity.script`
that make and remove its directories. The worker never follows a path that an agent could have swapped.

The kernel lets a worker that is not root neither signal another user's processes nor read their environment. `Powers` is
the one place that knows this: a process tree is found and signalled through it.
"""

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from turbo.process import table as process_table

SCRIPT_SECONDS = 20.0
"""For sudo and a script of a few commands; a directory user service that does not answer must not hold up a worker for ever."""

FOREIGN = ".run_as.json"
"""In a task's directory: whose directory was used in its place, and where that is."""

_SUDO_PATH = os.pathsep.join(("/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin"))
_BARE = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"}


class IdentityRefused(ValueError):
    """A `run_as` that this worker cannot honour. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user other than the worker's. `groups`: the supplementary ones, as at a login. `by_sudo`: the worker is not root."""

    user: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: Path
    shell: str
    by_sudo: bool

    def popen(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, **arguments: Any
    ) -> "subprocess.Popen[bytes]":
        """Start a command as this user, in `/`, with a bare environment. Raises OSError."""
        if self.by_sudo:
            # sudo makes an environment of its own; `env` makes it ours.
            bare = [f"{name}={value}" for name, value in (_BARE if env is None else env).items()]
            command = [*_sudo(self.user), "/usr/bin/env", "-i", *bare, *command]
        else:
            arguments |= {"user": self.uid, "group": self.gid, "extra_groups": list(self.groups)}
        return subprocess.Popen(command, env=_BARE if env is None else env, cwd="/", **arguments)

    def own(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The variables of the worker's that name its user, replaced; its TMPDIR is left out."""
        mine = {name: value for name, value in environment.items() if name != "TMPDIR"}
        return mine | {"HOME": str(self.home), "USER": self.user, "LOGNAME": self.user, "SHELL": self.shell}

    def place(self, path: Path) -> Path:
        """Where this user's runs have what others have at `path` in the state directory, which this user cannot enter."""
        return self.home / place_below_home(path)

    def script(self, text: str, *arguments: str | Path) -> "subprocess.CompletedProcess[bytes]":
        """Run a shell script as this user. Blocks, for a few milliseconds. Raises OSError, also if it takes too long."""
        command = ["/bin/sh", "-c", text, "turbo", *map(str, arguments)]
        with self.popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            try:
                stdout, stderr = process.communicate(timeout=SCRIPT_SECONDS)
            except subprocess.TimeoutExpired:
                powers_over(self.user if self.by_sudo else "").signal([-process.pid], signal.SIGKILL)
                process.kill()
                raise OSError(f"a script as user {self.user} took longer than {SCRIPT_SECONDS:g} s") from None
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def run(self, text: str, *arguments: str | Path) -> str:
        """The output of a script that must succeed. Raises OSError with its message."""
        result = self.script(text, *arguments)
        if result.returncode != 0:
            raise OSError(f"as user {self.user}: {_last_line(result.stderr) or f'exit code {result.returncode}'}")
        return result.stdout.decode("utf-8", "surrogateescape")

    def make_directory(self, path: Path) -> None:
        """Create it with its parents, all closed to other users, and mark it as used now. Raises OSError."""
        self.run('umask 077; mkdir -p -- "$1" && touch -- "$1"', path)

    def remove(self, path: Path) -> None:
        """Remove a directory with everything in it. Links are not followed. Raises OSError if something is left."""
        self.run('[ -d "$1" ] && [ ! -L "$1" ] && chmod -R u+rwX -- "$1" 2>/dev/null; rm -rf -- "$1"', path)

    def require_home(self, otherwise: str = "") -> None:
        """Refuse a user without a home directory, in which its tasks' directories would be. `otherwise`: how to do without one.
        Raises IdentityRefused."""
        try:
            result = self.script('cd -- "$1" && [ -w . ]', self.home)
        except OSError as error:
            raise IdentityRefused(f"run_as: {error}") from None
        if result.returncode != 0:
            raise IdentityRefused(
                f"run_as: {self.user} has no home directory that it can write to ({self.home}), for its tasks' directories and "
                f"sessions: create one (useradd --create-home){otherwise}"
            )

    def require_readable(self, file: Path, key: str) -> None:
        """Refuse a file, named by a key of the configuration, that this user cannot read. Raises IdentityRefused."""
        try:
            result = self.script('[ -r "$1" ] && [ ! -d "$1" ]', file)
        except OSError as error:
            raise IdentityRefused(f"run_as: {error}") from None
        if result.returncode != 0:
            raise IdentityRefused(
                f"run_as: {self.user} cannot read {file} ({key}), and its git would go on without it: let that user read the "
                "file and enter its directories, or name another"
            )

    def scratch(self) -> Path:
        """A new empty directory. To be removed with `remove`. Raises OSError."""
        return Path(self.run("umask 077; mktemp -d /tmp/turbo-XXXXXXXX").strip())

    def obstacle(self, program: str, path: str | None, cwd: Path | None) -> str | None:
        """Why this user could not start a program in a directory, or None. Starts a process; raises OSError."""
        text = 'cd -- "$1" || exit 1; PATH=$2; command -v -- "$3" >/dev/null && exit 0; exit 2'
        result = self.script(text, cwd or self.home, path or os.defpath, program)
        match result.returncode:
            case 0:
                return None
            case 2:
                return f"user {self.user} cannot run {program}: not found, or not executable, on the PATH {path}"
            case _:
                return f"user {self.user} cannot enter {cwd or self.home}: {_last_line(result.stderr)}"


def place_below_home(path: Path) -> Path:
    """Where, below the home of any user, `Identity.place` is. The digest keeps state directories apart, however they are spelled."""
    parent = Path(os.path.realpath(path.parent))
    digest = hashlib.sha256(os.fsencode(parent)).hexdigest()[:8]
    return Path(".turbo") / f"{parent.name}-{digest}" / path.name


def identity_of(user: str) -> Identity | None:
    """Whom a `run_as` names; None for the worker's own user. Checks nothing that would need a process.

    Raises IdentityRefused."""
    if user.isdigit() or user.startswith("#"):
        raise IdentityRefused(f"run_as: {user} is a number: write the user's name")
    try:
        entry = pwd.getpwnam(user)
    except (KeyError, ValueError):
        raise IdentityRefused(
            f"run_as: this host has no user {user!r}: create it (useradd --create-home {user}), or correct the name"
        ) from None
    if entry.pw_uid == 0:
        raise IdentityRefused(f"run_as: {user} is root, who may do everything: name a user that can do little")
    if entry.pw_uid == os.geteuid():
        return None
    groups = tuple(os.getgrouplist(user, entry.pw_gid))
    if 0 in groups:
        raise IdentityRefused(f"run_as: {user} is in the group of root (gid 0): take it out of that group")
    return Identity(
        user, entry.pw_uid, entry.pw_gid, groups, Path(entry.pw_dir), entry.pw_shell, by_sudo=os.geteuid() != 0
    )


def checked_identity(user: str) -> Identity | None:
    """The same, after it has been tried. Takes 20 ms with sudo. Raises IdentityRefused."""
    identity = identity_of(user)
    if identity is None:
        return None
    me = pwd.getpwuid(os.geteuid()).pw_name
    line = f"{me} ALL=({user}) NOPASSWD: ALL"
    remedy = f"run the worker as root, or add this line with visudo: {line}"
    if identity.by_sudo and _sudo(user)[0] == "sudo":
        raise IdentityRefused(f"run_as: {me} cannot start programs as {user}: there is no sudo here; {remedy}")
    if identity.by_sudo and sys.platform == "linux" and process_table.find(1) is None:
        raise IdentityRefused(
            f"run_as: /proc hides other users' processes from {me} (hidepid), so it could not end those of {user}: "
            "run the worker as root, or mount /proc without hidepid"
        )
    try:
        result = identity.script("id -u")
    except OSError as error:
        raise IdentityRefused(f"run_as: {me} cannot start programs as {user}: {error}; {remedy}") from None
    if result.returncode != 0 or result.stdout.strip() != str(identity.uid).encode():
        why = _last_line(result.stderr) or f"exit code {result.returncode}"
        raise IdentityRefused(f"run_as: {me} cannot start programs as {user}: {why}; {remedy}")
    return identity


# ── finding and signalling processes ────────────────────────────────────────────────────────────────────────────────


class Powers(Protocol):
    """How the processes of a run are found and signalled."""

    def with_cookie(self, pids: Iterable[int], cookie: str) -> set[int]:
        """Those that were started with this cookie in their environment. Raises OSError if that cannot be found out."""
        ...

    def signal(self, pids: Sequence[int], number: signal.Signals) -> None:
        """Signal processes, and the group of a negative one. Whoever has ended is passed over."""
        ...


class OwnPowers:
    """Those of this process: enough for its own user's processes, and for root."""

    def with_cookie(self, pids: Iterable[int], cookie: str) -> set[int]:
        return {pid for pid in pids if process_table.has_cookie(pid, cookie)}

    def signal(self, pids: Sequence[int], number: signal.Signals) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                # It has ended, or belongs to another user (a sudo in an agent), who alone can end it.
                continue


class SudoPowers:
    """Those of this process and of another user together. sudo itself answers to the user who called it."""

    def __init__(self, user: str) -> None:
        # By name alone: a directory service that does not answer now must not keep a program from being ended.
        self._identity = Identity(user, -1, -1, (), Path("/"), "", by_sudo=True)
        self._own = OwnPowers()

    def with_cookie(self, pids: Iterable[int], cookie: str) -> set[int]:
        known = set(pids)
        if not known or not cookie.isalnum():
            return set()
        found = {int(word) for word in self._identity.run(_FIND, cookie).split() if word.isascii() and word.isdigit()}
        return self._own.with_cookie(known - found, cookie) | (known & found)

    def signal(self, pids: Sequence[int], number: signal.Signals) -> None:
        try:
            # The shell's kill goes on after a pid that it may not signal. sudo goes last: it takes its child's end for news.
            self._identity.script('signal=$1; shift; kill -s "$signal" -- "$@"', number.name[3:], *map(str, pids))
        finally:
            self._own.signal(pids, number)


if sys.platform == "linux":
    _FIND = """
grep -lzsE -- "^TURBO_RUN=(.*:)?$1(:|$)" /proc/[0-9]*/environ | while IFS=/ read -r _ _ pid _; do echo "$pid"; done
"""
else:  # written from documentation, not run
    _FIND = """
ps -axEww -o pid= -o command= | while read -r pid rest; do
    case " $rest " in *" TURBO_RUN=$1 "* | *" TURBO_RUN="*":$1"[:\\ ]*) echo "$pid" ;; esac
done
"""


def powers_over(user: str) -> Powers:
    """`user`: whom sudo is needed for; empty if the process's own powers do."""
    return OwnPowers() if not user or os.geteuid() == 0 else SudoPowers(user)


def _sudo(user: str) -> list[str]:
    return [shutil.which("sudo", path=_SUDO_PATH) or "sudo", "-n", "-u", user, "--"]


def _last_line(text: bytes) -> str:
    return next(reversed(text.decode("utf-8", "replace").strip().splitlines()), "")
