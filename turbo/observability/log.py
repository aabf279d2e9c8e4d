"""Logging: one line per record, `time LEVEL message key=value …`, to stderr or to a file that this process rotates.

The worker, task and attempt of a record are fields at its end (`extra={"task": …}`), so one grep follows a task. A
task's text cannot forge a line, because newlines and other control characters are escaped; nor a field, because a quote
inside quotes is escaped, and so is the `=` of `task=` in a message. Passwords in connection strings are replaced with stars.
"""

import logging
import re
import sys
import time
from pathlib import Path

from turbo.domain.visible import visible
from turbo.observability.log_file import LogFile

FIELDS = ("worker", "task", "attempt")
_FIELD = re.compile(rf"({'|'.join(FIELDS)})=")
_NEEDS_QUOTES = re.compile(r'[\s"=]')

_URI_PASSWORD = re.compile(r"(\w+://[^:/@\s]*:)[^@\s]+@")
_KEYWORD_PASSWORD = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE)


def scrub(text: str) -> str:
    """Replace the passwords of connection strings with stars."""
    return _KEYWORD_PASSWORD.sub(r"\1***", _URI_PASSWORD.sub(r"\1***@", text))


def _one_line(text: str) -> str:
    """A message: visible, and without anything that reads like a field."""
    text = visible(text)
    return _FIELD.sub(r"\1\\x3d", text) if "=" in text else text


def _quoted(value: object) -> str:
    text = visible(str(value))
    if text and not _NEEDS_QUOTES.search(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class LineFormatter(logging.Formatter):
    def __init__(self, worker_id: str) -> None:
        super().__init__()
        self._worker_id = worker_id

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {"worker": self._worker_id, **{f: record.__dict__[f] for f in FIELDS if f in record.__dict__}}
        tail = " ".join(f"{k}={_quoted(v)}" for k, v in fields.items() if v != "")
        line = f"{stamp}.{int(record.msecs):03d}Z {record.levelname:7} {_one_line(scrub(record.getMessage()))} {tail}".rstrip()
        if record.exc_info:
            trace = scrub(self.formatException(record.exc_info))
            line += "\n" + "\n".join("    " + _one_line(part) for part in trace.splitlines())
        return line


def configure(worker_id: str = "", log_file: Path | None = None, level: int = logging.INFO) -> None:
    """Set up the root logger: stderr, or a rotating file. Raises OSError if the file cannot be written."""
    handler = logging.StreamHandler(sys.stderr) if log_file is None else LogFile(log_file.expanduser())
    handler.setFormatter(LineFormatter(worker_id))
    root = logging.getLogger()
    for old in root.handlers:
        if isinstance(old, LogFile):
            old.close()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def reopen() -> str | None:
    """Open the log file again, if the log goes to one: its name, or None. Raises OSError."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogFile):
            handler.reopen()
            return handler.baseFilename
    return None
