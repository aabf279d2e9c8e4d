"""Sessions that go on on another host: the CLI's session file, put together from what is stored of the runs before.

    stored runs of the session ──checked──▶ <directory of the task>/.turbo-session/SESSION.jsonl ──▶ --resume that file
              └── the newest of them ran here ──▶ what the CLI has on this host is newer: resumed as it was

The CLI goes on writing beside the file it resumes, so the next run here resumes the same file. A note says which run of the session
was the last one here: an older copy is never resumed.

    <directory of the task>/.turbo-session.json      {"session", "token", "path"}; the worker's own, also with `run_as`
"""

import asyncio
import hashlib
import json
import logging
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from turbo.domain.run import Run
from turbo.domain.session import SessionRun, StoredSessions
from turbo.domain.transcript import LineKind
from turbo.executors import foreign
from turbo.host import json_file
from turbo.host.atomic_file import write_atomically
from turbo.host.removal import remove_tree
from turbo.process.identity import FOREIGN, Identity

log = logging.getLogger(__name__)

DIRECTORY = ".turbo-session"
NOTE = ".turbo-session.json"
_NOTE_BYTES = 16384

MOST_BYTES = 128 * 1024 * 1024
"""Of one session, over all of its runs. It is put together in memory."""

WRITE_SECONDS = 120.0

_PATH = re.compile(r"[0-9A-Za-z_-]+(?:/[0-9A-Za-z_-]+)*\.jsonl", re.ASCII)


class CannotCarry(Exception):
    """The session cannot be had on this host. The message says why."""


@dataclass(frozen=True, slots=True)
class Note:
    """The last run of a session on this host, and the file that it resumed; None: the CLI knows the session by its id."""

    session: str
    token: int
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Carried:
    """What the CLI is to resume: a session's id, or a file. `rebuilt`: it was put together now, and `unsure`: the newest run that is in
    it did not end by asking, so what a person approved may have been done."""

    word: str
    rebuilt: bool = False
    unsure: bool = False


