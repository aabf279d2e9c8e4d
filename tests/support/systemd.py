"""Another machine, as far as a fleet can tell: process ids, mounts and control groups of its own, a real systemd user manager
in it, and a real sshd on loopback with a configuration, keys and a port of its own.

Made with namespaces, so it needs root on Linux. The network and /tmp are shared with the test; the system's own systemd, sshd
and their directories are neither used nor seen.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.requirements import missing, require
from tests.support.waiting import until
from turbo.embedded import free_port

ENTER_CGROUP = """
set -e
mount --make-rprivate /
mount -t cgroup2 cgroup2 "$1"
mkdir "$1/$2"
echo $$ > "$1/$2/cgroup.procs"
umount "$1"
exec unshare --cgroup --pid --fork --kill-child --mount -- /bin/sh -c "$3" sh "$4" "$5"
"""
"""$1 an empty directory, $2 a name for the cgroup, $3 MACHINE, and its arguments."""

MACHINE = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/sshd /run/user/0
chmod 700 /run/user/0
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
export HOME="$1" XDG_RUNTIME_DIR=/run/user/0 PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd "$HOME"
/usr/sbin/sshd -D -e -f "$2" 2>"$2.log" &
/lib/systemd/systemd --user --log-target=console 2>"$2.systemd.log" &
echo up
cat >/dev/null
"""
"""Ends with its standard input, and so with the test. systemd looks for /run/systemd/system to know whether it booted a machine."""

REMOVE_CGROUP = """
mount --make-rprivate / && mount -t cgroup2 cgroup2 "$1" && find "$1/$2" -depth -type d -exec rmdir {} +
"""


@dataclass
class Machine:
    """`ssh_bin`: put in front of PATH, it has an `ssh` that knows this machine as `there` and reads no other configuration."""

    home: Path
    ssh_bin: Path
    sshd: Path
    """Its configuration; its log is beside it."""
    pid: int
    """Of the machine's first process, seen from outside."""

    def run(self, line: str, *, check: bool = True, **environment: str) -> "subprocess.CompletedProcess[str]":
        """A line of sh, as a user who is logged in there."""
        known = {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": "/run/user/0",
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
        }
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "--mount", "--pid", "--cgroup", "--", "/bin/sh", "-c", line],
            env=known | environment,
            capture_output=True,
            text=True,
            check=check,
            timeout=120,
        )

    def stop_sshd(self) -> None:
        """It does not answer any more."""
        for process in psutil.Process(self.pid).children():
            if process.name() == "sshd":
                process.terminate()
                process.wait(10)


@contextlib.contextmanager
def machine(path: Path, home: Path) -> Iterator[Machine]:
    """Until the block ends, whatever is left running in it then."""
    if sys.platform != "linux" or os.geteuid() != 0:
        missing("another machine needs namespaces: root on Linux")
    require("sshd")
    require("unshare")
    if not Path("/lib/systemd/systemd").exists():
        missing("systemd is not installed")
    path.mkdir()
    home.mkdir(parents=True)
    ssh_bin, config = _ssh(path)
    mount, name = path / "cgroup", f"turbo-test-{uuid.uuid4().hex[:12]}"
    mount.mkdir()
    log = path / "machine.log"
    with log.open("wb") as out:
        started = subprocess.Popen(
            ["unshare", "--mount", "--", "/bin/sh", "-c", ENTER_CGROUP, "sh", mount, name, MACHINE, home, config],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
        )
    try:
        until(lambda: started.poll() is not None or log.read_text().endswith("up\n"), 20, "the machine")
        if started.poll() is not None:
            missing(f"no namespaces here: {log.read_text().strip()}")
        one = Machine(home, ssh_bin, config, psutil.Process(started.pid).children()[0].pid)
        until(
            lambda: (
                one.run("systemctl --user is-system-running", check=False).stdout.strip() in ("running", "degraded")
            ),
            30,
            f"a systemd user manager\n{log.read_text()}",
        )
        until(lambda: "listening on" in Path(f"{config}.log").read_text(), 20, "sshd")
        yield one
    finally:
        if started.poll() is None:
            for child in psutil.Process(started.pid).children():
                child.send_signal(signal.SIGKILL)  # the first process: the kernel ends all the others with it
        started.kill()
        started.wait(20)
        remove = ["unshare", "--mount", "--", "/bin/sh", "-c", REMOVE_CGROUP, "sh", str(mount), name]
        until(lambda: subprocess.run(remove, capture_output=True).returncode == 0, 20, "its cgroup is empty")


def _ssh(path: Path) -> tuple[Path, Path]:
    """Keys, a server's and a client's configuration; the directory of `ssh`, and the server's configuration."""
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path / key], check=True)
    port = free_port()
    config, client = path / "sshd_config", path / "ssh_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {path}/host_key\nPidFile none\nAuthorizedKeysFile {path}/user_key.pub\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
        "StrictModes no\nMaxStartups 100\n"
    )
    host_key = (path / "host_key.pub").read_text().split()[:2]
    (path / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(host_key)}\n")
    client.write_text(
        f"Host there\n  HostName 127.0.0.1\n  Port {port}\n  User root\n  IdentityFile {path}/user_key\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {path}/known_hosts\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n"
        "  KexAlgorithms curve25519-sha256\n"  # the default, sntrup761, costs six times as much
    )
    bin_dir = path / "bin"
    bin_dir.mkdir()
    ssh = bin_dir / "ssh"
    real = shutil.which("ssh")
    assert real is not None
    ssh.write_text(f'#!/bin/sh\nexec {real} -F {shlex.quote(str(client))} "$@"\n')
    ssh.chmod(0o755)
    return bin_dir, config
