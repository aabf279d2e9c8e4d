"""Questions and answers, as a program reads and writes them. The same tests for both clients."""

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.test_python_client import KINDS, Blocking
from tests.support.open_questions import DATABASE, PARTS, PUSH, ask, question
from turbo import AnswerRefused, BadField, Changed, Client, MayNotAnswer, NewTask, NotWaiting, TaskFilter, UnknownTask


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, dsn: str) -> Iterator[Any]:
    one = Client(dsn) if request.param == "sync" else Blocking(dsn)
    yield one
    one.close()


def test_questions_list_who_waits_the_longest_first(client: Any, dsn: str) -> None:
    ask(dsn, "young", PUSH, ago=5, within=60, host="alpha")
    ask(dsn, "old", ago=7200, queue="night")
    client.submit("held", task_id="held", hold=True)
    client.submit("other", task_id="other")
    old, young, held = client.questions()
    assert [q.task_id for q in (old, young, held)] == ["old", "young", "held"]
    assert (old.kind, old.text, old.first_line, old.host, old.host_live) == (
        "question",
        "Which database?",
        "Which database?",
        None,
        None,
    )
    assert [choice.label for choice in old.questions[0].options] == ["PostgreSQL", "SQLite"]
    assert 7200 <= old.age < 7300
    assert old.answer_by is None
    assert (young.tool, young.input, young.host, young.host_live) == (
        "Bash",
        {"command": "git push origin main"},
        "alpha",
        False,
    )
    assert young.answer_by > young.asked_at
    assert (held.kind, held.text, held.queue) == ("hold", "held", "default")
    names = lambda **by: [q.task_id for q in client.questions(**by)]  # noqa: E731
    assert names(queue="night") == ["old"]
    assert names(kinds=["approval", "hold"]) == ["young", "held"]
    assert names(task_ids=["held", "other"]) == ["held"]
    assert names(criteria=TaskFilter(text="GIT push")) == ["young"]
    assert names(criteria=TaskFilter(since=young.asked_at)) == ["young", "held"]
    assert names(limit=1) == ["old"]
    with psycopg.connect(dsn, autocommit=True) as db:
        for worker in ("w-alpha-1", "w-beta-1"):  # the second run asked what it waits for now
            db.execute("insert into agent_actions (task_id, action_type, actor) values ('old', 'asked', %s)", [worker])
    assert names(criteria=TaskFilter(worker="beta")) == ["old"]
    assert names(criteria=TaskFilter(worker="alpha")) == []


def test_answer_makes_its_task_pending(client: Any, dsn: str) -> None:
    ask(dsn, "a")
    assert client.answer("a", "SQLite") == Changed("a", "pending")
    task = client.get("a")
    assert (task.answer, task.question["text"]) == ("SQLite", "Which database?")
    answered = [action for action in client.trail("a") if action.action_type == "answered"]
    assert [action.detail["answer"] for action in answered] == ["SQLite"]
    assert client.questions() == []


def test_several_questions_take_a_mapping(client: Any, dsn: str) -> None:
    ask(dsn, "a", question(DATABASE, PARTS))
    for wrong, why in (
        ("SQLite", "asks 2 questions"),
        ({"Which database?": "SQLite"}, "leaves out 'Which parts?'"),
        ({"Which database?": "SQLite", "which parts": "api"}, "does not ask 'which parts'"),
        ("", "is empty"),
    ):
        with pytest.raises(AnswerRefused, match=re.escape(why)) as refused:
            client.answer("a", wrong)
        assert '{"Which database?": "...", "Which parts?": "..."}' in str(refused.value)
    client.answer("a", {"Which database?": "SQLite", "Which parts?": ["api", "docs"]})
    assert json.loads(client.get("a").answer) == {"Which database?": "SQLite", "Which parts?": "api, docs"}


def test_answer_of_another_type_is_refused_with_words(client: Any, dsn: str) -> None:
    ask(dsn, "a", question(DATABASE, PARTS))
    for wrong in (None, 5, ["x"], b"x", {"Which database?": None}, {"Which database?": 5}, {"Which database?": [1]}):
        with pytest.raises(AnswerRefused, match=r"is text, or a (mapping|list)"):
            client.answer("a", wrong)
    with pytest.raises(BadField, match="NUL"):
        client.answer("a", {"Which database?": "a\0", "Which parts?": "api"})
    assert client.get("a").status == "waiting"


@pytest.mark.parametrize("size", [262_145, 10_000_000])
def test_answer_too_long_is_refused_with_its_size(client: Any, dsn: str, size: int) -> None:
    ask(dsn, "a")
    with pytest.raises(AnswerRefused, match=f"{size} bytes, more than 262144"):
        client.answer("a", "x" * size)
    for unstorable in ("a\0b", "\ud800"):
        with pytest.raises(BadField, match="answer"):
            client.answer("a", unstorable)
    assert client.get("a").status == "waiting"
    assert client.answer("a", "x" * 262_144).status == "pending", "the largest one is taken"


def test_task_that_does_not_wait_takes_no_answer(client: Any, dsn: str) -> None:
    client.submit("x", task_id="free")
    ask(dsn, "a")
    ask(dsn, "once")
    client.answer("once", "SQLite")
    for again in ("SQLite", "PostgreSQL"):
        with pytest.raises(NotWaiting, match="task once does not wait for an answer: it is pending"):
            client.answer("once", again)
    with pytest.raises(NotWaiting, match="task free does not wait"):
        client.answer("free", "yes")
    with pytest.raises(NotWaiting, match="task a asks a question, and waits for no approval or hold"):
        client.approve("a")
    with pytest.raises(UnknownTask):
        client.deny("nobody")
    assert client.approve(["a", "free", "nobody"]) == []
    assert client.approve([]) == []


