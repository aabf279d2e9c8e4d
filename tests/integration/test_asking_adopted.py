"""Questions of tasks in adopted tables: ids of other types, an enum as status, timestamps without a zone."""

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support.adoption import each, make
from tests.support.asking import asks
from tests.support.migrations import query
from tests.support.odd_tables import OddTable
from tests.support.steps import claim_one, registered
from turbo import Client, NotWaiting
from turbo.domain.claim import ClaimRef
from turbo.domain.question import Then
from turbo.migrate import migrate


@each
async def test_adopted_task_asks_expires_and_is_answered(empty_dsn: str, table: OddTable) -> None:
    make(empty_dsn, table, 50)
    migrate(empty_dsn)
    own = {"task_type": "mine", "task_description": "x", "task_priority": 9}
    if table.name == "bare":
        own["task_id"] = 999  # its ids have no default
    names = ", ".join(own)
    with Client(empty_dsn) as client, psycopg.connect(empty_dsn, autocommit=True, row_factory=dict_row) as db:
        inserted = db.execute(
            f"insert into agent_tasks ({names}) values ({', '.join(f'%({n})s' for n in own)}) returning task_id::text",
            own,
        ).fetchone()
        assert inserted is not None
        task_id = inserted["task_id"]
        only = f"task_id::text = '{task_id}'"

        def row() -> dict[str, object]:
            found = db.execute(f"select *, status::text as status from agent_tasks where {only}").fetchone()
            assert found is not None
            return found

        db.execute(f"update agent_tasks set status = 'cancelled' where status::text = 'pending' and not {only}")
        async with registered(empty_dsn) as stores:
            first = await claim_one(stores)
            assert first.task_id == task_id
            (answer,) = await stores.results.finish([asks(first, within=3600)])
            assert (answer.verdict, answer.becomes, row()["prefer_host"]) == ("recorded", "waiting", "h")
            (replayed,) = await stores.results.finish([asks(first, within=3600)])
            assert replayed.verdict == "already"
            (one,) = client.questions()
            assert (one.task_id, one.text, one.host_live) == (task_id, "Which database?", True)
            db.execute(f"update agent_tasks set run_after = now() where {only}")
            assert (await stores.claims.poll(["default"])).due == 1
            assert (row()["status"], row()["question"]["expired"]) == ("pending", True)  # type: ignore[index]

            second = await claim_one(stores)
            await stores.results.finish([asks(second, "And now?", then=Then.FAIL)])
            (shown,) = client.questions()
            assert client.answer(shown, "SQLite").status == "pending"
            with pytest.raises(NotWaiting):
                client.answer(task_id, "PostgreSQL")
            db.execute(f"update agent_tasks set status = 'waiting' where {only}")
            assert client.approve(task_id)[0].status == "pending"
            (task,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
            assert [(a.question.text, a.answer) for a in task.answers] == [
                ("Which database?", None),
                ("And now?", "SQLite"),
            ]
            # A failover loses the answer and the claim, while the run goes on.
            claim = ClaimRef(task_id, task.fencing_token)
            with db.transaction():
                db.execute("set local session_replication_role = replica")
                db.execute(
                    "update agent_tasks set status = 'waiting', answer = null, assigned_worker_id = null, fencing_token = %s"
                    f" where {only}",
                    [-second.token],
                )
                db.execute(f"delete from agent_actions where {only} and fencing_token = %s", [claim.token])
            await stores.claims.reassert({claim: task.last_answered})
            assert (row()["status"], row()["answer"], row()["fencing_token"]) == ("running", "SQLite", claim.token)
            db.execute(f"update agent_tasks set status = 'cancelled' where {only}")
            assert row()["cancel_to"] == "cancelled"
    trail = query(empty_dsn, f"select action_type from agent_actions where {only} order by executed_at, action_id")
    assert {"asked", "unanswered", "answered"} <= {str(kind) for (kind,) in trail}
