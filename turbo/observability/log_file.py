"""The worker's own log file, rotated here by size, because launchd never rotates the files that it appends to.

Only its owner may read it (0600): lines name tasks, directories and accounts. If another program has moved or removed
it (newsyslog, logrotate, rm), it is opened again, so that no line goes to a file without a name.
"""

import contextlib
import logging
import logging.handlers
import os
from io import TextIOWrapper
from pathlib import Path

ROTATE_BYTES = 10 * 1024 * 1024
ROTATE_KEEP = 5
MODE = 0o600


class LogFile(logging.handlers.RotatingFileHandler):
    """Ten megabytes per file, five old ones kept: `worker.log.1`, …. Creates the directory. Raises OSError."""

    def __init__(self, path: Path, *, rotate_bytes: int = ROTATE_BYTES, keep: int = ROTATE_KEEP) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        super().__init__(path, maxBytes=rotate_bytes, backupCount=keep, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        file = open(self.baseFilename, "a", encoding="utf-8", opener=_closed_to_others)  # noqa: SIM115 - kept open
        with contextlib.suppress(OSError):
            os.fchmod(file.fileno(), MODE)  # an existing file may have a wider mode
        return file

    def reopen(self) -> None:
        """Continue in the file that has its name now. Raises OSError: then it goes on in the one it has."""
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = self._open()
        with self.lock or contextlib.nullcontext():
            old: TextIOWrapper | None = self.stream
            self.stream = new
        if old is not None:
            old.close()

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        """Called before every line, within the handler's own error handling."""
        if self.stream is not None and not _is_at(self.stream, self.baseFilename):
            self.stream.close()
            self.stream = self._open()
        return bool(super().shouldRollover(record))


def _is_at(file: TextIOWrapper, path: str) -> bool:
    try:
        here, ours = os.stat(path), os.fstat(file.fileno())  # noqa: PTH116
    except OSError:
        return False
    return (here.st_dev, here.st_ino) == (ours.st_dev, ours.st_ino)


def _closed_to_others(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, MODE)
