"""The profile with which sandbox-exec makes a sandbox on macOS. Text in, text out; written from documentation, not run.

    everything allowed ──▶ no writing ──▶ each place, the outer one first ──▶ no signals and no look at processes outside

The last rule that matches decides. There are no namespaces: turbo's process tree ends what the program leaves behind, as without
a sandbox. What is hidden keeps its name: a listing of the directory above shows it.
"""

from collections.abc import Sequence

from turbo.process.places import Access, SandboxPlace

NAME = "sandbox-exec"
PROGRAM = "/usr/bin/sandbox-exec"

_HEAD = """(version 1)
(allow default)
(deny file-write*)
(allow file-write* (literal "/dev/null") (literal "/dev/zero") (literal "/dev/tty") (regex #"^/dev/fd/"))
"""
_TAIL = """(deny signal (target others))
(allow signal (target same-sandbox))
(deny process-info* (target others))
(allow process-info* (target same-sandbox))
(deny mach-lookup (global-name "com.apple.SecurityServer") (global-name "com.apple.securityd.xpc"))
"""
_NO_NETWORK = """(deny network*)
"""


def profile(places: Sequence[SandboxPlace], *, network: bool) -> str:
    """The profile of one run. A fresh place is the system's own there: macOS cannot put an empty one over it."""
    lines = []
    for place in places:
        where = f"({'subpath' if place.directory else 'literal'} {_quoted(str(place.path))})"
        match place.access:
            case Access.WRITE:
                lines.append(f"(allow file-read* file-write* network-outbound {where})")
            case Access.READ:
                lines.append(f"(allow file-read* {where})")
                lines.append(f"(deny file-write* {where})")
            case Access.FRESH:
                lines.append(f"(allow file-read* file-write* {where})")
                lines.append(f"(deny network-outbound {where})")
            case Access.HIDDEN:
                lines.append(f"(deny file-read* file-write* network-outbound {where})")
                lines.append(f"(allow file-read-metadata {where})")
    return _HEAD + "".join(f"{line}\n" for line in lines) + _TAIL + ("" if network else _NO_NETWORK)


def _quoted(path: str) -> str:
    """A string of the profile's language, in which a backslash and a quote are escaped."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
