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

LONGEST_MESSAGE = 16_384
"""Characters of one message, and of one traceback, that are logged. A row or an agent may have written the text."""

_DATABASE_PASSWORD = re.compile(r"(postgres(?:ql)?://[^:/@\s]{0,100}:)[^\n]{0,200}@", re.IGNORECASE)
"""Up to the last "@" near by: one in the password itself ends it too early for libpq, and its rest is a secret as well."""
_WORD = re.compile(r"\S+")
_URI_USER = re.compile(r"\w://[^:/]*+:")
_KEYWORD_PASSWORD = re.compile(r"(password\s*+=\s*+)('(?:[^'\\]|\\.)*+'|[^\s&]+)", re.IGNORECASE)


def scrub(text: str) -> str:
    """Replace the passwords of connection strings with stars. Takes time in proportion to the text's length."""
    if "://" in text and "@" in text:
        text = _DATABASE_PASSWORD.sub(r"\1***@", text)
        text = _WORD.sub(lambda word: _scrubbed(word[0]), text)
    return _KEYWORD_PASSWORD.sub(r"\1***", text)


def _scrubbed(word: str) -> str:
    """A text without blanks. What lies between `scheme://user:` and the next @ is a password."""
    if "://" not in word:
        return word
    *parts, last = word.split("@")
    for number, part in enumerate(parts):
        user = _URI_USER.search(part)
        if user is not None and user.end() < len(part):
            parts[number] = f"{part[: user.end()]}***"
    return "@".join([*parts, last])


def _safe(text: str) -> str:
    """Scrubbed, then cut. What is scrubbed is longer than what is shown: the cut must not hide the end of a password."""
    scrubbed = scrub(text[: 2 * LONGEST_MESSAGE])
    if len(scrubbed) <= LONGEST_MESSAGE:
        return scrubbed
    return f"{scrubbed[:LONGEST_MESSAGE]}… ({len(text):,} characters)"


def _safe_trace(trace: str) -> str:
    """A long traceback's first and last lines tell most: where it began, and the error."""
    if len(trace) <= LONGEST_MESSAGE:
        return scrub(trace)
    return f"{_safe(trace)}\n{scrub(trace[-LONGEST_MESSAGE:])}"


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
        line = f"{stamp}.{int(record.msecs):03d}Z {record.levelname:7} {_one_line(_safe(record.getMessage()))} {tail}".rstrip()
        if record.exc_info:
            trace = _safe_trace(self.formatException(record.exc_info))
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
