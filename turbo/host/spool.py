"""The spool: a result on local disk before it is in the database, and for an hour after.

    put ──temporary name, fsync──▶ NNN.json ──recorded──▶ done/ ──an hour──▶ gone
                                      ├── unreadable ──▶ corrupt/
                                      └── the database refuses it ──▶ quarantine/ (kept; the row points to it)

An entry is whole or not there: it is written under another name, synced, renamed, and the directory synced; a checksum
finds what a dying disk did all the same. done/ is kept because an asynchronous failover can lose an acknowledged commit
(5 of 5 lost); whatever the database then still shows open is replayed. Calls block on the disk: use threads.
"""

import errno
import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from turbo.host.sanitize import storable, storable_text

log = logging.getLogger(__name__)

FORMAT = 1
DONE_SECONDS = 3600.0


class SpoolUnavailable(Exception):
    """The disk takes no result now: full, read-only, broken. The message says which."""


@dataclass(slots=True)  # written once; frozen it would cost a light run 1.6 us more
class FinishedRun:
    """The end of one run, as it is recorded. `outcome` is an OutcomeKind's value; times in milliseconds and seconds as
    named; `output` is the whole of output_data; `final`: no further try; `untouched`: the task goes back as it was, for
    its account rests; `agent_session_id` '' means that no session may be resumed, None that nothing is known of one;
    `finished_at` is the host's clock when it was put on disk, for people."""

    task_id: str
    fencing_token: int
    outcome: str
    output: dict[str, Any] | None = None
    error: str | None = None
    failure_kind: str | None = None
    execution_ms: int = 0
    retry_delay_seconds: float = 0.0
    final: bool = False
    untouched: bool = False
    agent_session_id: str | None = None
    finished_at: str = ""
    worker_id: str = ""
    queue: str = "default"
    executor: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    def storable(self) -> "FinishedRun":
        """The same result, altered as little as makes PostgreSQL take it; `detail.altered` says how."""
        notes: set[str] = set()
        output = storable(self.output, notes)
        error = None if self.error is None else storable_text(self.error, notes)
        session = None if self.agent_session_id is None else storable_text(self.agent_session_id, notes)
        detail = storable(self.detail, notes)
        if notes:
            detail["altered"] = sorted(notes)
            if isinstance(output, dict):
                output["altered"] = sorted(notes)
        return replace(self, output=output, error=error, agent_session_id=session, detail=detail)


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """A result on disk."""

    path: Path
    result: FinishedRun


class Spool:
    def __init__(self, directory: Path) -> None:
        """`directory` and its sub-directories are made when first needed, mode 0700."""
        self.directory = directory
        self._numbers = itertools.count(time.time_ns())

    def put(self, result: FinishedRun) -> SpoolEntry:
        """On disk, for good, when this returns. Raises SpoolUnavailable; then nothing is left behind."""
        if not result.finished_at:
            result = replace(result, finished_at=datetime.now(UTC).isoformat())
        body = json.dumps(asdict(result), ensure_ascii=True)
        content = json.dumps({"format": FORMAT, "sha256": hashlib.sha256(body.encode()).hexdigest(), "result": body})
        path = self.directory / f"{next(self._numbers):020d}.json"
        temporary = path.with_suffix(".tmp")
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            temporary.rename(path)
            _sync(self.directory)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise SpoolUnavailable(f"{self.directory}: {_why(error)}") from error
        return SpoolEntry(path, result)

    def pending(self) -> list[SpoolEntry]:
        """What is not recorded yet, oldest first. Unreadable files are put aside with one warning each."""
        return list(self._entries(self.directory))

    def recently_done(self) -> list[SpoolEntry]:
        """What was recorded within the last hour, oldest first."""
        return list(self._entries(self.directory / "done"))

    def adopt(self, other: "Spool") -> None:
        """Take over what a spool on the same disk holds, recorded within the hour or not at all. What cannot be read stays
        there. Raises OSError; what was not taken over by then is still there."""
        for entry in [*other.pending(), *other.recently_done()]:
            where = self.directory / "done" if entry.path.parent.name == "done" else self.directory
            where.mkdir(parents=True, exist_ok=True, mode=0o700)
            target = where / entry.path.name
            while target.exists():
                target = where / f"{next(self._numbers):020d}.json"
            entry.path.rename(target)  # its age stays
        if self.directory.exists():
            _sync(self.directory)

    def done(self, entry: SpoolEntry, verdict: str) -> None:
        """The database has answered (`verdict`): the file waits in done/ for a failover that may have lost it."""
        del verdict
        if entry.path.parent.name != "done":
            self._move(entry.path, "done")

    def quarantine(self, entry: SpoolEntry, why: str) -> Path:
        """The database cannot store it: kept for a person. Returns where it is."""
        log.debug("quarantined %s: %s", entry.path.name, why)
        return self._move(entry.path, "quarantine")

    def prune_done(self, older_than: float = DONE_SECONDS) -> None:
        """Forget what was recorded more than `older_than` seconds ago."""
        horizon = time.time() - older_than
        with suppress(OSError):
            for path in (self.directory / "done").glob("*.json"):
                with suppress(OSError):
                    if path.stat().st_mtime < horizon:
                        path.unlink()

    def probe(self) -> None:
        """Whether a result could be written now. Raises SpoolUnavailable."""
        path = self.directory / "probe.tmp"
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with path.open("wb") as file:
                file.write(b"x" * 65536)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SpoolUnavailable(f"{self.directory}: {_why(error)}") from error
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _entries(self, directory: Path) -> Iterator[SpoolEntry]:
        for path in sorted(directory.glob("*.json")):
            try:
                envelope = json.loads(path.read_text(encoding="ascii"))
                if envelope["format"] > FORMAT:
                    continue  # a newer turbo's; it will read it
                body = envelope["result"]
                if hashlib.sha256(body.encode()).hexdigest() != envelope["sha256"]:
                    raise ValueError("its checksum does not fit")
                result = FinishedRun(**json.loads(body))
            except OSError as error:
                log.warning("spool file %s cannot be read: %s", path, error)
                continue
            except (ValueError, KeyError, TypeError) as error:
                log.warning("spool file %s is damaged (%s); put aside in corrupt/", path, error)
                with suppress(OSError):
                    self._move(path, "corrupt")
                continue
            yield SpoolEntry(path, result)

    def _move(self, path: Path, where: str) -> Path:
        target = self.directory / where / path.name
        try:
            path.replace(target)
        except FileNotFoundError:
            target.parent.mkdir(exist_ok=True, mode=0o700)
            with suppress(FileNotFoundError):
                path.replace(target)
        with suppress(OSError):
            os.utime(target)
        return target


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(error: OSError) -> str:
    return {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "the limit on file sizes is reached",
        errno.EROFS: "the disk is read-only",
        errno.EIO: "the disk has an error",
    }.get(error.errno or 0, error.strerror or str(error))
