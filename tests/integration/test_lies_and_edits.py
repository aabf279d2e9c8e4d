"""What a worker that lies writes into a row, and what an admin writes there that no insert could: others go on, and each such
row has one clear end."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.logins import login
from tests.support.shell import Shell
from tests.support.steps import claim_one, ended, registered
from turbo import Client
from turbo.db.claimed import DEFAULT_TIMEOUT_SECONDS
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.result import RunResult
from turbo.domain.states import RescueReason, Verdict
from turbo.host.spool import Spool
from turbo.migrate import grant_roles

LOWEST, HIGHEST = -(2**63), 2**63 - 1


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection]:
    grant_roles(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def insert(db: psycopg.Connection, *tasks: str) -> None:
    for task in tasks:
        db.execute("insert into agent_tasks (task_id, task_description, input_data) values (%s, 'x', '{}')", [task])


@pytest.mark.parametrize("token", [LOWEST, LOWEST + 1, HIGHEST, HIGHEST - 1])
async def test_token_of_a_liar_disturbs_no_other_row(dsn: str, db: psycopg.Connection, token: int) -> None:
    """As a member of turbo_worker, who may write it."""
    async with registered(dsn) as stores:
        insert(db, "good")
        held = await claim_one(stores)
        insert(db, "bad")
        with login(dsn, "turbo_worker") as liar, psycopg.connect(liar, autocommit=True) as lying:
            lie = "update agent_tasks set fencing_token = %s, turbo_rev = turbo_rev + 1 where task_id = 'bad'"
            lying.execute(lie, [token])
        assert await stores.registry.known({"owner": [ClaimRef("bad", 7), held]}) == {"owner"}
        assert (await stores.claims.reassert({ClaimRef("bad", 7): None})).refused == ()
        with Client(dsn) as client:
            assert client.run("bad").fencing_token == min(abs(token), HIGHEST)
        answers = await stores.results.finish([ended(held), ended(ClaimRef("bad", 7))])
        assert {answer.task_id: answer.verdict for answer in answers} == {"good": Verdict.RECORDED, "bad": Verdict.LATE}
        again = await claim_one(stores)
        assert again.task_id == "bad"
        assert 0 < again.token <= HIGHEST
        assert [answer.verdict for answer in await stores.results.finish([ended(again)])] == [Verdict.RECORDED]


async def test_lies_of_a_running_row_stop_no_cancel(dsn: str, db: psycopg.Connection) -> None:
    """A worker's id too long for a notification, and a token that has no negative: the other rows are cancelled with theirs."""
    async with registered(dsn) as stores:
        insert(db, "long", "lowest", "good")
        await stores.claims.claim("default", 3, may_idle=True)
        db.execute(
            "update agent_tasks set assigned_worker_id = repeat('w', 9000), turbo_rev = turbo_rev + 1 where task_id = 'long'"
        )
        db.execute(
            "update agent_tasks set fencing_token = %s, turbo_rev = turbo_rev + 1 where task_id = 'lowest'", [LOWEST]
        )
        db.execute("update agent_tasks set status = 'cancelled'")
        told = dict(db.execute("select task_id, cancel_to from agent_tasks").fetchall())
        assert told == {"long": "cancelled", "lowest": None, "good": "cancelled"}
        db.execute("update agent_tasks set status = 'pending' where task_id = 'lowest'")
        row = db.execute("select status, fencing_token from agent_tasks where task_id = 'lowest'").fetchone()
        assert row == ("pending", LOWEST)


@pytest.mark.parametrize("count", [2**31 - 1, -(2**31), 5000])
async def test_count_of_a_liar_stops_no_rescue(dsn: str, db: psycopg.Connection, count: int) -> None:
    """Also not of a task that is being stopped, whose new moment is computed from the count."""
    async with registered(dsn) as stores:
        insert(db, "bad", "stopping", "good")
        await stores.claims.claim("default", 3, may_idle=True)
        db.execute("update agent_tasks set status = 'scheduled' where task_id = 'stopping'")
        with login(dsn, "turbo_worker") as liar, psycopg.connect(liar, autocommit=True) as lying:
            lie = "update agent_tasks set infra_count = %s, turbo_rev = turbo_rev + 1 where task_id <> 'good'"
            lying.execute(lie, [count])
        db.execute("update agent_workers set state = 'dead'")
        await stores.registry.rescue(RescueReason.WORKER_SILENT)
        statuses = dict(db.execute("select task_id, status from agent_tasks").fetchall())
        bad = "failed" if count > 0 else "scheduled"
        assert statuses == {"bad": bad, "stopping": "scheduled", "good": "scheduled"}
        db.execute("update agent_tasks set status = 'pending'")
        db.execute("update agent_workers set state = 'up'")
        db.execute("update agent_tasks set infra_count = %s, turbo_rev = turbo_rev + 1 where task_id = 'bad'", [count])
        held = {task.task_id: task for task in (await stores.claims.claim("default", 3, may_idle=True)).tasks}
        ends = [ended(ClaimRef(t, held[t].fencing_token), OutcomeKind.INFRASTRUCTURE) for t in ("bad", "good")]
        answers = {answer.task_id: answer.becomes for answer in await stores.results.finish(ends)}
        assert answers == {"bad": bad, "good": "scheduled"}


