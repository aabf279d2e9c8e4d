"""The sandbox that the programs of an executor run in: what they may touch, made anew for each of them.

    Journal.within(sandbox) ──launch──▶ places of this run ──▶ bwrap … -- sh -c 'exec "$@"' program      (Linux)
                                                           └─▶ sandbox-exec -p PROFILE program           (macOS)

A program is held by its directory, by what its agent keeps (ProcessSpec.keeps), and by what the configuration adds. All else may be
read and not written, and what holds secrets or gives orders to programs outside is hidden. The sandbox comes with the journal, and
no program of an executor starts without one: a new kind of executor cannot forget it.

`unavailable` makes a sandbox for real. It is asked by turbo.worker.availability and by `turbo doctor`.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from turbo.host.regular_file import read_regular
from turbo.process import bubblewrap, seatbelt
from turbo.process.environment import absolute_path
from turbo.process.git_directories import OBEYED, OBEYED_OF_WORKTREE, WRITTEN_BY_COMMITS, git_directories
from turbo.process.identity import Identity
from turbo.process.places import Access, SandboxPlace, access_to, outer_first
from turbo.process.program_search import search

CHECK_SECONDS = 60.0
PROBE_SECONDS = 10.0

OF_EVERY_HOME = (
    ".ssh", ".gnupg", ".password-store", ".netrc", ".git-credentials", ".config/git/credentials", ".config/gh", ".config/hub",
    ".pgpass", ".pg_service.conf", ".psql_history", ".my.cnf",
    ".aws", ".azure", ".config/gcloud", ".kube", ".docker", ".config/containers", ".terraform.d", ".vault-token", ".config/op",
    ".npmrc", ".pypirc", ".config/pip", ".cargo/credentials", ".cargo/credentials.toml", ".gem/credentials",
    ".bash_history", ".zsh_history", ".python_history", ".local/share/keyrings", ".mozilla", ".config/google-chrome",
    ".config/chromium", "Library/Keychains", "Library/Cookies", "Library/Application Support",
    ".claude", ".claude.json", ".codex", ".copilot", ".config/github-copilot", ".gemini", ".qwen",
    ".config/opencode", ".local/share/opencode", ".config/turbo", ".local/share/turbo", ".turbo",
)  # fmt: skip
"""Below a home: logins, histories, and what agents keep. An agent's own comes back with ProcessSpec.keeps."""

OF_THE_HOST = ("/run", "/var/run", "/etc/shadow", "/etc/gshadow", "/var/lib/docker", "/var/spool/cron")
"""Sockets (a database, Docker, a user's systemd) obey whoever can reach them, whatever may be written."""

SHOWN = ("/run/current-system", "/run/wrappers", "/run/opengl-driver")
"""Where NixOS has its programs."""

TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108
"""Others keep sockets there (tmux, an ssh agent), so each program gets its own."""


_BY_SUDO = (
    "a sandbox and run_as together need a worker that is root: one that uses sudo cannot see the files that it would protect. "
    "Run the worker as root, or remove one of them"
)
_DENIED = re.compile(r"namespace|uid map|default-signal|Operation not permitted")
_CONFIG_BYTES = 1024 * 1024


