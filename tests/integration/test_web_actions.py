"""What the forms of the page change, and what they refuse: as the CLI does it, and only what the page has shown."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.database import migrated_database
from tests.support.open_questions import DATABASE, PARTS, PUSH, ask, question
from tests.support.web import Web, serving
from turbo.client.client import Client


@pytest.fixture(scope="module")
def dsn_of_module() -> Iterator[str]:
    with migrated_database() as dsn:
        yield dsn


@pytest.fixture(scope="module")
def web(dsn_of_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(dsn_of_module, Path(tmp_path_factory.mktemp("web"))) as running:
        yield running


@pytest.fixture
def client(dsn_of_module: str) -> Iterator[Client]:
    with Client(dsn_of_module) as one:
        yield one


def key_of(client: Client, task_id: str) -> str:
    (found,) = client.questions(task_ids=[task_id])
    assert found.key is not None
    return found.key


def said(web: Web, path: str, fields: dict[str, Any]) -> tuple[int, str]:
    """As the script sends it: status and text."""
    answer = web.post(path, fields, Accept="text/plain")
    return answer.status, answer.text.strip()


def test_answer_reaches_what_was_shown_and_nothing_else(web: Web, client: Client):
    ask(client_dsn(client), "which", question())
    key = key_of(client, "which")
    assert said(web, "/answer", {"task": "which", "key": key})[0] == 400, "no answer"
    status, text = said(web, "/answer", {"task": "which", "key": "2001-01-01", "text-0": "SQLite"})
    assert status == 400
    assert "look again" in text
    assert said(web, "/answer", {"task": "which", "key": key, "option-0": "PostgreSQL"}) == (
        200,
        "answered: which goes on",
    )
    assert client.get("which").answer == "PostgreSQL"
    assert said(web, "/answer", {"task": "which", "key": key, "option-0": "SQLite"})[0] == 400, "it has one"


def test_several_questions_are_answered_together(web: Web, client: Client):
    ask(client_dsn(client), "both", question(DATABASE, PARTS, text="Two things"))
    fields = {"task": "both", "key": key_of(client, "both"), "text-0": "None,\r\nplease", "option-1": ["api", "docs"]}
    assert said(web, "/answer", {**fields, "text-0": ""})[1].startswith("the answer to question 1 is missing")
    assert said(web, "/answer", fields)[0] == 200
    assert json.loads(client.get("both").answer or "") == {
        "Which database?": "None,\nplease",
        "Which parts?": "api, docs",
    }


def test_approvals_are_decided_together_and_late_ones_named(web: Web, client: Client):
    names = [ask(client_dsn(client), f"push-{n}", PUSH) for n in range(3)]
    asked = [json.dumps([name, key_of(client, name)]) for name in names]
    stale = json.dumps(["push-2", "2001-01-01 00:00"])
    status, text = said(web, "/approve", {"asked": [*asked[:2], stale]})
    assert status == 200
    assert text.startswith("approved: 2 tasks; 1 task asked something else")
    assert [client.get(name).answer for name in names] == ["yes", "yes", None]
    assert said(web, "/approve", {"asked": asked[:1]})[0] == 400, "it was answered"
    assert said(web, "/deny", {"asked": asked[2], "because": "not on Friday"})[0] == 200
    assert client.get("push-2").answer == "no, not on Friday"
    for bad in ("", "push-1", "[1, 2]", '["push-1"]', "{}"):
        assert said(web, "/approve", {"asked": bad})[0] == 400, bad
    assert said(web, "/answer", {"task": "push-2", "key": "x", "text-0": "yes"})[0] == 400


def test_hold_is_released_only_as_it_was_shown(web: Web, client: Client):
    client.submit("Deploy it", task_id="held", hold=True)
    before = json.dumps(["held", key_of(client, "held")])
    with psycopg.connect(client_dsn(client), autocommit=True) as db:
        db.execute("update agent_tasks set task_description = 'Drop the tables' where task_id = 'held'")
    assert said(web, "/approve", {"asked": before})[0] == 400, "it was edited since"
    assert client.get("held").status == "waiting"
    assert "Drop the tables" in web.get("/asked/held").text
    assert said(web, "/approve", {"asked": json.dumps(["held", key_of(client, "held")])})[0] == 200
    assert client.get("held").status == "pending"
    assert web.get("/asked/held").status == 400


def test_messages_follow_ups_cancel_and_retry(web: Web, client: Client):
    client.submit("x", task_id="one")
    assert said(web, "/tell", {"task": "one", "text": "Mind\r\nthe gap"})[0] == 200
    assert [message.body for message in client.messages("one")] == ["Mind\nthe gap"]
    assert said(web, "/cancel", {"task": "one"}) == (200, "cancelled 1 task")
    status, text = said(web, "/cancel", {"task": "one"})
    assert (status, text) == (400, "nothing was changed: the task is finished already")
    status, text = said(web, "/tell", {"task": "one", "text": "x"})
    assert status == 400
    assert "is over" in text
    assert said(web, "/retry", {"task": "one"}) == (200, "retried 1 task")
    assert said(web, "/reply", {"task": "nobody", "text": "x"})[0] in (400, 404)
    assert said(web, "/reply", {"task": "one", "text": "  "})[1] == "write what the agent should do next"
    assert said(web, "/cancel", {})[0] == 400


def test_form_submits_a_task_once(web: Web, client: Client):
    fields = {
        "text": "Review it\r\nnow",
        "id": "made",
        "queue": "night",
        "type": "review",
        "priority": "8",
        "after": "2h",
        "input": '{"a": 1}',
        "timeout": "60",
        "idempotency_key": "web-1",
    }
    first = web.post("/submit", fields)
    assert (first.status, first.headers["location"]) == (303, "/tasks/made")
    assert web.post("/submit", {**fields, "id": "again"}).headers["location"] == "/tasks/made"
    task = client.get("made")
    assert (task.task_description, task.queue, task.task_priority) == ("Review it\nnow", "night", 8)
    assert (task.input_data, task.timeout_seconds, task.status) == ({"a": 1}, 60, "scheduled")
    for wrong, says in (
        ({"text": " "}, "what the agent should do"),
        ({"text": "x", "priority": "high"}, "not a whole number"),
        ({"text": "x", "input": "{"}, "not JSON"),
        ({"text": "x", "after": "soonish"}, "tomorrow 06:00"),
        ({"text": "x", "queue": "Not One"}, "queue"),
        ({"text": "x\0"}, "NUL"),
        ({"text": "x", "requires": "os"}, "label=value"),
    ):
        refused = web.post("/submit", wrong)
        assert refused.status == 400, wrong
        assert says in refused.text


def test_queue_and_account_are_paused_and_resumed(web: Web, client: Client):
    assert said(web, "/pause", {"queue": "night", "reason": "backup"})[0] == 200
    assert client.served("night")[1]
    assert said(web, "/resume", {"queue": "night"})[0] == 200
    assert not client.served("night")[1]
    assert said(web, "/pause", {"account": "max-1"})[0] == 200
    assert [a.state for a in client.fleet().accounts] == ["paused"]
    assert said(web, "/resume", {"account": "max-1"})[0] == 200


def test_form_without_a_script_goes_back_to_its_page(web: Web, client: Client):
    client.submit("x", task_id="plain")
    done = web.post("/cancel", {"task": "plain", "back": "/tasks?queue=x"})
    assert (done.status, done.headers["location"]) == (303, "/tasks?queue=x")
    client.submit("x", task_id="plain2")
    for elsewhere in ("https://evil.example", "//evil.example", "/\\evil.example"):
        client.retry("plain")
        assert web.post("/cancel", {"task": "plain", "back": elsewhere}).headers["location"] == "/"


def test_batch_changes_the_whole_filter_as_it_was_told(dsn: str, tmp_path: Path):
    with serving(dsn, tmp_path) as web, Client(dsn) as client:
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute(
                "insert into agent_tasks (task_id, task_description, queue, task_priority)"
                " select 't' || n, case when n % 2 = 0 then 'even' else 'odd' end, 'q' || n % 3, n % 4 from generate_series(1, 1500) n"
            )
        even = {"verb": "cancel", "text": "even"}
        count = web.get("/count?verb=cancel&text=even").text.strip()
        assert count == "750"
        status, text = said(web, "/batch", {**even, "expected": "10"})
        assert status == 400
        assert "nothing was changed: 750 tasks match by now" in text
        assert said(web, "/batch", {**even, "expected": count}) == (200, "cancelled 750 tasks")
        states = [line.status for line in client.tasks(limit=None)]
        assert (states.count("cancelled"), states.count("pending")) == (750, 750)
        again = {"verb": "retry", "status": "cancelled", "queue": "q1"}
        assert said(web, "/batch", {**again, "expected": 250}) == (200, "retried 250 tasks")
        assert said(web, "/batch", {"verb": "delete", "expected": "1"})[0] == 400
        assert said(web, "/batch", {"verb": "retry", "status": "pending", "expected": "1"})[0] == 400


def client_dsn(client: Client) -> str:
    return client._dsn
