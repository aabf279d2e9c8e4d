"""The spool keeps a result on the local disk until the database has it, and for an hour after that.

    put ──temporary name, fsync──▶ NNN.json ──recorded──▶ done/ ──an hour──▶ deleted
                                      ├── unreadable ──▶ corrupt/
                                      └── the database refuses it ──▶ quarantine/ (kept; the task's row points to it)

An entry is complete or absent: it is written under another name, synced and renamed, and the directory is synced. A
checksum detects what a dying disk changed.

done/ is kept because an asynchronous failover can lose an acknowledged commit (5 of 5 lost). After a failover,
entries whose task the database still shows as open are replayed. Calls block on the disk: use threads.
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
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from turbo.domain.outcome import OutcomeKind
from turbo.domain.result import RunResult
from turbo.domain.usage import UsageRow
from turbo.host import json_file
from turbo.host.atomic_file import sync_directory, write_atomically
from turbo.host.regular_file import NotRegular

log = logging.getLogger(__name__)

FORMAT = 1
NAMES_ON_DISK = {"uncounted": "untouched"}
"""Fields with another name in the file. Workers of several versions share a host and read each other's files."""
QUESTION_ON_DISK = "question on disk"
"""Where the file has a result's question: in `detail`. A field of its own would make the file unreadable for a worker that
knows no questions. Such a worker gives the task back uncounted, and its next run asks again."""
CHECKS_ON_DISK = "checks"
"""The same for a result's checks. A worker that knows none keeps them in the trail's row of the result."""
USAGE_ON_DISK = "usage on disk"
"""Where the file has what the run used: in `detail`, too. A worker that keeps no ledger leaves it in the audit trail."""
DONE_SECONDS = 3600.0
LONGEST_DELAY = 1e9
ENTRY_BYTES = 1024**3
"""Far more than a result that PostgreSQL accepts."""


class SpoolUnavailable(Exception):
    """The disk accepts no result now: full, read-only or broken. The message names the cause."""


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """One result on disk."""

    path: Path
    result: RunResult


class Spool:
    def __init__(self, directory: Path) -> None:
        """`directory` and its sub-directories are created when first needed, mode 0700."""
        self.directory = directory
        self._numbers = itertools.count(time.time_ns())

    def put(self, result: RunResult) -> SpoolEntry:
        """The result is durable when this returns. Raises SpoolUnavailable; then no file remains."""
        if not result.finished_at:
            result = replace(result, finished_at=datetime.now(UTC).isoformat())
        body = json.dumps(_to_file(result), ensure_ascii=True)
        content = json.dumps({"format": FORMAT, "sha256": hashlib.sha256(body.encode()).hexdigest(), "result": body})
        path = self.directory / f"{next(self._numbers):020d}.json"
        try:
            _make(self.directory)
            write_atomically(path, content, durable=True)
        except OSError as error:
            raise SpoolUnavailable(f"{self.directory}: {_reason(error)}") from error
        return SpoolEntry(path, result)

    def pending(self) -> list[SpoolEntry]:
        """Entries that are not recorded yet, oldest first. Unreadable files are set aside with one warning each."""
        return list(self._entries(self.directory))

    def recently_done(self) -> list[SpoolEntry]:
        """Entries that were recorded within the last hour, oldest first."""
        return list(self._entries(self.directory / "done"))

    def adopt(self, other: "Spool") -> None:
        """Take over the entries of a spool on the same disk, recorded or not.

        Files that cannot be read stay there. Raises OSError; entries not taken over by then are still there.
        """
        for entry in [*other.pending(), *other.recently_done()]:
            target_dir = self.directory / "done" if entry.path.parent.name == "done" else self.directory
            _make(target_dir)
            target = target_dir / entry.path.name
            while target.exists():
                target = target_dir / f"{next(self._numbers):020d}.json"
            entry.path.rename(target)  # keeps its modification time
        if self.directory.exists():
            sync_directory(self.directory)

    def done(self, entry: SpoolEntry) -> None:
        """The database has answered. The file waits in done/, in case a failover loses the row."""
        if entry.path.parent.name != "done":
            self._move(entry.path, "done")

    def quarantine(self, entry: SpoolEntry, why: str) -> Path:
        """The database cannot store it: kept for a person. Returns the new path."""
        log.debug("quarantined %s: %s", entry.path.name, why)
        return self._move(entry.path, "quarantine")

    def prune_done(self, older_than: float = DONE_SECONDS) -> None:
        """Delete entries that were recorded more than `older_than` seconds ago."""
        horizon = time.time() - older_than
        with suppress(OSError):
            for path in (self.directory / "done").glob("*.json"):
                with suppress(OSError):
                    if path.stat().st_mtime < horizon:
                        path.unlink()

    def probe(self) -> None:
        """Test whether a result could be written now. Raises SpoolUnavailable."""
        path = self.directory / "probe.tmp"
        try:
            _make(self.directory)
            path.unlink(missing_ok=True)  # a link or a FIFO that a program has left under the name
            with path.open("xb") as file:
                file.write(b"x" * 65536)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SpoolUnavailable(f"{self.directory}: {_reason(error)}") from error
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _entries(self, directory: Path) -> Iterator[SpoolEntry]:
        if self.directory.is_symlink() or directory.is_symlink():
            log.warning("%s is not turbo's: it is, or is behind, a symbolic link, and is not read", directory)
            return
        for path in sorted(directory.glob("*.json")):
            try:
                envelope = json_file.read(path, ENTRY_BYTES)
                if json_file.whole(envelope, "format", 0, 2**31) > FORMAT:
                    continue  # written by a newer turbo, which will read it
                body = json_file.text(envelope, "result")
                if hashlib.sha256(body.encode()).hexdigest() != envelope["sha256"]:
                    raise ValueError("its checksum does not match")
                result = _from_file(json_file.parse(body))
            except NotRegular as error:
                log.warning("spool file %s is not turbo's; moved to corrupt/", error)
                with suppress(OSError):
                    self._move(path, "corrupt")
                continue
            except OSError as error:
                log.warning("spool file %s cannot be read: %s", path, error)
                continue
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                log.warning("spool file %s is damaged (%s); moved to corrupt/", path, error)
                with suppress(OSError):
                    self._move(path, "corrupt")
                continue
            yield SpoolEntry(path, result)

    def _move(self, path: Path, where: str) -> Path:
        target = self.directory / where / path.name
        try:
            if target.parent.is_symlink():
                target.parent.unlink()
            path.replace(target)
        except FileNotFoundError:
            _make(target.parent)
            with suppress(FileNotFoundError):
                path.replace(target)
        with suppress(OSError):
            os.utime(target)
        return target


