"""The program that turbo's git runs as ssh: ssh without ~/.ssh/config, which may name programs, and which an agent may have written.
Keys and known hosts are the user's.

    /etc/ssh/ssh_config ──nothing of it counts from ~/.ssh──▶ exec ssh -F /etc/ssh/ssh_config …
                                 └── `Include mine/*`: ssh takes a file that -F names for a user's, and would read ~/.ssh/mine/*
                                     ──▶ refused, with the line to write
"""

import glob
import re
import shlex
from pathlib import Path

from turbo.host.regular_file import read_regular

CONFIG_BYTES = 1024 * 1024
MOST_FILES = 100

_INCLUDE = re.compile(r'\s*include(?:\s*=\s*|\s+|(?="))(.*)', re.IGNORECASE)
_WORD = re.compile(r'"([^"]*)"|([^\s"]+)')


def ssh_program(config: Path) -> str:
    """A shell script. `config`: the administrator's configuration."""
    lines = ["#!/bin/sh"]
    included = relative_include(config)
    if included is not None:
        file, path = included
        why = f"ssh: {file}: Include {path} is looked for in ~/.ssh: write a path that begins with a slash"
        lines += [f"printf '%s\\n' {shlex.quote(why)} >&2", "exit 255"]
    else:
        lines += [
            f"config={shlex.quote(str(config))}",
            '[ -r "$config" ] || config=/dev/null',
            'exec ssh -F "$config" -o BatchMode=yes "$@"',
        ]
    return "\n".join([*lines, ""])


def relative_include(config: Path) -> tuple[Path, str] | None:
    """The first path that ssh would look for in ~/.ssh, and the file that has it; the files that it includes are read, too. None:
    there is none. Never raises: what cannot be read, ssh cannot read either."""
    waiting, known = [config], {config}
    while waiting:
        file = waiting.pop(0)
        for path in _includes(file):
            if not path.startswith("/"):
                return file, path
            for name in sorted(glob.glob(path))[:MOST_FILES]:  # noqa: PTH207 - a pattern from the root
                if len(known) < MOST_FILES and Path(name) not in known:
                    known.add(Path(name))
                    waiting.append(Path(name))
    return None


def _includes(file: Path) -> list[str]:
    try:
        text = read_regular(file, CONFIG_BYTES).decode("utf-8", "surrogateescape")
    except (OSError, ValueError):
        return []
    found = []
    for line in text.splitlines():
        if (rest := _INCLUDE.fullmatch(line)) is not None:
            found += [quoted or plain for quoted, plain in _WORD.findall(rest[1])]
    return found
