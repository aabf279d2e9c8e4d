"""The journal of running programs: one small file for each, so that none can outlive its worker.

    launched, held at its stdin ──entry──▶ running ──the program and its descendants have ended──▶ entry removed
                                             └── worker killed ──▶ the watcher, or the host's next worker, reads it
                                                      └── ended by them; kept as `.ended` where its usage is to be counted

An entry is on disk before its program may exec. It is renamed into place, so a reader sees all of it or nothing. It
is not fsynced: the page cache outlives any process. A power failure loses the page cache, but the programs too; that
is why an entry from another boot is ignored.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turbo.domain.usage import MOST_ATTEMPTS, MeteredRun
from turbo.host import json_file
from turbo.host.atomic_file import write_atomically
from turbo.host.regular_file import NotRegular

if TYPE_CHECKING:
    from turbo.process.sandbox import Sandbox

SUFFIX = ".json"
ENDED = ".ended"
ENTRY_BYTES = 64 * 1024


def new_cookie() -> str:
    """128 random bits. They identify one run in the environment of its descendants."""
    return os.urandom(16).hex()


@dataclass(frozen=True, slots=True)
class Entry:
    """One running program.

    `pid` is also its process group and session. `start` and `boot` distinguish it from a later process with the same
    pid (turbo.process.table). `program` and `task_id` are for people. `user`: whose processes they are, if sudo is needed
    to end them (turbo.process.identity). `metered`: what it uses is to be counted, even if its worker is killed.
    """

    cookie: str
    pid: int
    start: int
    boot: str
    program: str = ""
    task_id: str = ""
    user: str = ""
    metered: MeteredRun | None = None


class Journal:
    """The entries of one worker, in a directory that is created for the first entry, mode 0700. `sandbox`: what the programs run
    in that are started with it."""

    def __init__(self, directory: Path, sandbox: "Sandbox | None" = None) -> None:
        self.directory = directory
        self.sandbox = sandbox

    def within(self, sandbox: "Sandbox | None") -> "Journal":
        """The same entries, for programs that run in this sandbox."""
        return Journal(self.directory, sandbox)

    def add(self, entry: Entry) -> None:
        """Write the entry to disk. Raises OSError (disk full, no permission); then the program must not run."""
        try:
            self._write(entry)
        except FileNotFoundError:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._write(entry)

    def remove(self, cookie: str) -> None:
        """The program and all its descendants have ended. Removing twice is fine."""
        self._path(cookie).unlink(missing_ok=True)

    def ended(self, entry: Entry) -> None:
        """As `remove`, after the worker's death: what is to be counted is kept. Twice is fine."""
        if entry.metered is None:
            self.remove(entry.cookie)
            return
        with contextlib.suppress(FileNotFoundError):
            self._path(entry.cookie).rename(self.directory / f"{entry.cookie}{ENDED}")

    def entries(self) -> list[Entry]:
        """The programs that run, or ran when their worker died. An unreadable file still yields its cookie. No link in place of
        the directory is followed: what is in another one is nobody's entry."""
        return self._all(SUFFIX)

    def uncounted(self) -> list[MeteredRun]:
        """Those that were ended after their worker's death."""
        return [entry.metered for entry in self._all(ENDED) if entry.metered is not None]

    def _all(self, suffix: str) -> list[Entry]:
        if self.directory.is_symlink():
            return []
        try:
            names = sorted(path for path in self.directory.iterdir() if path.suffix == suffix and not path.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [entry for path in names if (entry := self._read(path)) is not None]

    def _path(self, cookie: str) -> Path:
        return self.directory / f"{cookie}{SUFFIX}"

    def _write(self, entry: Entry) -> None:
        if self.directory.is_symlink():
            raise NotRegular(f"{self.directory}: is a symbolic link")
        write_atomically(self._path(entry.cookie), json.dumps(asdict(entry)))

    def _read(self, path: Path) -> Entry | None:
        unreadable = Entry(cookie=path.stem, pid=0, start=0, boot="")
        try:
            fields = json_file.read(path, ENTRY_BYTES)
            known = Entry(
                cookie=json_file.text(fields, "cookie"),
                pid=json_file.whole(fields, "pid", 0, 2**31 - 1),
                start=json_file.whole(fields, "start", 0, 2**63 - 1),
                boot=json_file.text(fields, "boot"),
                program=json_file.text(fields, "program", ""),
                task_id=json_file.text(fields, "task_id", ""),
                user=json_file.text(fields, "user", ""),
                metered=_metered(fields.get("metered")),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return unreadable
        return replace(known, cookie=path.stem)


def _metered(fields: Any) -> MeteredRun | None:
    """None for anything else: nothing of it is needed to end the program."""
    if not isinstance(fields, Mapping):
        return None
    try:
        return MeteredRun(
            task_id=json_file.text(fields, "task_id"),
            fencing_token=json_file.whole(fields, "fencing_token", 0, 2**63 - 1),
            attempt=json_file.whole(fields, "attempt", 0, MOST_ATTEMPTS),
            queue=json_file.text(fields, "queue"),
            task_type=json_file.text(fields, "task_type"),
            executor=json_file.text(fields, "executor"),
            account=json_file.text(fields, "account"),
            log=json_file.text(fields, "log"),
            begin=json_file.whole(fields, "begin", 0, 2**62),
        )
    except ValueError:
        return None
