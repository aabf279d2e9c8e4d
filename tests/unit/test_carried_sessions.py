"""A session put together from stored runs: what is refused, and what is on the disk afterwards."""

import asyncio
import hashlib
import json
import resource
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from turbo.domain.run import Run
from turbo.domain.session import SessionRun
from turbo.domain.task import Task
from turbo.domain.transcript import OWN_PATH, LineKind, TranscriptBatch, end_line
from turbo.executors.claude.carried import DIRECTORY, NOTE, CannotCarry, SessionFiles

SESSION = "3d9a7263-bde2-4a4c-937a-f934531f7628"
MAIN, CHILD = f"{SESSION}.jsonl", f"{SESSION}/subagents/agent-1.jsonl"


def row(number: int, text: str = "x") -> str:
    return json.dumps({"uuid": f"u{number}", "parentUuid": f"u{number - 1}" if number else None, "text": text}) + "\n"


@dataclass
class Stored:
    known: list[tuple[SessionRun, list[TranscriptBatch]]] = field(default_factory=list)

    def add(self, token: int, *lines: tuple[str, str], complete: bool | None = True, over: bool = True) -> None:
        batches: list[TranscriptBatch] = []
        digests: dict[str, hashlib._Hash] = {}
        for number, (path, text) in enumerate(lines):
            digest = digests.setdefault(path, hashlib.sha256())
            digest.update(text.encode())
            batches.append(TranscriptBatch(number, SESSION, LineKind.SESSION, path, text, digest.digest()))
        if complete is not None:
            end = end_line(None if complete else "too long")
            batches.append(
                TranscriptBatch(len(lines), None, LineKind.EVENT, OWN_PATH, end, hashlib.sha256(end.encode()).digest())
            )
        size = sum(len(text) for _, text in lines)
        self.known.append((SessionRun("t", token, size, complete, over=over, asked=over), batches))

    async def runs(self, session_id: str) -> Sequence[SessionRun]:
        assert session_id == SESSION
        return [run for run, _ in self.known]

    async def batches(self, run: SessionRun) -> AsyncIterator[TranscriptBatch]:
        for batch in {one.token: batches for one, batches in self.known}[run.token]:
            yield batch

    async def pin(self, task_id: str) -> str | None:
        raise AssertionError(task_id)


@pytest.fixture
def stored() -> Stored:
    one = Stored()
    one.add(1, (MAIN, row(0)), (CHILD, row(0)), (MAIN, row(1)))
    one.add(2, (MAIN, row(2)))
    return one


def a_run(tmp_path: Path, token: int = 3) -> Run:
    return Run(Task("t", "x", "x", fencing_token=token), tmp_path / "tasks" / "t", tmp_path / "log")


