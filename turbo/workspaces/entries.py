"""What is in a directory, to any depth."""

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path


def entries_below(directory: Path, until: float = math.inf) -> Iterator["os.DirEntry[str]"]:
    """All that is in `directory`, without following links. What cannot be read is left out. `until`: when to stop, in monotonic
    seconds."""
    waiting = [str(directory)]
    while waiting and time.monotonic() < until:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    yield entry
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except (OSError, ValueError):
            continue
