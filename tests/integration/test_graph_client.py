"""Graphs, follow-ups and messages, as a program uses them. The same tests for both clients."""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.test_python_client import KINDS, Blocking
from tests.support.graphs import settle, tie
from tests.support.waiting import until
from turbo import BadField, Client, NewTask, Refused, UnknownTask


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, dsn: str) -> Iterator[Any]:
    one = Client(dsn) if request.param == "sync" else Blocking(dsn)
    yield one
    one.close()


def edges(graph: Any) -> set[tuple[str, str]]:
    return {(edge.task_id, edge.needs) for edge in graph.edges}


def test_submitted_needs_block_and_are_read_back(client: Any) -> None:
    client.submit("plan", task_id="plan")
    client.submit("do", task_id='do "it", \\now', needs=["plan", "plan"], on_needs_failed="wait", parent_task_id="plan")
    task = client.get('do "it", \\now')
    assert (task.status, task.needs, task.on_needs_failed, task.parent_task_id) == ("blocked", ["plan"], "wait", "plan")
    assert task.submitted_by == "postgres"
    client.submit("free", task_id="free", needs=[])
    assert (client.get("free").status, client.get("free").needs) == ("pending", None)


def test_one_statement_inserts_a_graph_with_unnamed_tasks(client: Any) -> None:
    tasks = [
        NewTask("part", needs=["plan"]),
        NewTask("plan", task_id="plan"),
        NewTask("x", task_id="all", needs=["plan"]),
    ]
    first, plan, last = client.submit_many([*tasks, NewTask("held", task_id="held", hold=True, needs=["plan"])])[:3]
    assert (plan.task_id, last.task_id) == ("plan", "all")
    assert client.get(first.task_id).needs == ["plan"]
    assert (client.get("held").status, client.get("held").needs) == ("waiting", ["plan"])


def test_ordinary_submit_names_no_column_of_work(client: Any, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("alter table agent_tasks rename column needs to elsewhere")
        with pytest.raises(psycopg.errors.UndefinedColumn):
            client.submit("x", needs=["a"])
        db.execute("alter table agent_tasks rename column elsewhere to needs")
        db.execute("alter table agent_tasks disable trigger user")
        db.execute("alter table agent_tasks rename column needs to elsewhere")
    assert client.submit("x", task_id="plain").created


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"needs": "plan"}, "needs: must be a list of task ids, not 'plan'"),
        ({"needs": ["plan", None]}, "needs: holds a null"),
        ({"needs": ["plan", " "]}, "needs: holds an empty id"),
        ({"needs": [7]}, "needs: must be text, not 7"),
        ({"needs": ["a\0"]}, "NUL"),
        ({"needs": ["me"], "task_id": "me"}, "needs: names the task itself"),
        ({"needs": [f"n{n}" for n in range(20_001)]}, "needs: names 20001 tasks, more than 20000"),
        ({"on_needs_failed": "hope"}, "on_needs_failed: is 'hope': write cancel, run, wait"),
        ({"continues": "me", "task_id": "me"}, "continues: names the task itself"),
        ({"continues": ""}, "continues: is empty"),
        ({"parent_task_id": 3}, "parent_task_id: must be text, not 3"),
    ],
)
def test_invalid_work_is_named_before_it_is_sent(values: dict[str, Any], said: str) -> None:
    with pytest.raises(BadField, match=said):
        NewTask("x", **values)


def test_unknown_need_is_refused_by_name(client: Any) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation, match="needs names 'nobody', and there is no such task"):
        client.submit("x", task_id="a", needs=["nobody"])
    with pytest.raises(UnknownTask):
        client.get("a")


def test_graph_goes_up_and_down_over_needs_and_turns(client: Any, dsn: str) -> None:
    for name, needs in (("plan", None), ("a", ["plan"]), ("b", ["plan"]), ("review", ["a", "b"]), ("other", None)):
        client.submit(name, task_id=name, needs=needs, on_needs_failed="run" if name == "review" else None)
    client.reply("plan", "more", new_id="reply")
    expected = {("a", "plan"), ("b", "plan"), ("review", "a"), ("review", "b"), ("reply", "plan")}
    before = client.graph("b")
    tie(dsn)
    for name in ("plan", "b", "review", "reply"):
        graph = client.graph(name)
        assert edges(graph) == expected
        assert {node.task_id for node in graph.nodes} == {"plan", "a", "b", "review", "reply"}
        assert graph.nodes[0].task_id == name
    assert edges(before) == expected, "before anybody has tied them"
    assert {e.task_id: (e.mode, e.continues) for e in graph.edges if e.needs == "plan"} == {
        "a": ("cancel", False), "b": ("cancel", False), "reply": ("run", True),
    }  # fmt: skip
    assert graph.by_status == {"blocked": 4, "pending": 1}
    assert [n.task_id for n in client.graph("other").nodes] == ["other"]
    with pytest.raises(UnknownTask):
        client.graph("nobody")


