"""Writes a file so that a reader sees all of it or nothing: under a temporary name first, then renamed into place."""

import os
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: str, *, durable: bool = False, mode: int = 0o600) -> None:
    """Replace `path` with `content`, encoded as UTF-8.

    `durable`: content and name are on disk when this returns. Raises OSError; then `path` is unchanged and no
    temporary file remains. Not for two writers of one path at the same time.
    """
    draft = path.with_name(f".{path.name}.new")
    try:
        descriptor = _create(draft, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(descriptor)
        draft.replace(path)
        if durable:
            sync_directory(path.parent)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def _create(draft: Path, mode: int) -> int:
    """A new file. What another process has left under its name goes first: it may be a link or a FIFO."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(draft, flags, mode)
    except FileExistsError:
        draft.unlink(missing_ok=True)
        return os.open(draft, flags, mode)


def sync_directory(directory: Path) -> None:
    """Put the names in `directory` on disk. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