class CannotEnclose(Exception):
    """A program cannot be put into its sandbox. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class SandboxRules:
    """What the configuration says. All paths are absolute.

    `secrets`: the worker's own, which nothing opens. `working`: below these, which may be among the secrets, runs have their own
    directories. `hidden` and `read` are for programs of this executor; `read` opens what is hidden by default.
    """

    write: tuple[Path, ...] = ()
    read: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    secrets: tuple[Path, ...] = ()
    working: tuple[Path, ...] = ()
    network: bool = False
    required: bool = True


@dataclass(frozen=True, slots=True)
class Enclosure:
    """One run's, or none. `before`: what stands before the program. `again`: makes the same sandbox around nothing; what bwrap says
    then is no word of the program's. Where it is given, bwrap stays as the program's parent, and has to outlive TERM."""

    before: tuple[str, ...] = ()
    again: Callable[[], str | None] | None = None


@dataclass(slots=True)
class Trials:
    """What was found out about this host, by user and network: whether a sandbox can be made. Shared by the sandboxes of a worker."""

    known: dict[tuple[str, bool], tuple[float, str | None]] = field(default_factory=dict)

    def forget(self) -> None:
        """Something may have changed: the next question makes a sandbox again."""
        self.known.clear()


class Sandbox:
    """Of one executor. `user`: as whom its programs run; None: this process's."""

    def __init__(self, rules: SandboxRules, user: Identity | None = None, trials: Trials | None = None) -> None:
        self.rules = rules
        self._user = user
        self._homes = {Path(os.path.expanduser("~")), *({user.home} if user is not None else ())}  # noqa: PTH111
        self.trials = Trials() if trials is None else trials

    def encloses(self) -> bool:
        """Whether the next program gets it: where it is not required, only if it can be made here."""
        return self.rules.required or self.unavailable() is None

    def unavailable(self) -> str | None:
        """Why no sandbox can be made here, and what to do; None: one was made. Takes 30 ms, once a minute."""
        if absent := [str(path) for path in self.rules.write if not path.exists()]:
            return f"sandbox.write names {', '.join(absent)}, which is not there: create it, or correct the name"
        key = ("" if self._user is None else self._user.user, self.rules.network)
        known = self.trials.known.get(key)
        if known is None or time.monotonic() - known[0] >= CHECK_SECONDS - 1:
            known = self.trials.known[key] = (time.monotonic(), self._tried())
        return known[1]

    def version(self) -> str:
        """What makes it, for people."""
        if sys.platform == "darwin":
            return seatbelt.NAME
        with tempfile.TemporaryFile() as out:
            subprocess.run([self._program(), "--version"], stdout=out, stderr=subprocess.DEVNULL, check=False)
            out.seek(0)
            return out.read(100).decode("utf-8", "replace").strip() or bubblewrap.NAME

    def enclose(
        self, program: str, *, env: Mapping[str, str], cwd: Path, keeps: Iterable[Path] = (), name: str = "turbo"
    ) -> Enclosure:
        """How one program is started. `program`: its path, or a name that is looked up inside. `name`: the $0 of the shell that
        executes it. Raises CannotEnclose."""
        if self._user is not None and self._user.by_sudo:
            raise CannotEnclose(_BY_SUDO)
        access, made = self._access(program, env, cwd, keeps)
        places = self._reached(outer_first(access, made))
        real = Path(os.path.realpath(cwd))
        if sys.platform == "darwin":
            text = seatbelt.profile(places, network=self.rules.network)
            return Enclosure((seatbelt.PROGRAM, "-p", text))
        root = os.geteuid() == 0 and self._user is None
        words = bubblewrap.arguments(places, cwd=real, network=self.rules.network, root=root)
        inner = (*bubblewrap.INNER, 'unset PWD OLDPWD SHLVL; exec "$@"', name)
        before = (self._program(), *words)
        return Enclosure((*before, *inner), lambda: self._made((*before, *bubblewrap.INNER, "exit 0")))

    def _access(
        self, program: str, env: Mapping[str, str], cwd: Path, keeps: Iterable[Path]
    ) -> tuple[dict[Path, Access], list[Path]]:
        """What may be done where, and which hidden directories are to be made."""
        rules = self.rules
        own = Path(os.path.realpath(cwd))
        found: dict[Path, Access] = {}

        def put(access: Access, paths: Iterable[str | Path]) -> None:
            for path in paths:
                found[Path(os.path.realpath(path))] = access

        homes = {*self._homes, *({Path(env["HOME"])} if env.get("HOME", "").startswith("/") else ())}
        temporary = {path for path in (os.environ.get("TMPDIR"), env.get("TMPDIR")) if path and path.startswith("/")}
        put(Access.FRESH, (*sorted(temporary - {"/", *map(str, homes)}), *TEMPORARY))
        put(Access.HIDDEN, OF_THE_HOST)
        put(Access.READ, SHOWN)
        if rules.network:
            put(Access.READ, ["/etc/resolv.conf"])  # a link into /run
        put(Access.HIDDEN, (home / name for home in homes for name in OF_EVERY_HOME))
        put(Access.HIDDEN, rules.hidden)
        put(Access.READ, rules.read)
        put(Access.WRITE, rules.write)
        put(Access.HIDDEN, rules.secrets)
        self._refuse(own, found)
        put(Access.WRITE, [own])
        for path in self._kept(keeps):
            found[path] = Access.READ if path.is_file() else Access.WRITE
        private = any(own.is_relative_to(path) for path in self._working())
        made = _put_git(own, found, private=private)
        for root in rules.write:
            made += _put_git(Path(os.path.realpath(root)), found, private=False)
        if program.startswith("/") and access_to(Path(program), found) in (Access.HIDDEN, Access.FRESH):
            put(Access.READ, [program])
        if Path("/") in found:
            raise CannotEnclose("its sandbox would let it write to all of /: name the directories instead")
        return found, made

    def _refuse(self, own: Path, found: Mapping[Path, Access]) -> None:
        """A row may have chosen the directory: it never opens what is hidden."""
        if any(own.is_relative_to(path) and own != path for path in self._working()):
            return
        if access_to(own, found) is Access.HIDDEN:
            raise CannotEnclose(
                f"its working directory {own} is hidden by its sandbox: choose another, or name it in sandbox.write"
            )

    def _working(self) -> list[Path]:
        """Below which turbo gives runs directories of their own."""
        of_user = () if self._user is None else (self._user.home / ".turbo",)
        return [Path(os.path.realpath(path)) for path in (*self.rules.working, *of_user)]

    def _kept(self, keeps: Iterable[Path]) -> list[Path]:
        """Where its agent keeps its sessions and its login. A directory is made if it is not there: the agent may not write beside it.

        A file may be read only. Agents replace a file by renaming another, which no sandbox allows for a single one; and what stands
        alone is what the agent's CLI obeys, in a sandbox or not."""
        secrets = {Path(os.path.realpath(path)) for path in self.rules.secrets}
        kept = []
        for path in keeps:
            real = Path(os.path.realpath(path))
            if any(one == real or one.is_relative_to(real) for one in (*secrets, *self._homes)):
                raise CannotEnclose(
                    f"its agent keeps its sessions in {path}, which holds more than that: give it its own"
                )
            if not real.exists():
                if self._user is None:
                    real.mkdir(parents=True, exist_ok=True, mode=0o700)
                else:
                    self._user.make_directory(real)
            kept.append(real)
        return kept

    def _reached(self, places: list[SandboxPlace]) -> list[SandboxPlace]:
        """Those that the user can reach: bwrap, which is that user, fails on the others, and the program cannot get there either."""
        if self._user is None:
            return places
        paths = [str(place.path) for place in places]
        script = 'for path; do if [ -e "$path" ]; then echo 1; else echo 0; fi; done'
        try:
            found = self._user.run(script, *paths).split()
        except OSError as error:
            raise CannotEnclose(str(error)) from error
        made = (place.access is Access.HIDDEN and not os.path.exists(place.path) for place in places)  # noqa: PTH110
        return [place for place, there, new in zip(places, found, made, strict=True) if there == "1" or new]

    def _program(self) -> str:
        """Raises CannotEnclose."""
        if sys.platform == "darwin":
            return seatbelt.PROGRAM
        found = search(bubblewrap.NAME, absolute_path(os.environ.get("PATH", os.defpath)), None).program
        if found is None:
            raise CannotEnclose(
                "there is no bwrap on the worker's PATH: install bubblewrap (apt-get install bubblewrap)"
            )
        return found

    def _tried(self) -> str | None:
        if self._user is not None and self._user.by_sudo:
            return _BY_SUDO
        try:
            return self._made(self._trial())
        except CannotEnclose as error:
            return str(error)

    def _made(self, command: Sequence[str]) -> str | None:
        """Why this sandbox cannot be made, or None."""
        try:
            if self._user is not None:
                result = self._user.script('exec "$@"', *command)
            else:
                result = subprocess.run(
                    command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, check=False, cwd="/"
                )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"no sandbox can be made: {error}"
        if result.returncode == 0:
            return None
        return explained(os.fsdecode(result.stderr).strip() or f"exit code {result.returncode}")

    def _trial(self) -> Sequence[str]:
        if sys.platform == "darwin":
            return (self._program(), "-p", seatbelt.profile((), network=self.rules.network), "/usr/bin/true")
        words = bubblewrap.arguments((), cwd=Path("/"), network=self.rules.network, root=False)
        return (self._program(), *words, *bubblewrap.INNER, "exit 0")


