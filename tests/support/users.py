"""System users for tests of `run_as`, made and deleted by the tests: that needs root, useradd and, for a worker that is not
root, sudo with a drop-in of its own in /etc/sudoers.d."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from tests.support.requirements import missing, require
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class User:
    """A user with a home directory."""

    name: str
    uid: int
    gid: int
    home: Path

    def popen(
        self, command: Sequence[str | Path], environment: Mapping[str, str], output: int | IO[bytes] = subprocess.PIPE
    ) -> "subprocess.Popen[bytes]":
        """A process of this user. Where it cannot run this Python, it runs the system's."""
        if Path(command[0]) == Path(sys.executable):
            command, more = self.python(*command[1:])
            environment = {**environment, **more}
        return subprocess.Popen(
            [require("setpriv"), "--reuid", self.name, "--regid", str(self.gid), "--init-groups", *command],
            env={"PATH": os.defpath, "HOME": str(self.home), "USER": self.name, **environment},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def run(self, script: str, **environment: str) -> str:
        """What a shell script prints in its home, which must succeed."""
        process = self.popen(["/bin/sh", "-ec", f"cd; {script}"], environment)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
        return out.decode().strip()

    def write(self, name: str, text: str, mode: int = 0o700) -> Path:
        """A file in its home, which it owns."""
        path = self.home / name
        path.write_text(text)
        path.chmod(mode)
        os.chown(path, self.uid, self.gid)
        return path

    def processes(self) -> list[psutil.Process]:
        """Those that run."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.uids().real == self.uid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def may_read(self, path: str | Path) -> bool:
        return subprocess.run(["setpriv", "--reuid", self.name, "--clear-groups", "test", "-r", path]).returncode == 0

    def python(self, *arguments: str | Path) -> tuple[list[str | Path], dict[str, str]]:
        """A Python that this user can run, with arguments, and the variables it needs: this one, or else the system's."""
        if self.may_read(sys.executable):
            return [sys.executable, *arguments], {"PYTHONPATH": str(ROOT)}
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        other = shutil.which(name, path="/usr/bin:/usr/local/bin")
        modules: list[str | Path] = [ROOT, *(path for path in sys.path if path.endswith("site-packages"))]
        if other is None or not all(map(self.may_read, modules)):
            missing(f"user {self.name} can read neither {sys.executable} nor a {name} and {ROOT}")
        return [str(other), *arguments], {"PYTHONPATH": os.pathsep.join(map(str, modules))}


@contextlib.contextmanager
def a_user(purpose: str, *groups: str) -> Iterator[User]:
    """A new user, gone at the end with its processes and files. `groups`: supplementary ones."""
    if os.geteuid() != 0:
        missing("only root can make users")
    name = f"turbo-{purpose}-{os.getpid()}"
    more = ["--groups", ",".join(groups)] if groups else []
    # A place that every user can enter, and none but its owner the home.
    home = Path(tempfile.gettempdir()) / name
    with _alone():
        subprocess.run(
            [require("useradd"), "--system", "--create-home", "--home-dir", home, "--shell", "/bin/sh", *more, name], check=True
        )  # fmt: skip
    home.chmod(0o700)
    entry = pwd.getpwnam(name)
    user = User(name, entry.pw_uid, entry.pw_gid, home)
    try:
        yield user
    finally:
        delete(name)


def delete(name: str) -> None:
    """Delete a user with its processes and its home directory, if there is such a user."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return
    user = User(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
    for process in user.processes():
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    until(lambda: not user.processes(), 10, name)
    with _alone():
        subprocess.run(["userdel", name], check=True)
    shutil.rmtree(user.home, ignore_errors=True)


@contextlib.contextmanager
def may_sudo(who: User, whom: User) -> Iterator[None]:
    """The line of the how-to, in a file that is gone at the end."""
    require("sudo")
    file = Path("/etc/sudoers.d") / who.name
    draft = who.home / "sudoers"
    draft.write_text(f"{who.name} ALL=({whom.name}) NOPASSWD: ALL\n")
    draft.chmod(0o440)
    subprocess.run(["visudo", "-cqf", draft], check=True)
    shutil.copy(draft, file)
    try:
        yield
    finally:
        file.unlink()


@dataclass
class Cast:
    """A worker's user, and the agents'. `root`: the worker's user is root."""

    worker: User
    agents: User
    root: bool
    ended: list["subprocess.Popen[bytes]"] = field(default_factory=list)


@contextlib.contextmanager
def cast(way: str) -> Iterator[Cast]:
    """`way`: root, or sudo. The agents' user has `games` as a supplementary group."""
    with contextlib.ExitStack() as stack:
        agents = stack.enter_context(a_user(f"a-{way}", "games"))
        if way == "root":
            # Not root's own home: tests write into it.
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turbo-root-")))
            yield Cast(User("root", 0, 0, home), agents, root=True)
            return
        worker = stack.enter_context(a_user(f"w-{way}"))
        stack.enter_context(may_sudo(worker, agents))
        yield Cast(worker, agents, root=False)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Tests of other processes change the same files."""
    import fcntl

    with open(Path(tempfile.gettempdir()) / "turbo-test-users.lock", "w") as lock:  # noqa: PTH123
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