def _make(directory: Path) -> None:
    """Create it, if it is missing. A link in its place goes: turbo makes none. Raises OSError."""
    if directory.is_symlink():
        directory.unlink()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)


def _to_file(result: RunResult) -> dict[str, Any]:
    fields = {NAMES_ON_DISK.get(name, name): value for name, value in asdict(result).items()}
    question, within, usage = fields.pop("question"), fields.pop("answer_within"), fields.pop("usage")
    if question is not None:
        fields[NAMES_ON_DISK["uncounted"]] = True
        fields["detail"][QUESTION_ON_DISK] = {"question": question, "within": within}
    checks = fields.pop("checks")
    if checks:
        fields["detail"][CHECKS_ON_DISK] = checks
    if usage:
        fields["detail"][USAGE_ON_DISK] = usage
    return fields


def _from_file(fields: dict[str, Any]) -> RunResult:
    """Raises ValueError, TypeError."""
    for name, on_disk in NAMES_ON_DISK.items():
        if on_disk in fields:
            fields[name] = fields.pop(on_disk)
    if not isinstance(fields.get("detail", {}), dict):
        raise ValueError("detail is not an object")
    if (asked := fields.get("detail", {}).pop(QUESTION_ON_DISK, None)) is not None:
        fields |= {"question": asked["question"], "answer_within": asked["within"]}
    if (checks := fields.get("detail", {}).pop(CHECKS_ON_DISK, None)) is not None:
        fields["checks"] = checks
    used = fields.get("detail", {}).pop(USAGE_ON_DISK, [])
    if not isinstance(used, list):
        raise ValueError("its usage is not a list")
    fields["usage"] = tuple(_usage_row(row) for row in used)
    result = RunResult(**fields)
    if any((row.task_id, row.fencing_token) != (result.task_id, result.fencing_token) for row in result.usage):
        raise ValueError("it has usage of another run")
    if not isinstance(result.question, dict | None):
        raise ValueError("the question is not an object")
    if (result.question is None) == (result.outcome == OutcomeKind.ASKED):
        raise ValueError("it asks without a question, or has one and does not ask")
    if result.answer_within is not None:
        json_file.real(fields, "answer_within", 0.0, LONGEST_DELAY)
    for name in ("task_id", "outcome", "finished_at", "worker_id", "queue", "executor"):
        json_file.text(fields, name, "")
    for name in ("error", "failure_kind", "agent_session_id"):
        if fields.get(name) is not None:
            json_file.text(fields, name)
    json_file.whole(fields, "fencing_token", 1 - 2**63, 2**63 - 1)
    json_file.whole(fields, "execution_ms", 0, 2**62, 0)
    json_file.real(fields, "retry_delay_seconds", 0.0, LONGEST_DELAY, 0.0)
    if not isinstance(result.final, bool) or not isinstance(result.uncounted, bool):
        raise ValueError("final or uncounted is not a boolean")
    if not isinstance(result.output, dict | None):
        raise ValueError("output is not an object")
    if not isinstance(result.checks, list) or not all(isinstance(check, dict) for check in result.checks):
        raise ValueError("checks is not a list of objects")
    return result


def _usage_row(fields: dict[str, Any]) -> UsageRow:
    """Raises ValueError, TypeError."""
    row = UsageRow(**fields)
    for name in ("task_id", "executor", "account", "model", "queue", "task_type"):
        json_file.text(fields, name)
    json_file.whole(fields, "fencing_token", 1 - 2**63, 2**63 - 1)
    json_file.whole(fields, "attempt", 0, 2**31 - 1)
    for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"):
        json_file.whole(fields, name, 0, 10**15)
    if row.cost_usd is not None:
        json_file.real(fields, "cost_usd", 0.0, 1e12)
    return row


def _reason(error: OSError) -> str:
    return {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "the limit on file sizes is reached",
        errno.EROFS: "the disk is read-only",
        errno.EIO: "the disk has an error",
    }.get(error.errno or 0, error.strerror or str(error))