GOOD = {"kind": "question", "text": "?", "asked_at": "2026-01-01 00:00:00+00", "number": 1, "remind_seconds": 60}
QUESTIONS: dict[str, object] = {
    "no object": [GOOD],
    "a text": "?",
    "no moment": GOOD | {"asked_at": "nonsense"},
    "no finite moment": GOOD | {"asked_at": "infinity"},
    "no deadline": GOOD | {"answer_by": "soon"},
    "a hold until never": GOOD | {"kind": "hold", "run_after": "x"},
    "no number": GOOD | {"number": "first"},
    "a number out of range": GOOD | {"number": 2**31 - 1},
    "reminders without end": GOOD | {"remind_seconds": 1e-300},
    "a number of 400 digits": GOOD | {"remind_seconds": 10**400},
    "a hold of one": {"kind": "hold", "held": GOOD | {"asked_at": "nonsense"}},
}


def test_question_of_a_liar_breaks_no_list(dsn: str, db: psycopg.Connection, shell: Shell) -> None:
    """A question that turbo could not have written is refused; any other is shown."""
    insert(db, "t", "bare")
    write = (
        "update agent_tasks set status = 'waiting', question = %s::jsonb, turbo_rev = turbo_rev + 1 where task_id = %s"
    )
    with login(dsn, "turbo_worker") as liar, psycopg.connect(liar, autocommit=True) as lying:
        for name, question in QUESTIONS.items():
            with pytest.raises((psycopg.DataError, psycopg.IntegrityError)):
                lying.execute(write, [json.dumps(question), "t"])
            assert db.execute("select question from agent_tasks where task_id = 't'").fetchone() == (None,), name
        lying.execute(write, [json.dumps(GOOD | {"questions": [1, {"question": 5}], "input": [1], "text": 7}), "t"])
        lying.execute(write, ["{}", "bare"])
    for words in (("tasks",), ("status",), ("top", "--once"), ("questions", "--json"), ("show", "t"), ("show", "bare")):
        done = shell(*words)
        assert done.code == 0, (words, done.err)


def test_token_without_a_negative_is_set_aside(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.put(RunResult("t", LOWEST, "succeeded", worker_id="w"))
    spool.put(RunResult("t", LOWEST + 1, "succeeded", worker_id="w"))
    assert [entry.result.fencing_token for entry in spool.pending()] == [LOWEST + 1]


EDITS: dict[str, str | None] = {
    "timeout_seconds = -5": "timeout_seconds is -5; write at least 1",
    "timeout_seconds = 0": "timeout_seconds is 0; write at least 1",
    "timeout_seconds = null": None,
    "max_retries = -2147483648": None,
    "retry_count = -2147483648": None,
    "task_description = ''": None,
    "concurrency_key = repeat('k', 200000)": "concurrency_key is longer than 500 characters",
    "concurrency_key = repeat('k', 500)": None,
}
"""And the failure of the task; None if it may run."""


async def test_each_edit_of_an_admin_has_one_clear_end(dsn: str, db: psycopg.Connection) -> None:
    with login(dsn, "turbo_admin") as admin, psycopg.connect(admin, autocommit=True) as editing:
        for edit in EDITS:
            insert(db, edit)
            editing.execute(f"update agent_tasks set {edit} where task_id = %s".encode(), [edit])
        insert(db, "noise")
        with pytest.raises(psycopg.errors.ProgramLimitExceeded):  # what an index cannot take is refused at once
            editing.execute(
                "update agent_tasks set concurrency_key = %s where task_id = 'noise'", [secrets.token_hex(320_000)]
            )
    async with registered(dsn) as stores:
        claimed = {task.task_id: task for task in (await stores.claims.claim("default", 20, may_idle=True)).tasks}
        assert set(claimed) == {*EDITS, "noise"}
        for edit, failure in EDITS.items():
            task = claimed[edit]
            assert (failure is None) == (task.input_error is None), edit
            assert (failure or "") in (task.input_error or "")
            assert task.timeout_seconds >= 1
            assert task.max_retries >= 0
            assert task.attempt >= 1
            assert len(task.concurrency_key or "") <= 501
        assert claimed["timeout_seconds = null"].timeout_seconds == DEFAULT_TIMEOUT_SECONDS
        for edit, becomes in {"max_retries = -2147483648": "failed", "retry_count = -2147483648": "scheduled"}.items():
            held = ClaimRef(edit, claimed[edit].fencing_token)
            (answer,) = await stores.results.finish([ended(held, OutcomeKind.FAILED)])
            assert answer.becomes == becomes
        count = db.execute("select retry_count from agent_tasks where task_id like 'retry%'").fetchone()
        assert count == (1,), "it has no more attempts than any other"
