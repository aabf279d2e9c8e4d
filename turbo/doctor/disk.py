"""The state directory: journal, spool and logs of this host's workers."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from turbo.doctor.check import Check
from turbo.domain.finding import Finding, fail, ok, skip, warn
from turbo.host.regular_file import NotRegular
from turbo.host.state_dir import OWNER, may_live, read_identity, refuse_links, replaceable_by

ROOM_BYTES = 500 * 1024 * 1024
INODES = 1000
PROBE_BYTES = 64 * 1024

REPLACEABLE = "set worker.state_dir to a directory below one that belongs to root or to the worker's user"

REFUSED = {
    "quarantine": "read the reason in each task's error, then delete the quarantined files",
    "corrupt": "read the corrupt files, then delete them",
}
"""Directories of a spool for results that cannot be recorded, and what to do about them."""

NETWORKED = frozenset(
    {"nfs", "nfs4", "nfsd", "cifs", "smbfs", "smb3", "afpfs", "webdav", "davfs", "ncpfs", "9p", "afs", "ceph", "glusterfs"}
    | {"lustre", "gpfs", "ocfs2", "gfs2", "beegfs", "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.glusterfs", "macfuse"}
)  # fmt: skip
"""File systems on which a lock may be granted twice, or a rename appear late. Names as in Linux and macOS."""


class Mount(NamedTuple):
    """A mounted file system, from psutil."""

    device: str
    mountpoint: str
    fstype: str


def checks(state_dir: Path) -> list[Check]:
    return [
        Check("state directory", lambda: state_directory(state_dir, _mounts())),
        Check("spool", lambda: spool(state_dir)),
    ]


def _mounts() -> list[Mount]:
    return [Mount(m.device, m.mountpoint, m.fstype) for m in psutil.disk_partitions(all=True)]


def file_system(path: Path, mounts: Iterable[Mount]) -> Mount | None:
    """The mount that holds `path`."""
    whole = path.resolve()
    holding = [m for m in mounts if whole.is_relative_to(m.mountpoint)]
    return max(holding, key=lambda m: len(m.mountpoint), default=None)


def state_directory(root: Path, mounts: Sequence[Mount]) -> Finding:
    """Is it private to this user, on a local disk with free space, and writable?"""
    mount = file_system(root, mounts)
    if mount is not None and mount.fstype in NETWORKED:
        return fail(
            f"{root} is on a network file system ({mount.fstype} at {mount.mountpoint}): its locks do not hold there",
            "put worker.state_dir on a local disk",
        )
    if not root.exists():
        here = next(parent for parent in root.absolute().parents if parent.exists())
        if not here.is_dir() or not os.access(here, os.W_OK | os.X_OK):
            return fail(
                f"{root} does not exist and cannot be created in {here}", "create it, or set another worker.state_dir"
            )
        return ok(f"{root} will be created when a worker starts")
    state = root.stat()
    if not stat.S_ISDIR(state.st_mode):
        return fail(f"{root} is not a directory", "set another worker.state_dir")
    if state.st_uid != os.geteuid():
        return fail(
            f"{root} belongs to user {state.st_uid}, but this is user {os.geteuid()}",
            "run the doctor and the worker as its owner, or set another worker.state_dir",
        )
    if stat.S_IMODE(state.st_mode) & 0o077:
        return fail(f"other users can read {root} (mode {stat.S_IMODE(state.st_mode):04o})", f"chmod 700 {root}")
    try:
        refuse_links(root)
    except NotRegular as error:
        return fail(str(error), "no worker starts with it: move what it leads to here, or set another worker.state_dir")
    try:
        with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=root) as file:
            file.write(b"x" * PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return fail(
            f"{root} is not writable: {error.strerror}; a worker keeps results in memory and claims nothing",
            f"free some space on {mount.mountpoint if mount else 'its disk'}",
        )
    if (why := replaceable_by(root)) is not None:
        return warn(why, REPLACEABLE)
    free = shutil.disk_usage(root).free
    inodes = os.statvfs(root).f_favail
    if free < ROOM_BYTES or 0 < inodes < INODES:
        what = f"{free / 1e6:.0f} MB" if free < ROOM_BYTES else f"room for {inodes} files"
        return warn(f"{root} has only {what} left for logs and results", "free some space; old logs are in logs/")
    return ok(f"{root}, {free / 1e9:.0f} GB free{f' on {mount.fstype}' if mount else ''}")


def spool(root: Path) -> Finding:
    """Results that dead workers did not record, and results that the database refused. A live worker records its own."""
    workers = root / "workers"
    if not workers.is_dir():
        return skip("there is no spool yet")
    try:
        homes = sorted(home for home in workers.iterdir() if home.is_dir())
    except PermissionError:
        return skip("it belongs to another user")
    problems: list[str] = []
    remedies: list[str] = []
    for kind, remedy in REFUSED.items():
        counts = {home / "spool" / kind: len(list((home / "spool" / kind).glob("*"))) for home in homes}
        if any(counts.values()):
            places = ", ".join(f"{count} in {directory}" for directory, count in counts.items() if count)
            problems.append(f"results that could not be recorded: {places}")
            remedies.append(remedy)
    dead = {home: len(list((home / "spool").glob("*.json"))) for home in homes if not may_live(home.name)}
    if any(dead.values()):
        places = ", ".join(f"{count} of {_named(home)}" for home, count in dead.items() if count)
        problems.append(f"results that dead workers have not recorded: {places}")
        remedies.append("start a worker of that database with this state_dir: it records them before it claims tasks")
    if odd := [str(home / "lock") for home in homes if _is_odd(home / "lock")]:
        problems.append(f"not a regular file: {', '.join(odd)}, so nobody takes over what its worker leaves")
        remedies.append("if that worker is dead, remove it, and start a worker with this state_dir")
    return warn("; ".join(problems), "; ".join(remedies)) if problems else ok("no unrecorded results")


def _is_odd(lock: Path) -> bool:
    try:
        return not stat.S_ISREG(lock.lstat().st_mode)
    except OSError:
        return False


def _named(home: Path) -> str:
    """A worker, and its database if that is known."""
    database = read_identity(home / OWNER)
    return f"{home.name} (database {database})" if database else home.name