@dataclass(slots=True)
class SessionFiles:
    """Of one executor. `run_as`: whose the files are."""

    run_as: Identity | None = None

    async def resume(self, run: Run, stored: StoredSessions, session: str) -> Carried:
        """What to resume a session by. Raises CannotCarry, and OSError (no database, full disk)."""
        note = await asyncio.to_thread(self._read, run, session)
        runs = await stored.runs(session)
        newest = runs[-1].token if runs else 0
        if not runs or (note is not None and note.token >= newest):
            path = note.path if note is not None else None
            if path is None or await asyncio.to_thread(self._is_there, path):
                return Carried(session if path is None else str(path))
            if not runs:
                raise CannotCarry(f"{path} is gone, and nothing is stored of the session")
        files = await assemble(stored, runs, session)
        path = await asyncio.to_thread(self._write, run, session, files)
        log.info(
            "session %s goes on here, put together from %d stored runs",
            session,
            len(runs),
            extra={"task": run.task.task_id},
        )
        return Carried(str(path), rebuilt=True, unsure=not runs[-1].asked)

    async def begins(self, run: Run, session: str, word: str) -> None:
        """A run of the session begins here. Raises OSError."""
        path = Path(word) if word.endswith(".jsonl") else None
        await asyncio.to_thread(self._note, run, Note(session, run.task.fencing_token, path))

    async def is_bare(self, run: Run, directory: Path) -> bool:
        """Whether it is the task's own directory, with no file that the agent has left: any host has one like it."""
        try:
            return await asyncio.to_thread(self._is_bare, run, directory)
        except OSError:
            return False

    # ── on the disk ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _is_bare(self, run: Run, directory: Path) -> bool:
        own = run.work_dir.absolute()
        if self.run_as is not None:
            own = self.run_as.place(own)
        if directory != own:
            return False
        if self.run_as is not None:
            listed = self.run_as.run('ls -A -- "$1"', own).splitlines()
        else:
            listed = [path.name for path in own.iterdir()]
        return not set(listed) - {DIRECTORY, NOTE, FOREIGN}

    def _read(self, run: Run, session: str) -> Note | None:
        try:
            fields = json_file.read(run.work_dir / NOTE, _NOTE_BYTES)
            token, path = fields.get("token"), json_file.text(fields, "path", "")
        except (OSError, ValueError):
            return None
        if fields.get("session") != session or not isinstance(token, int):
            return None
        if path and not self._is_ours(run, session, Path(path)):
            return None
        return Note(session, token, Path(path) if path else None)

    def _is_ours(self, run: Run, session: str, path: Path) -> bool:
        """Whether `_write` would have put it there. Without `run_as` an agent may have written the note, whatever its sandbox keeps it
        from reading: the file of another task, say."""
        named = Path(DIRECTORY, f"{session}.jsonl")
        if self.run_as is not None:
            return path.parts[-2:] == named.parts
        return path == run.work_dir / named

    def _note(self, run: Run, note: Note) -> None:
        run.work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        document = {"session": note.session, "token": note.token, "path": "" if note.path is None else str(note.path)}
        write_atomically(run.work_dir / NOTE, json.dumps(document), durable=True)

    def _is_there(self, path: Path) -> bool:
        if self.run_as is None:
            return path.is_file() and not path.is_symlink()
        return self.run_as.script('[ -f "$1" ] && [ ! -L "$1" ]', path).returncode == 0

    def _write(self, run: Run, session: str, files: Mapping[str, bytes]) -> Path:
        """All files of the session, or none: it is written beside its place, and moved there."""
        run.work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        home = run.work_dir if self.run_as is None else foreign.use(self.run_as, run.work_dir)
        place, draft = home / DIRECTORY, home / f"{DIRECTORY}.new"
        try:
            self._remove(draft)
            for name, content in files.items():
                self._create(draft / name, content)
            self._remove(place)
            if self.run_as is None:
                draft.rename(place)
            else:
                self.run_as.run('mv -- "$1" "$2"', draft, place)
        except OSError:
            with suppress(OSError):
                self._remove(draft)
            raise
        return place / f"{session}.jsonl"

    def _remove(self, path: Path) -> None:
        if self.run_as is not None:
            self.run_as.remove(path)
        elif os.path.lexists(path) and (left := remove_tree(path)):
            raise OSError(f"cannot remove {path}: {left}")

    def _create(self, path: Path, content: bytes) -> None:
        if self.run_as is None:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(content)
            return
        script = 'umask 077; mkdir -p -- "$1" && cat >"$2"'
        words = ["/bin/sh", "-c", script, "turbo", str(path.parent), str(path)]
        with self.run_as.popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        ) as process:
            try:
                _, stderr = process.communicate(content, timeout=WRITE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise OSError(f"{path}: could not be written within {WRITE_SECONDS:g} s") from None
        if process.returncode != 0:
            raise OSError(f"{path}: {stderr.decode('utf-8', 'replace').strip() or 'cannot be written'}")


async def assemble(stored: StoredSessions, runs: Sequence[SessionRun], session: str) -> dict[str, bytes]:
    """The files of a session by their paths, all of them whole. Raises CannotCarry, OSError."""
    if (total := sum(run.bytes for run in runs)) > MOST_BYTES:
        raise CannotCarry(f"the session has {total:,} bytes, more than the {MOST_BYTES:,} that go on on another host")
    files: dict[str, list[bytearray]] = {}
    for run in runs:
        what = f"the transcript of run {run.token} of {run.task_id}"
        if run.complete is False or (run.complete is None and run.over):
            raise CannotCarry(f"{what} is not complete")
        digests: dict[tuple[LineKind, str], hashlib._Hash] = {}
        number, of_run = 0, set[str]()
        async for batch in stored.batches(run):
            if batch.batch != number:
                raise CannotCarry(f"{what} has no batch {number}")
            number += 1
            content = batch.lines.encode("utf-8", "surrogatepass")
            digest = digests.setdefault((batch.kind, batch.path), hashlib.sha256())
            digest.update(content)
            if digest.digest() != batch.sha256:
                raise CannotCarry(f"{what} does not match its checksum in batch {batch.batch}: somebody has changed it")
            if batch.kind is LineKind.SESSION and batch.session_id == session:
                if not _PATH.fullmatch(batch.path) or batch.path.split("/")[0].removesuffix(".jsonl") != session:
                    raise CannotCarry(f"{what} names a file that is none of its session")
                parts = files.setdefault(batch.path, [])
                if batch.path in of_run:
                    parts[-1] += content
                else:
                    of_run.add(batch.path)
                    parts.append(bytearray(content))
    main = f"{session}.jsonl"
    if main not in files:
        raise CannotCarry("nothing is stored of the session itself")
    if (gap := await asyncio.to_thread(_gap, files[main])) is not None:
        raise CannotCarry(f"a part of the session is not stored: {gap}")
    return {path: b"".join(parts) for path, parts in files.items()}


def _gap(parts: Sequence[bytes | bytearray]) -> str | None:
    """Whether a part goes on with a row that no part before it has: a task of the conversation was deleted, with its transcript."""
    known: set[object] = set()
    for number, part in enumerate(parts):
        linked = number == 0
        for line in part.splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                return "a row that is no JSON"
            if not isinstance(row, dict):
                return "a row that is no object"
            parent = row.get("parentUuid")
            if not linked and isinstance(parent, str):
                if parent not in known:
                    return f"row {parent}"
                linked = True
            known.add(row.get("uuid"))
    return None
