"""A program that tries what a sandbox is to stop. Reads its targets as JSON from stdin; prints what it could do, one name a line."""

import ctypes
import json
import os
import socket
import sys
from pathlib import Path

PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17


def write(path: str) -> None:
    Path(path).write_text("mine\n")


def read(path: str) -> None:
    """A file with something in it, or a directory."""
    where = Path(path)
    if not (list(where.iterdir()) if where.is_dir() else where.read_bytes()):
        raise OSError("nothing in it")


def rename(path: str) -> None:
    Path(path).rename(f"{path}.old")
    Path(f"{path}.old").rename(path)


def connect(address: str) -> None:
    host, port = address.rsplit(":", 1)
    socket.create_connection((host, int(port)), timeout=5).close()


def connect_unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(path)


def signal(pid: str) -> None:
    os.kill(int(pid), 0)


def trace(pid: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(PTRACE_SEIZE, int(pid), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    libc.ptrace(PTRACE_DETACH, int(pid), 0, 0)


def rewrite(path: str) -> None:
    """Write back what it holds."""
    content = Path(path).read_bytes()
    with Path(path).open("r+b") as file:
        file.write(content)


def remount(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    MS_REMOUNT, MS_BIND = 32, 4096
    if libc.mount(None, path.encode(), None, MS_REMOUNT | MS_BIND, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")


def leave(name: str) -> None:
    """A daemon that nothing connects to this program: another session, group and parent, and no variable of its own."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            os.execve("/bin/sh", ["sh", "-c", "while :; do sleep 1; done", name], {})
        os._exit(0)
    os.wait()


for name, (what, target) in json.load(sys.stdin).items():
    try:
        globals()[what](target)
    except (OSError, ValueError):
        continue
    print(name)