async def test_runs_are_put_together_in_order(stored: Stored, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    found = await SessionFiles().resume(run, stored, SESSION)
    place = run.work_dir / DIRECTORY
    assert (found.word, found.rebuilt, found.unsure) == (str(place / MAIN), True, False)
    assert (place / MAIN).read_text() == row(0) + row(1) + row(2)
    assert (place / CHILD).read_text() == row(0)
    assert {path.stat().st_mode & 0o777 for path in place.rglob("*.jsonl")} == {0o600}


async def test_newest_state_is_resumed(stored: Stored, tmp_path: Path) -> None:
    files = SessionFiles()
    await files.begins(a_run(tmp_path, 2), SESSION, SESSION)
    assert (await files.resume(a_run(tmp_path), stored, SESSION)).word == SESSION, "the CLI has the newest run here"
    stored.add(3, (MAIN, row(3)))
    found = await files.resume(a_run(tmp_path, 4), stored, SESSION)
    assert found.rebuilt, "another host went on"
    await files.begins(a_run(tmp_path, 4), SESSION, found.word)
    path = Path(found.word)
    path.write_text(path.read_text() + row(4))  # as the CLI does
    stored.add(4, (MAIN, row(4)))
    again = await files.resume(a_run(tmp_path, 5), stored, SESSION)
    assert (again.word, again.rebuilt) == (found.word, False)
    Path(found.word).unlink()
    assert (await files.resume(a_run(tmp_path, 5), stored, SESSION)).rebuilt, "it was lost, and the table has it"


async def test_session_that_nothing_is_stored_of_is_resumed_by_id(tmp_path: Path) -> None:
    assert (await SessionFiles().resume(a_run(tmp_path), Stored(), SESSION)).word == SESSION


async def test_run_that_was_cut_off_counts_if_it_left_no_result(stored: Stored, tmp_path: Path) -> None:
    stored.add(3, (MAIN, row(3)), complete=None, over=False)
    found = await SessionFiles().resume(a_run(tmp_path, 4), stored, SESSION)
    assert (found.rebuilt, found.unsure) == (True, True)


def cut(stored: Stored) -> None:
    stored.add(3, (MAIN, row(3)), complete=False)


def late(stored: Stored) -> None:
    stored.add(3, (MAIN, row(3)), complete=None)


def changed(stored: Stored) -> None:
    batches = stored.known[0][1]
    batches[0] = replace(batches[0], lines=row(0, "y"))


def lost_batch(stored: Stored) -> None:
    del stored.known[0][1][1]


def lost_run(stored: Stored) -> None:
    stored.add(3, (MAIN, row(3)))
    del stored.known[1]


def huge(stored: Stored) -> None:
    for token in (3, 4, 5, 6):
        stored.known.append((SessionRun("t", token, 50_000_000, True, over=True, asked=True), []))


def elsewhere(stored: Stored) -> None:
    stored.add(3, (f"{SESSION}/../../../x.jsonl", row(3)))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (cut, "is not complete"), (late, "is not complete"), (changed, "does not match its checksum"), (lost_batch, "has no batch 1"),
        (lost_run, "a part of the session is not stored: row u2"), (huge, "200,000,"), (elsewhere, "none of its session"),
    ],
)  # fmt: skip
async def test_what_is_not_whole_is_not_resumed(harm: object, why: str, stored: Stored, tmp_path: Path) -> None:
    assert callable(harm)
    harm(stored)
    with pytest.raises(CannotCarry, match=why):
        await SessionFiles().resume(a_run(tmp_path, 9), stored, SESSION)
    assert not (tmp_path / "tasks" / "t" / DIRECTORY).exists()


@contextmanager
def small_files(most: int) -> Iterator[None]:
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


async def test_full_disk_leaves_the_older_file_and_no_half_one(stored: Stored, tmp_path: Path) -> None:
    files, run = SessionFiles(), a_run(tmp_path)
    word = (await files.resume(run, stored, SESSION)).word
    stored.add(3, (MAIN, row(3, "x" * 5000)))
    with small_files(4096), pytest.raises(OSError, match="File too large"):
        await files.resume(run, stored, SESSION)
    assert Path(word).read_text() == row(0) + row(1) + row(2)
    assert [path.name for path in run.work_dir.iterdir()] == [DIRECTORY]
    assert (await files.resume(run, stored, SESSION)).rebuilt, "the next attempt writes it"


async def test_note_of_another_session_or_place_counts_as_none(stored: Stored, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    run.work_dir.mkdir(parents=True)
    elsewhere_on_disk = json.dumps({"session": SESSION, "token": 9, "path": "/etc/passwd"})
    other = tmp_path / "tasks" / "other" / DIRECTORY
    other.mkdir(parents=True)
    for name in (MAIN, "another.jsonl"):
        (other / name).write_text(row(0, "a secret of another task"))
    of_another_task = [
        json.dumps({"session": SESSION, "token": 9, "path": str(other / name)}) for name in (MAIN, "another.jsonl")
    ]
    for wrong in ("{", "[]", elsewhere_on_disk, *of_another_task, json.dumps({"session": "x", "token": 9})):
        await asyncio.to_thread((run.work_dir / NOTE).write_text, wrong)
        assert (await SessionFiles().resume(run, stored, SESSION)).rebuilt


async def test_own_directory_is_bare_until_a_file_is_left(tmp_path: Path) -> None:
    run, files = a_run(tmp_path), SessionFiles()
    await files.begins(run, SESSION, SESSION)
    assert await files.is_bare(run, run.work_dir.absolute())
    assert not await files.is_bare(run, tmp_path), "a directory of the operator's says nothing"
    (run.work_dir / "report").touch()
    assert not await files.is_bare(run, run.work_dir.absolute())