def test_approvals_and_holds_are_answered_together(client: Any, dsn: str) -> None:
    for name in ("a", "b"):
        ask(dsn, name, PUSH)
    client.submit_many([NewTask("x", task_id="h", hold=True), NewTask("y", task_id="free")])
    with pytest.raises(AnswerRefused, match="more than 262144"):
        client.deny("a", "x" * 262_144)
    assert [c.task_id for c in client.approve(["a"], always=True)] == ["a"]
    assert client.approve(["h"], always=True) == [], "always is for approvals"
    assert sorted(c.task_id for c in client.approve(["b", "h", "free"])) == ["b", "h"]
    assert (client.get("a").answer, client.get("b").answer, client.get("h").status) == ("always", "yes", "pending")
    ask(dsn, "c", PUSH)
    client.submit("x", task_id="h2", hold=True)
    assert sorted(client.deny(["c", "h2"], "the branch is protected"), key=lambda c: c.task_id) == [
        Changed("c", "pending"),
        Changed("h2", "cancelled"),
    ]
    assert client.get("c").answer == "no, the branch is protected"
    assert "the branch is protected" in client.get("h2").error_message


def test_question_that_was_shown_is_the_one_answered(client: Any, dsn: str) -> None:
    ask(dsn, "a", PUSH)
    (shown,) = client.questions()
    ask(dsn, "a", {**PUSH, "input": {"command": "rm -rf /"}}, ago=0)
    with pytest.raises(NotWaiting, match="asks something else by now"):
        client.approve(shown)
    assert client.approve([shown]) == []
    assert client.get("a").status == "waiting"
    (now,) = client.questions()
    assert client.approve([now]) == [Changed("a", "pending")]


def test_first_of_two_answers_at_once_counts(dsn: str) -> None:
    ask(dsn, "a")
    told: list[Exception] = []

    def second() -> None:
        with Client(dsn) as other:
            try:
                other.answer("a", "SQLite")
            except Exception as error:
                told.append(error)

    with psycopg.connect(dsn) as first, psycopg.connect(dsn, autocommit=True) as watching:
        Client(connection=first).answer("a", "SQLite")
        thread = threading.Thread(target=second)
        thread.start()
        while not watching.execute(
            "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        ).fetchone():
            assert thread.is_alive()
        first.commit()
        thread.join(30)
    assert [type(error) for error in told] == [NotWaiting], "although it is the same answer"
    with Client(dsn) as client:
        assert [a.action_type for a in client.trail("a")].count("answered") == 1


def test_only_some_roles_may_answer(dsn: str) -> None:
    ask(dsn, "a", PUSH, host="alpha")
    with psycopg.connect(dsn, autocommit=True) as db:
        name = db.info.dbname
        roles = {kind: f"{kind}_{name}"[:60] for kind in ("reader", "approver")}
        for role in roles.values():
            db.execute(f'create role "{role}"')  # type: ignore[call-overload]
            db.execute(f'grant select on agent_tasks, agent_actions to "{role}"')  # type: ignore[call-overload]
        db.execute(f'grant update (answer) on agent_tasks to "{roles["approver"]}"')  # type: ignore[call-overload]
        try:
            db.execute(f'set role "{roles["reader"]}"')  # type: ignore[call-overload]
            reader = Client(connection=db)
            assert [(q.task_id, q.host, q.host_live) for q in reader.questions()] == [("a", "alpha", None)]
            for attempt in (lambda: reader.answer("a", "yes"), lambda: reader.approve("a"), lambda: reader.deny(["a"])):
                with pytest.raises(MayNotAnswer, match="turbo_approver"):
                    attempt()
            db.execute("reset role")
            db.execute(f'set role "{roles["approver"]}"')  # type: ignore[call-overload]
            assert reader.approve("a") == [Changed("a", "pending")]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.cancel("a")
        finally:
            db.execute("reset role")
            for role in roles.values():
                db.execute(f'drop owned by "{role}"; drop role "{role}"')  # type: ignore[call-overload]


def test_status_of_a_task_says_what_it_asks(client: Any, dsn: str) -> None:
    ask(dsn, "a", question(text="Which database?\nIt matters."), ago=100, host="alpha")
    (status,) = next(iter(client.follow("a", timeout=5)))
    assert (status.status, status.kind, status.question, status.prefer_host) == (
        "waiting",
        "question",
        "Which database?\nIt matters.",
        "alpha",
    )
    assert 100 <= status.seconds < 200
    run = next(iter(client.progress("a", timeout=5)))
    assert (run.kind, run.question, run.asked_at) == ("question", status.question, status.asked_at)
    (line,) = client.tasks(status="waiting")
    assert (line.question, line.asked_at, line.prefer_host) == (status.question, status.asked_at, "alpha")
    client.answer("a", "SQLite")
    (status,) = next(iter(client.follow("a", timeout=5)))
    assert (status.status, status.kind, status.question, status.asked_at) == ("pending", None, None, None)


def test_retry_anew_forgets_conversation_and_host(client: Any, dsn: str) -> None:
    ask(dsn, "a", host="gone")
    assert client.retry("a") == []
    assert client.retry("a", anew=True) == [Changed("a", "waiting")]
    task = client.get("a")
    assert (task.agent_session_id, task.prefer_host, task.question["text"]) == (None, None, "Which database?")
    ask(dsn, "b", host="gone")
    client.answer("b", "SQLite")
    assert client.retry("b", anew=True) == [Changed("b", "pending")]
    assert (client.get("b").prefer_host, client.get("b").answer) == (None, "SQLite"), (
        "the next run gets the answer in its prompt"
    )
    client.cancel("b")
    assert client.retry("b", anew=True) == [Changed("b", "pending")]