def explained(stderr: str) -> str:
    """Why bubblewrap could not make a sandbox, and what to do about it on this host."""
    why = stderr.splitlines()[0][:300] if stderr else "no reason given"
    if not _DENIED.search(stderr):
        return f"bubblewrap cannot make a sandbox: {why}"
    if "default-signal" in stderr:
        return f"env is too old ({why}): install GNU coreutils 8.31 or later"
    if _setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        do = "allow bwrap with an AppArmor profile (docs/how-to/sandbox.md)"
    elif _setting("kernel/unprivileged_userns_clone") == "0":
        do = "set the sysctl kernel.unprivileged_userns_clone to 1"
    elif _setting("user/max_user_namespaces") == "0":
        do = "set the sysctl user.max_user_namespaces above 0"
    else:
        do = "in a container, let it create user namespaces (docs/how-to/sandbox.md)"
    return f"bubblewrap cannot make a sandbox ({why}): {do}"


def _setting(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None


def _put_git(root: Path, found: dict[Path, Access], *, private: bool) -> list[Path]:
    """Let a worktree's commits be written, and nothing that git runs or obeys. Returns the files that have to be made for that.

    Of the repository only what a commit writes to is opened, below its top: a file that is not there (`commondir`) cannot be
    protected. For the same reason a plain checkout's .git stays closed, unless the configuration opens it or the directory is
    `private`, the task's own, where nobody else runs git.
    """
    git = git_directories(root)
    if git is None:
        return []
    common, own = Path(os.path.realpath(git.common)), Path(os.path.realpath(git.own))
    if access_to(common, found) is Access.HIDDEN:
        return []
    if own == common:
        if private:
            return []
        found.setdefault(common, Access.READ)
    else:
        found[root / ".git"] = Access.READ
        found[own] = Access.WRITE
        for name in WRITTEN_BY_COMMITS:
            found[common / name] = Access.WRITE
    for name in (*OBEYED, "modules", "worktrees"):
        found.setdefault(common / name, Access.READ)
    for name in OBEYED_OF_WORKTREE:
        found.setdefault(own / name, Access.READ)
    if any((common / name).is_symlink() for name in (*OBEYED, *WRITTEN_BY_COMMITS)):
        raise CannotEnclose(f"a directory of {common} is a link, which a sandbox cannot protect: make it a directory")
    late = own / "config.worktree"
    if found[own] is Access.WRITE and not late.exists() and _reads_worktree_config(common / "config"):
        found[late] = Access.HIDDEN
        return [late]
    return []


def _reads_worktree_config(config: Path) -> bool:
    try:
        return b"worktreeconfig" in read_regular(config, _CONFIG_BYTES).lower()
    except OSError:
        return True
