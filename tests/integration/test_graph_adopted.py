"""Graphs and follow-ups of tasks in adopted tables: ids of other types, an enum as status, timestamps without a zone."""

import psycopg

from tests.support.adoption import each, make
from tests.support.graphs import settle, tie
from tests.support.odd_tables import OddTable
from tests.support.shell import Shell
from turbo import Client, NewTask
from turbo.migrate import migrate


@each
def test_adopted_tasks_hang_together(empty_dsn: str, table: OddTable, tmp_path) -> None:  # type: ignore[no-untyped-def]
    make(empty_dsn, table, 50)
    migrate(empty_dsn)
    shell = Shell(empty_dsn, tmp_path)
    with Client(empty_dsn) as client, psycopg.connect(empty_dsn, autocommit=True) as db:
        found = db.execute("select task_id::text from agent_tasks where status::text = 'pending' limit 1").fetchone()
        assert found is not None
        plan = str(found[0])
        ids = {"uuid": [f"00000000-0000-4000-8000-00000000000{n}" for n in range(2)]}.get(_kind(db), ["901", "902"])
        client.submit_many(
            [
                NewTask("a", task_id=ids[0], task_type="mine", needs=[plan], parent_task_id=plan),
                NewTask("b", task_id=ids[1], task_type="mine", needs=[ids[0]], on_needs_failed="wait"),
            ]
        )
        task = client.get(ids[0])
        assert (task.status, task.needs, task.parent_task_id) == ("blocked", [plan], plan)
        tie(empty_dsn)
        graph = client.graph(plan)
        assert {(edge.task_id, edge.needs, edge.mode) for edge in graph.edges} == {
            (ids[0], plan, "cancel"), (ids[1], ids[0], "wait"),
        }  # fmt: skip
        assert client.dependents(plan).blocked == 2
        assert client.blocked(ids[1])[0].waits_for[0].task_id == ids[0]
        assert [one.task_id for one in client.relations(plan).dependents] == [ids[0]]
        assert client.tell(ids[0], "x").task_id == ids[0]
        assert shell("graph", ids[1]).code == 0
        assert "needs" in shell("show", ids[0]).out
        assert {one.task_id for one in client.cancel(ids[1], graph=True)} == {plan, *ids}
        assert {one.task_id for one in client.retry(ids[1], graph=True)} == {plan, *ids}
        db.execute("update agent_tasks set status = 'cancelled' where task_id::text = %s", [plan])
        settle(empty_dsn)
        assert (client.get(ids[0]).status, client.get(ids[1]).status) == ("cancelled", "blocked")
        client.retry(plan)
        settle(empty_dsn)
        assert (client.get(ids[0]).status, client.get(ids[1]).status) == ("blocked", "blocked")
        db.execute("update agent_tasks set needs = null where task_id::text = %s", [ids[0]])
        settle(empty_dsn)
        assert client.get(ids[0]).status == "pending"


def _kind(db: psycopg.Connection) -> str:
    found = db.execute(
        "select format_type(atttypid, null) from pg_attribute where attrelid = 'agent_tasks'::regclass and attname = 'task_id'"
    ).fetchone()
    assert found is not None
    return str(found[0])
