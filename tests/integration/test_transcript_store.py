"""`agent_transcripts`: what a worker writes into it, and what becomes of it with its task."""

import hashlib

import psycopg
import pytest

from tests.support.steps import ended
from tests.support.stores import Stores
from turbo.db.lane import Lane
from turbo.db.transcript_store import StoredRun, TranscriptStore, WriteVerdict
from turbo.domain.claim import ClaimRef
from turbo.domain.transcript import OWN_PATH, LineKind, TranscriptBatch, end_line

SESSION = "6f1c0a52-0000-4000-8000-000000000001"


@pytest.fixture
async def transcripts(dsn: str) -> TranscriptStore:
    return TranscriptStore(Lane(dsn, "turbo transcripts"))


async def claimed(stores: Stores, db: psycopg.Connection, task_id: str = "t") -> ClaimRef:
    db.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [task_id])
    (task,) = (await stores.claims.claim("default", 1, may_idle=False)).tasks
    return ClaimRef(task.task_id, task.fencing_token)


def batch(number: int, lines: str, *, path: str = f"{SESSION}.jsonl", session: str = SESSION) -> TranscriptBatch:
    return TranscriptBatch(number, session, LineKind.SESSION, path, lines, hashlib.sha256(lines.encode()).digest())


def ending(number: int, why: str | None = None) -> TranscriptBatch:
    return TranscriptBatch(number, SESSION, LineKind.EVENT, OWN_PATH, end_line(why), b"")


def stored(db: psycopg.Connection) -> list[tuple[object, ...]]:
    return db.execute(
        "select task_id::text, fencing_token, batch, kind, path, lines from agent_transcripts order by 1, 2, 3"
    ).fetchall()


async def test_batches_are_stored_once(stores: Stores, db: psycopg.Connection, transcripts: TranscriptStore) -> None:
    claim = await claimed(stores, db)
    batches = [(claim, batch(0, '{"a":1}\n')), (claim, batch(1, '{"b":"ü \\u0000"}\n'))]
    assert await transcripts.write(batches) == {claim: WriteVerdict.STORED}
    assert await transcripts.write([*batches, (claim, ending(2))]) == {claim: WriteVerdict.STORED}
    assert [row[2] for row in stored(db)] == [0, 1, 2]
    assert await transcripts.read(claim, after=0, limit=1) == [batch(1, '{"b":"ü \\u0000"}\n')]
    assert [one.end for one in await transcripts.read(claim)] == [None, None, True]


async def test_late_run_is_stored_and_strangers_are_not(
    stores: Stores, db: psycopg.Connection, transcripts: TranscriptStore
) -> None:
    claim = await claimed(stores, db)
    db.execute("update agent_tasks set status = 'cancelled' where task_id = 't'")
    late, never = ClaimRef("t", claim.token), ClaimRef("t", claim.token + 1_000)
    gone = ClaimRef("nothing", claim.token)
    found = await transcripts.write([(late, batch(0, "{}\n")), (never, batch(0, "{}\n")), (gone, batch(0, "{}\n"))])
    assert found == {late: WriteVerdict.STORED, never: WriteVerdict.UNKNOWN, gone: WriteVerdict.GONE}
    assert [row[:2] for row in stored(db)] == [("t", claim.token)]


async def test_session_lists_its_runs_in_order(
    stores: Stores, db: psycopg.Connection, transcripts: TranscriptStore
) -> None:
    first, second, third = [await claimed(stores, db, name) for name in ("a", "b", "c")]
    rows = [(third, batch(0, "{}\n")), (first, batch(0, "{}\n")), (first, ending(1)), (second, batch(0, "é\n"))]
    rows += [(second, ending(1, "the disk is full")), (third, batch(1, "{}\n", path=f"{SESSION}/subagents/x.jsonl"))]
    await transcripts.write(rows)
    assert await transcripts.runs(SESSION) == [
        StoredRun(first, 1, 3, True),
        StoredRun(second, 1, 3, False),
        StoredRun(third, 2, 6, None),
    ]
    assert await transcripts.runs("another") == []


@pytest.mark.parametrize("how", ["delete from agent_tasks where task_id = 'a'", "truncate agent_tasks"])
async def test_deleted_task_takes_its_transcript(
    stores: Stores, db: psycopg.Connection, transcripts: TranscriptStore, how: str
) -> None:
    gone, kept = [await claimed(stores, db, name) for name in ("a", "b")]
    await transcripts.write([(gone, batch(0, "{}\n")), (kept, batch(0, "{}\n"))])
    await stores.results.finish([ended(gone), ended(kept)])
    db.execute(how.encode())
    assert [row[0] for row in stored(db)] == (["b"] if "where" in how else [])


async def test_transcript_follows_its_task_to_another_id(
    stores: Stores, db: psycopg.Connection, transcripts: TranscriptStore
) -> None:
    claim = await claimed(stores, db, "a")
    await transcripts.write([(claim, batch(0, "{}\n"))])
    await stores.results.finish([ended(claim)])
    db.execute("update agent_tasks set task_id = 'z' where task_id = 'a'")
    assert [row[0] for row in stored(db)] == ["z"]


async def test_last_lines_wait_for_a_delete_under_way(
    stores: Stores, db: psycopg.Connection, transcripts: TranscriptStore, dsn: str
) -> None:
    """Else they would stay behind for the next task of that id."""
    claim = await claimed(stores, db)
    await stores.results.finish([ended(claim)])
    with psycopg.connect(dsn) as person:
        person.execute("delete from agent_tasks")
        assert await transcripts.write([(claim, ending(0))]) == {claim: WriteVerdict.UNKNOWN}
        person.rollback()
        assert await transcripts.write([(claim, ending(0))]) == {claim: WriteVerdict.STORED}
        person.execute("delete from agent_tasks")
        person.commit()
    assert await transcripts.write([(claim, ending(1))]) == {claim: WriteVerdict.GONE}
    assert stored(db) == []