def test_large_graph_is_cut_to_the_nearest_tasks(client: Any, dsn: str) -> None:
    client.submit("hub", task_id="hub")
    client.submit_many([NewTask("x", task_id=f"n{n}", needs=["hub"]) for n in range(300)])
    tie(dsn)
    graph = client.graph("hub", nodes=100)
    assert (len(graph.nodes), len(graph.edges), graph.cut, graph.nodes[0].task_id) == (100, 99, True, "hub")
    graph = client.graph("hub", edges=50)
    assert (len(graph.nodes), len(graph.edges), graph.cut) == (301, 50, True)
    assert not client.graph("hub", nodes=301).cut
    assert len(client.graph("n7", nodes=None, edges=None).edges) == 300


def test_graph_is_cancelled_and_retried_as_a_whole(client: Any, dsn: str) -> None:
    for name, needs in (("plan", None), ("a", ["plan"]), ("review", ["a"])):
        client.submit(name, task_id=name, needs=needs)
    client.submit("other", task_id="other")
    tie(dsn)
    assert (client.dependents("plan").blocked, client.dependents(["a", "review"]).blocked) == (2, 0)
    assert {one.task_id for one in client.cancel("review", graph=True)} == {"a", "plan", "review"}
    assert client.get("other").status == "pending"
    assert client.cancel("review", graph=True) == []
    assert {(one.task_id, one.status) for one in client.retry("a", graph=True)} == {
        ("plan", "pending"), ("a", "blocked"), ("review", "blocked"),
    }  # fmt: skip
    with pytest.raises(UnknownTask):
        client.cancel("nobody", graph=True)
    with pytest.raises(ValueError, match="graph and anew"):
        client.retry("a", graph=True, anew=True)


def test_completed_tasks_are_not_retried_with_their_graph(client: Any, dsn: str) -> None:
    client.submit("plan", task_id="plan")
    client.submit("a", task_id="a", needs=["plan"])
    tie(dsn)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("update agent_tasks set status = 'completed' where task_id = 'plan'")
        db.execute("update agent_tasks set status = 'failed' where task_id = 'a'")
    assert [one.task_id for one in client.retry("plan", graph=True)] == ["a"]


def test_dependents_count_what_hangs_on_a_task(client: Any, dsn: str) -> None:
    client.submit("root", task_id="root")
    client.submit("a", task_id="a", needs=["root"])
    client.submit("b", task_id="b", needs=["a"])
    client.submit("whatever", task_id="whatever", needs=["root"], on_needs_failed="run")
    client.submit("behind", task_id="behind", needs=["whatever"])
    client.reply("root", "goes with it", new_id="reply")
    tie(dsn)
    assert (client.dependents("root").blocked, client.dependents("root").cancelled) == (3, 0), "a, b and the follow-up"
    assert client.dependents("a").blocked == 1
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("update agent_tasks set failure_kind = 'needs', status = 'cancelled' where task_id in ('a', 'b')")
    found = client.dependents(["root"])
    assert (found.blocked, found.cancelled, found.more) == (1, 2, False)


def test_status_of_a_blocked_task_says_for_what_it_waits(client: Any, dsn: str) -> None:
    client.submit("plan", task_id="plan")
    client.submit_many([NewTask("x", task_id=f"n{n}") for n in range(30)])
    client.submit("all", task_id="all", needs=["plan", *(f"n{n}" for n in range(30))])
    client.reply("plan", "more", new_id="reply")
    look = lambda: {one.task_id: one for one in next(iter(client.follow(["all", "reply", "plan"], timeout=30)))}  # noqa: E731
    assert look()["all"].blocked == "no worker has looked at it yet"
    tie(dsn)
    found = look()
    assert (found["plan"].blocked, found["plan"].needs) == (None, None)
    assert found["reply"].blocked == "waits for plan (pending)"
    assert (found["reply"].continues, found["reply"].needs) == ("plan", ("plan",))
    assert found["all"].blocked.endswith(" and 28 more")
    assert len(found["all"].needs) == 10
    (one,) = client.blocked(["all", "plan"])
    assert (one.needs_left, one.tied, len(one.waits_for)) == (31, True, 10)


