"""The file in which an agent's CLI keeps a session: one JSON a line, written as it goes. It may be another user's (`run_as`).

The agent may have written it where nothing kept it from doing so: nothing in it chooses a file, a program or a flag. All functions
block, and raise OSError.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from turbo.host.regular_file import open_regular
from turbo.process.identity import Identity

MOST_BYTES = 64 * 1024 * 1024
"""Of one call. More is not looked at; what matters stands at the end."""

LINE_BYTES = 2 * 1024 * 1024


def size_of(path: Path, user: Identity | None) -> int | None:
    """In bytes; None: there is no such regular file. `user`: whose it is; None: this process's."""
    if user is not None:
        size = user.run('if [ -f "$1" ] && [ ! -L "$1" ]; then wc -c < "$1"; fi', path).strip()
        return int(size) if size.isdigit() else None
    try:
        state = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return state.st_size if stat.S_ISREG(state.st_mode) else None


def lines_from(path: Path, begin: int, user: Identity | None) -> Iterator[bytes]:
    """The lines from byte `begin` on; of a longer rest, the last MOST_BYTES."""
    if user is not None:
        text = user.run('tail -c "+$2" -- "$1" | head -c "$3"', path, str(begin + 1), str(MOST_BYTES))
        yield from text.encode("utf-8", "surrogateescape").splitlines()
        return
    with os.fdopen(open_regular(path), "rb") as file:
        end = os.fstat(file.fileno()).st_size
        file.seek(max(begin, end - MOST_BYTES))
        while line := file.readline(LINE_BYTES):
            yield line
