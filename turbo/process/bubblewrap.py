"""The arguments with which bubblewrap makes a sandbox on Linux. Text in, text out: nothing here looks at the host.

    / read-only ──▶ a /dev and a /proc of its own ──▶ each place, the outer one first ──▶ empty places made read-only ──▶ the program

- A process namespace of its own: the program sees and signals nothing outside, and when it ends, all it has started ends with it.
- `--die-with-parent`: the KILL of a worker, then of bwrap, ends everything inside.
- A user namespace of its own, without capabilities. One inside can still be made, for a sandbox that the program makes itself.
"""

from collections.abc import Sequence
from pathlib import Path

from turbo.process.places import Access, SandboxPlace

NAME = "bwrap"

NAMESPACES = (
    "--die-with-parent",
    "--unshare-user",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--cap-drop",
    "ALL",
)
NO_NETWORK = "--unshare-net"

INNER = ("/usr/bin/env", "--default-signal=TERM", "/bin/sh", "-c")
"""The launcher ignores TERM, so that bwrap outlives what it watches over; the program inside must not inherit that."""


def arguments(places: Sequence[SandboxPlace], *, cwd: Path, network: bool, root: bool) -> list[str]:
    """All of them, without the program. `root`: the user inside is root, whom the kernel lets write its settings below /proc/sys."""
    words = [*NAMESPACES, *(() if network else (NO_NETWORK,))]
    words += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    if root:
        words += ["--ro-bind", "/proc/sys", "/proc/sys"]
    empty = []
    for place in places:
        path = str(place.path)
        match place.access:
            case Access.WRITE:
                words += ["--bind", path, path]
            case Access.READ:
                words += ["--ro-bind", path, path]
            case Access.FRESH:
                words += ["--perms", "1777", "--tmpfs", path]
            case Access.HIDDEN if place.directory:
                words += ["--perms", "0555", "--tmpfs", path]
                empty.append(path)
            case Access.HIDDEN:
                words += ["--ro-bind", "/dev/null", path]
    for path in empty:
        words += ["--remount-ro", path]
    return [*words, "--chdir", str(cwd), "--"]