def test_reply_inherits_and_says_why_it_is_refused(client: Any, dsn: str) -> None:
    client.submit("plan", task_id="plan", task_type="claude", queue="night", timeout_seconds=900, concurrency_key="k")
    reply = client.reply("plan", "Now the docs", priority=9, input_data={"a": 1}, idempotency_key="once")
    task = client.get(reply.task_id)
    assert (task.status, task.continues, task.task_priority, task.input_data) == ("blocked", "plan", 9, {"a": 1})
    assert (task.task_type, task.queue, task.timeout_seconds, task.concurrency_key) == ("claude", "night", 900, "k")
    assert client.reply("plan", "Now the docs", idempotency_key="once").created is False
    client.submit("never", task_id="never")
    client.cancel("never")
    with pytest.raises(
        Refused, match=r"never ran and is cancelled: there is no conversation to go on with\. Insert a task"
    ):
        client.reply("never", "more")
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("delete from agent_tasks where task_id = 'never'")
    for name in ("never", "nobody", ""):
        with pytest.raises((UnknownTask, BadField)):
            client.reply(name, "more")
    with pytest.raises(BadField, match="task_description: is empty"):
        client.reply("plan", " ")


def test_message_is_taken_while_its_task_is_not_over(client: Any) -> None:
    client.submit("plan", task_id="plan")
    told = client.tell("plan", "Not that file")
    assert told.task_id == "plan"
    (message,) = client.messages("plan")
    assert (message.message_id, message.body, message.created_by, message.delivered_at, message.follow_up) == (
        told.message_id, "Not that file", "postgres", None, None,
    )  # fmt: skip
    client.cancel("plan")
    with pytest.raises(Refused, match=r"task plan is over: it is cancelled\. To go on with its conversation: INSERT"):
        client.tell("plan", "more")
    with pytest.raises(UnknownTask, match="no task 'nobody'"):
        client.tell("nobody", "x")
    for text, said in (
        (" \n", "message: is empty"),
        ("x" * 10_000_000, "10000000 bytes, more than 262144"),
        ("\0", "NUL"),
    ):
        with pytest.raises(BadField, match=said):
            client.tell("plan", text)
    assert client.messages("nobody") == []


def test_deleted_need_is_shown_as_deleted(client: Any, dsn: str) -> None:
    client.submit("plan", task_id="plan")
    client.submit("a", task_id="a", needs=["plan"])
    tie(dsn)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("update agent_tasks set status = 'completed' where task_id = 'plan'")
        settle(dsn)
        db.execute("delete from agent_tasks where task_id = 'plan'")
    settle(dsn)
    assert client.get("a").status == "pending"
    assert client.relations("a").needs[0].status == "deleted"
    assert {node.task_id: node.status for node in client.graph("a").nodes} == {"a": "pending", "plan": "deleted"}
    with pytest.raises(UnknownTask):
        client.graph("plan")
    assert [one.task_id for one in client.cancel("a", graph=True)] == ["a"]


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_tasks_are_changed_in_the_order_of_their_ids(dsn: str, verb: str) -> None:
    """A batch of results locks its rows in this order: in another one, two would wait for each other."""
    with Client(dsn) as client, psycopg.connect(dsn) as batch, psycopg.connect(dsn, autocommit=True) as watcher:
        client.submit("x", task_id="z")
        client.submit("x", task_id="a", needs=["z"])
        tie(dsn)
        watcher.execute(
            "update agent_tasks set task_priority = 6 where task_id = 'a'"
        )  # it stands last in the table now
        if verb == "retry":
            client.cancel(["a", "z"])
        batch.execute("select from agent_tasks where task_id = 'a' for no key update")
        change = threading.Thread(target=lambda: getattr(client, verb)("z", graph=True))
        change.start()
        waits = "select true from pg_stat_activity where application_name = 'turbo client' and wait_event_type = 'Lock'"
        until(lambda: watcher.execute(waits).fetchone(), what="the client waits for a")
        batch.execute("select from agent_tasks where task_id = 'z' for no key update nowait")
        batch.rollback()
        change.join(30)
        assert client.get("a").status == {"cancel": "cancelled", "retry": "blocked"}[verb]


def test_same_key_finds_its_task_though_its_needs_are_gone(client: Any, dsn: str) -> None:
    client.submit("plan", task_id="plan")
    made = client.submit("a", needs=["plan"], idempotency_key="once")
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("delete from agent_tasks where task_id = 'plan'")
    again = client.submit("a", needs=["plan"], idempotency_key="once")
    assert (again.task_id, again.created) == (made.task_id, False)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        client.submit("a", needs=["plan"])
