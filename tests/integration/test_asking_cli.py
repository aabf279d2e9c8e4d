"""`turbo questions`, `answer`, `approve`, `deny`, holds, and how other commands show what waits for a person."""

import json
import shlex
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from tests.support.open_questions import DATABASE, PARTS, PUSH, ask, question
from tests.support.shell import Shell
from turbo import Client, NotWaiting

ODD = "clear \x1b[2J ring \x07\nstatus            completed\n\u202eand back\u200b"
WORKER = (
    "insert into agent_workers (worker_id, name, host, pid, version, slots, queues, accounts, state, heartbeat_at) values "
    "('alpha-1-abcdef', 'alpha', 'alpha', 1, '1', 2, '{default}', '{}', 'up', clock_timestamp())"
)


def sql(shell: Shell, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(shell.dsn, autocommit=True) as db:
        cursor = db.execute(query)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


def row(shell: Shell, task_id: str) -> tuple[str, str | None]:
    with psycopg.connect(shell.dsn) as db:
        found = db.execute("select status::text, answer from agent_tasks where task_id = %s", [task_id]).fetchone()
    assert found is not None
    return found


def test_questions_list_who_waits(shell: Shell) -> None:
    nothing = shell("questions")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "nobody waits for you\n")
    ask(shell.dsn, "young", PUSH, ago=5, within=3600, host="alpha")
    ask(shell.dsn, "old", question(DATABASE, PARTS, text="Two things:\nfirst"), ago=7500, queue="night")
    done = shell("questions")
    head, first, second = done.lines
    assert head.split() == ["TASK", "KIND", "SINCE", "ANSWER", "BY", "QUEUE", "HOST", "ASKS"]
    assert first.split(maxsplit=4) == ["old", "question", "2h05m", "night", "Two things: (and 1 more)"]
    assert second.split()[:2] == ["young", "approval"]
    assert second.endswith("alpha (no worker)  Bash: git push origin main")
    assert "in 59m" in second or "in 1h00m" in second
    assert "turbo answer ID" in done.err
    (one,) = shell("questions", "--json", "--kind", "approval").json
    assert (one["task_id"], one["kind"], one["tool"], one["input"]) == ("young", "approval", "Bash", PUSH["input"])
    assert {"asked_at", "answer_by", "host", "age", "questions", "text"} <= set(one)
    assert [q["task_id"] for q in shell("questions", "--json", "-q", "night").json] == ["old"]
    assert shell("questions", "--since", "10m", "--json").json[0]["task_id"] == "young"
    shell("questions", "--kind", "riddle").one_line(2, "must be one of question, approval, hold")


def test_answer_is_written_from_argument_or_pipe(shell: Shell) -> None:
    for name in ("a1", "a2", "a3"):
        ask(shell.dsn, name)
    done = shell("answer", "a1", "Use SQLite")
    assert (done.code, done.out, done.err) == (0, "a1: pending\n", "")
    assert shell("answer", "a2", "--json", stdin="line one\nline two\n").json == {"task_id": "a2", "status": "pending"}
    assert (row(shell, "a1"), row(shell, "a2")) == (("pending", "Use SQLite"), ("pending", "line one\nline two"))
    shell("answer", "a3").one_line(2, "standard input is empty: write turbo answer a3 TEXT")
    shell("answer", "a3", "-", stdin=b"\xff").one_line(2, "not UTF-8")
    shell("answer", "a3", "  ").one_line(2, "the answer to task a3 is empty")
    shell("answer", "a3", "-", stdin="x" * 10_000_000).one_line(2, "10000000 bytes, more than 262144")
    shell("answer", "a1", "again").one_line(1, "task a1 does not wait for an answer: it is pending")
    shell("answer", "nobody", "x").one_line(1, "no task 'nobody'")
    shell("answer", "a", "x").one_line(1, "prefix of several ids: a1, a2, a3")
    assert row(shell, "a3") == ("waiting", None)


def test_several_questions_take_a_json_object(shell: Shell) -> None:
    ask(shell.dsn, "a", question(DATABASE, PARTS))
    shell("answer", "a", "{not json").one_line(2, "no JSON object")
    shell("answer", "a", '{"Which": "x"}').one_line(2, "does not ask 'Which'")
    given = {"Which database?": "SQLite", "Which parts?": "api"}
    assert shell("answer", "a", json.dumps(given)).code == 0
    assert json.loads(row(shell, "a")[1] or "") == given


def test_shown_command_of_several_questions_can_be_pasted(shell: Shell) -> None:
    odd = {"question": "a\x9bb\u202e'\"c", "options": []}
    ask(shell.dsn, "a", question(odd, PARTS))
    command = shlex.split(next(line for line in shell("show", "a").lines if "turbo answer a '" in line))
    assert shell("answer", "a", command[-1]).code == 0
    assert json.loads(row(shell, "a")[1] or "") == {odd["question"]: "...", PARTS["question"]: "..."}


def test_answer_as_text_approves_nothing_unseen(shell: Shell) -> None:
    ask(shell.dsn, "call", PUSH)
    shell("submit", "x", "--id", "held", "--hold")
    for name in ("call", "held"):
        for given in ({}, {"stdin": "yes"}):
            words = ["answer", name, *(["yes"] if not given else [])]
            shell(*words, **given).one_line(2, f"turbo approve {name} and turbo deny {name} show of what")
        assert row(shell, name) == ("waiting", None)


def test_hold_is_shown_whole_before_it_is_released(shell: Shell) -> None:
    """What will run: the whole text, its data, where and when."""
    end = "THEN DELETE THE DATABASE"
    data = json.dumps({"also": ["rm -rf /", None]})
    where = ["--type", "ops", "--queue", "night", "--after", "2090-01-02T03:04:05Z", "--input", data]
    assert shell("submit", "Tidy up. " + "x " * 3000 + end, "--id", "h", "--hold", *where).code == 0
    call = shell.terminal("approve", "h")
    call.said("approve 1 held task? [y/N]")
    call.type("n\n")
    shown = " ".join(call.ended().text.split())
    assert end in shown
    assert 'type ops queue night input {"also": ["rm -rf /", null]} not before 2090-01-0' in shown
    told = shell("show", "h")
    assert "not before       2090-01-0" in told.out
    assert told.out.count(end) == 1
    (one,) = shell("questions", "--json").json
    assert (one["text"].endswith(end), one["input_data"], one["run_after"][:4]) == (True, json.loads(data), "2090")


def test_hold_is_shown_with_what_it_goes_on_with(shell: Shell) -> None:
    """The released text speaks in the session and directory of another task."""
    for name in ("deploy", "gate"):
        assert shell("submit", "x", "--id", name, "--after", "2090-01-01").code == 0
    sql(
        shell,
        "insert into agent_tasks (task_id, task_description, status, continues, needs, on_needs_failed, timeout_seconds, "
        "max_retries, task_priority) values ('h', 'Go on as discussed', 'waiting', 'deploy', '{gate}', 'run', "
        "2000000, 99, 1000), ('plain', 'x', 'waiting', null, null, default, default, default, default)",
    )
    call = shell.terminal("approve", "h")
    call.said("[y/N]")
    call.type("n\n")
    shown = " ".join(call.ended().text.split())
    assert (
        "continues deploy needs gate if one fails run submitted by postgres priority 1000 timeout 2000000 s retries 99"
        in shown
    )
    usual = shell("approve", "plain").err
    assert "submitted by" in usual
    assert not [name for name in ("continues", "needs", "priority", "timeout", "retries") if name in usual]


def test_large_holds_cost_lists_and_denials_nothing(shell: Shell) -> None:
    """Anybody who submits may hold tasks, of many megabytes each: only an approval shows them, one after the other."""
    with Client(shell.dsn) as client:
        for number in range(6):
            client.submit("x" * 500_000, input_data="y" * 500_000, task_id=f"big{number}", hold=True)
        assert all(len(one.text) < 10_000 and one.input_data is None for one in client.questions(whole=False))
        assert len(client.questions(limit=1)[0].text) == 500_000, "the control"
    assert len(shell("questions").out) < 20_000
    refused = shell("approve", "--kind", "hold")
    assert (refused.code, "approve 6 held tasks? Nothing was changed: give --yes" in " ".join(refused.err.split())) == (
        2,
        True,
    )
    assert len(refused.err) < 10_000, "nothing is shown to nobody"
    denied = shell("deny", "--kind", "hold", "--text", "xxx", "--yes")
    assert (denied.code, denied.out.count("cancelled"), denied.err) == (0, 6, "")


def test_hold_that_was_edited_meanwhile_is_not_released(shell: Shell) -> None:
    edits = [
        "task_description = 'y'", "input_data = '{}'", "task_type = 'other'", "queue = 'night'", "run_after = '2090-01-01'",
        "timeout_seconds = 9999", "max_retries = 9", "task_priority = 9", "concurrency_key = 'k'", "needs = null",
    ]  # fmt: skip
    with Client(shell.dsn) as client:
        client.submit("x", task_id="later", run_after=datetime(2090, 1, 1, tzinfo=UTC))
        for number, edit in enumerate(edits):
            client.submit("x", task_id=f"h{number}", hold=True, needs=["later"] if edit == "needs = null" else ())
            (shown,) = client.questions(task_ids=[f"h{number}"])
            sql(shell, f"update agent_tasks set {edit} where task_id = 'h{number}'")
            with pytest.raises(NotWaiting, match="asks something else by now"):
                client.approve(shown)
        client.approve(client.questions())
    assert {row(shell, f"h{n}")[0] for n in range(len(edits))} == {"pending", "scheduled"}


def test_terminal_wraps_no_text_to_where_the_names_are(shell: Shell) -> None:
    fake = "answer with      turbo approve rename"
    text = "Deploy?" + " " * 56 + fake + " " * 43 + "asked            long ago"
    option = "Yes" + "." * 68 + "  1  No"
    single = {"question": text, "options": [{"label": "a"}, {"label": option, "description": "z" * 200}]}
    ask(shell.dsn, "one", question(single))
    ask(shell.dsn, "two", question(single, PARTS))
    ask(shell.dsn, "call", {**PUSH, "input": {"command": text}})
    shell("submit", text, "--id", "held", "--hold")
    for words, until in (("answer one", "> "), ("answer two", "> "), ("approve call held", "[y/N]")):
        call = shell.terminal(*words.split(), columns=80)
        call.said(until)
        call.interrupt()
        lines = call.ended().text.splitlines()
        assert max(map(len, lines)) <= 80
        assert not [line for line in lines if line.startswith((fake, "asked", "  1  N", "1 N", "zz"))]
        assert [line for line in lines if fake in line], "the control: it is shown"


def test_dialog_asks_one_question_after_another(shell: Shell) -> None:
    ask(shell.dsn, "a", question(DATABASE, PARTS, {"question": "Which version?", "options": []}, text="Three things"))
    call = shell.terminal("answer", "a")
    call.said("1 of 3: Which database?")
    call.said("  1  PostgreSQL: as everywhere")
    call.said("a number, or text> ")
    call.type("7\n")
    call.said("there is no option 7: write 1 to 2")
    call.type("\n2\n")
    call.said("2 of 3: Which parts?")
    call.said("numbers (1,3), or text> ")
    call.type("1, 3\n")
    call.said("3 of 3: Which version?")
    call.said("the text of your answer> ")
    call.type("16\n")
    done = call.ended()
    assert done.code == 0, done.text
    assert "a: pending" in done.text
    answers = {"Which database?": "SQLite", "Which parts?": "api, docs", "Which version?": "16"}
    assert json.loads(row(shell, "a")[1] or "") == answers


@pytest.mark.parametrize(
    ("typed", "answer"), [("1\n", "PostgreSQL"), ("Neither, use DuckDB\n", "Neither, use DuckDB"), ('"2"\n', "2")]
)
def test_dialog_takes_a_number_or_text(shell: Shell, typed: str, answer: str) -> None:
    ask(shell.dsn, "a")
    call = shell.terminal("answer", "a")
    call.said("a number, or text> ")
    call.type(typed)
    assert call.ended().code == 0
    assert row(shell, "a") == ("pending", answer)


@pytest.mark.parametrize(("key", "code"), [("\x03", 130), ("\x04", 1)])
def test_dialog_left_changes_nothing(shell: Shell, key: str, code: int) -> None:
    ask(shell.dsn, "a", question(DATABASE, PARTS))
    call = shell.terminal("answer", "a")
    call.said("a number, or text> ")
    call.type("1\n")
    call.said("numbers (1,3), or text> ")
    call.type(key)
    done = call.ended()
    assert (done.code, "nothing was changed" in done.text, "Traceback" in done.text) == (code, True, False)
    assert row(shell, "a") == ("waiting", None)


def test_dialog_answers_only_what_it_showed(shell: Shell) -> None:
    ask(shell.dsn, "a")
    call = shell.terminal("answer", "a")
    call.said("a number, or text> ")
    ask(shell.dsn, "a", question({"question": "Drop the table?", "options": [{"label": "yes"}]}), ago=0)
    call.type("1\n")
    done = call.ended()
    assert (done.code, row(shell, "a")) == (1, ("waiting", None))
    assert "asks something else by now" in done.text


def test_approve_shows_the_whole_call_first(shell: Shell) -> None:
    command = "\n".join(f"echo {n} {'x' * 200}" for n in range(300)) + "\ngit push --force"
    ask(shell.dsn, "a", {**PUSH, "input": {"command": command, "timeout": 5, "description": "two\nlines"}})
    done = shell("approve", "a", "--always")
    assert (done.code, done.out) == (0, "a: approved\n")
    assert all(line in done.err for line in command.splitlines())
    assert "description: two" in done.err
    assert row(shell, "a") == ("pending", "always")
    shell("approve", "a").one_line(1, "a: it is pending: only waiting tasks can be answered")


@pytest.mark.parametrize(("key", "code", "status"), [("y\n", 0, "pending"), ("n\n", 1, "waiting")])
def test_approve_at_a_terminal_is_confirmed(shell: Shell, key: str, code: int, status: str) -> None:
    ask(shell.dsn, "a", PUSH)
    call = shell.terminal("approve", "a")
    call.said("git push origin main")
    call.said("approve 1 call? [y/N]")
    call.type(key)
    assert (call.ended().code, row(shell, "a")[0]) == (code, status)


def test_deny_gives_the_reason(shell: Shell) -> None:
    ask(shell.dsn, "a", PUSH)
    assert shell("deny", "a", "--because", "the branch is protected").out == "a: denied\n"
    assert row(shell, "a") == ("pending", "no, the branch is protected")
    ask(shell.dsn, "q")
    done = shell("deny", "q")
    assert (done.code, done.out, done.err) == (1, "", "q: it asks a question: turbo answer q\n")
    ask(shell.dsn, "b", PUSH)
    done = shell("approve", "b", "nobody", "--json")
    assert (done.code, done.json) == (
        1,
        {"changed": [{"task_id": "b", "status": "pending"}], "refused": {"nobody": "no such task"}},
    )


def test_holds_are_submitted_and_released_by_filter(shell: Shell) -> None:
    assert shell("submit", "x", "--hold", "--id", "h1").code == 0
    lines = '{"text": "y", "hold": true, "id": "h2", "queue": "night"}\n{"text": "z", "id": "free"}\n'
    assert shell("submit", "-f", "-", "--format", "jsonl", stdin=lines).code == 0
    assert shell("submit", "-f", "-", "--format", "csv", stdin="text,id,hold\nx,h3,true\ny,f2,false\n").code == 0
    assert [row(shell, name)[0] for name in ("h1", "h2", "h3", "free", "f2")] == [*["waiting"] * 3, *["pending"] * 2]
    wrong = shell("submit", "-f", "-", "--format", "jsonl", stdin='{"text": "y", "hold": "yes"}\n')
    assert (wrong.code, "hold: must be true or false" in wrong.err) == (2, True)
    shell("approve").one_line(2, "give either task ids or filter options")
    refused = shell("approve", "--kind", "hold", "--queue", "default")
    assert (refused.code, "give --yes to confirm" in refused.err) == (2, True)
    done = shell("approve", "--kind", "hold", "--queue", "default", "--yes")
    assert (done.code, done.lines) == (0, ["h1: released", "h3: released"])
    held = shell("approve", "h2", "--always")
    assert (held.code, held.err) == (1, "h2: it is held: release it without --always\n")
    assert shell("deny", "h2").out == "h2: cancelled\n"
    assert row(shell, "h2")[0] == "cancelled"


def test_show_says_what_is_asked_and_how_to_answer(shell: Shell) -> None:
    ask(shell.dsn, "my task", question(DATABASE), within=3600, host="gone")
    out = shell("show", "my task").out
    assert "asks             Which database?\n" in out
    assert "options          1  PostgreSQL: as everywhere\n                 2  SQLite\n" in out
    assert "answer with      turbo answer 'my task'\n" in out
    assert "no live worker there serves its queue. To begin anew elsewhere: turbo retry --anew 'my task'" in out
    assert "runnable" not in out
    shell("answer", "my task", "SQLite")
    out = shell("show", "my task").out
    assert "answer           SQLite\n" in out
    assert "answered by      postgres, " in out
    document = shell("show", "my task", "--json").json
    assert (document["question"]["text"], document["answer"], document["prefer_host"]) == (
        "Which database?",
        "SQLite",
        "gone",
    )


def test_hostile_question_steers_no_terminal(shell: Shell) -> None:
    hostile = {"question": ODD, "header": ODD, "options": [{"label": ODD, "description": ODD}], "multi": False}
    ask(shell.dsn, "q", question(hostile))
    ask(
        shell.dsn, "a", {"kind": "approval", "text": ODD, "tool": ODD, "rule": ODD, "input": {ODD: ODD, "command": ODD}}
    )
    for words in (["questions"], ["show", "q"], ["show", "a"], ["tasks"], ["status"], ["approve", "a"]):
        done = shell(*words)
        assert done.code == 0, done.err
        for said in (done.out, done.err):
            assert not set("\x1b\x07\u202e\u200b") & set(said), words
            assert not [line for line in said.splitlines() if line.startswith("status ") and "completed" in line], words
    call = shell.terminal("answer", "q")
    call.said("a number, or text> ")
    call.type("\x04")
    said = call.ended().out
    assert not [steering for steering in ("\x07", "\u202e", "\u200b", "\x1b[2J") if steering in said]


def test_tasks_and_status_show_what_waits(shell: Shell) -> None:
    sql(shell, WORKER)
    ask(shell.dsn, "a", host="alpha", ago=190)
    assert shell("status").lines[0].split(maxsplit=1) == ["ok", "no problems"]
    (line,) = shell("tasks", "--status", "waiting").lines[1:]
    assert line.split(maxsplit=2)[:2] == ["a", "waiting"]
    assert "for 3m1" in line
    assert line.endswith("asks: Which database?")
    out = shell("status").out
    assert "1 task waits for a person\n" in out
    (queue,) = shell("status", "--json").json["queues"]
    assert (queue["waiting"], queue["blocked"], queue["pending"]) == (1, 0, 0)
    ask(shell.dsn, "a", host="alpha", ago=5 * 3600)
    assert "the oldest question has been open for 5 h" in shell("status").lines[0]


@pytest.mark.parametrize("answered", [False, True])
def test_row_pinned_to_a_dead_host_is_a_problem(shell: Shell, answered: bool) -> None:
    sql(shell, WORKER)
    odd = "a; reboot"  # whoever inserts chooses the id, and an operator copies the command
    ask(shell.dsn, odd, host="gone")
    if answered:
        assert shell("answer", odd, "SQLite").code == 0
    (problem,) = shell("status", "--json").json["problems"]
    assert "queue default: 1 task can run only on gone" in problem["what"]
    assert problem["do"].endswith("turbo retry --anew 'a; reboot'")
    doctor = {check["name"]: check for check in shell("doctor", "--json").json["checks"]}
    assert doctor["questions"]["level"] == "warn"
    assert "turbo retry --anew 'a; reboot'" in doctor["questions"]["do"]
    assert shell("retry", "--anew", odd).out == f"{odd}: {'pending' if answered else 'waiting'}\n"
    assert shell("status", "--json").json["problems"] == []


def test_ids_of_waiting_tasks_are_completed(shell: Shell) -> None:
    ask(shell.dsn, "qa")
    ask(shell.dsn, "qb", PUSH)
    ask(shell.dsn, "q;evil")
    shell("submit", "x", "--id", "qc")

    def offered(command: str) -> list[str]:
        words = {"_TURBO_COMPLETE": "complete_bash", "COMP_WORDS": f"turbo {command} q", "COMP_CWORD": "2"}
        return shell(**words).lines

    assert sorted(offered("answer")) == ["qa", "qb"]
    assert offered("approve") == offered("deny") == ["qb"]


def test_submit_wait_shows_the_question_once_and_goes_on(shell: Shell) -> None:
    call = shell.terminal("submit", "x", "--id", "t", "--wait", "--hold")
    call.said("the task waits for a person:")
    call.said("turbo approve t")
    ask(shell.dsn, "t", question(DATABASE), ago=0)
    call.said("turbo answer t")
    sql(shell, "update agent_tasks set status = 'completed' where task_id = 't'")
    done = call.ended()
    assert done.code == 0, done.text
    assert done.text.count("the task waits for a person:") == 2


def test_approver_sees_and_answers_with_nothing_more(shell: Shell) -> None:
    ask(shell.dsn, "a", PUSH, host="alpha")
    role = f"approver_{shell.dsn.split('dbname=')[1].split()[0]}"
    sql(
        shell,
        f"create role {role} login; grant select on agent_tasks, agent_actions to {role};"
        f"grant update (answer) on agent_tasks to {role}",
    )
    try:
        as_approver = Shell(f"{shell.dsn} user={role}", shell.cwd)
        assert as_approver("questions").lines[1].split()[:2] == ["a", "approval"]
        assert "answer with      turbo approve a" in as_approver("show", "a").out
        as_approver("cancel", "a").one_line(1, "permission denied")
        assert as_approver("approve", "a").out == "a: approved\n"
        assert "answered by      " + role in as_approver("show", "a").out
    finally:
        sql(shell, f"drop owned by {role}; drop role {role}")


def test_waiting_tasks_are_cancelled(shell: Shell) -> None:
    ask(shell.dsn, "a")
    ask(shell.dsn, "b", PUSH)
    shell("submit", "x", "--id", "h", "--hold")
    assert shell("cancel", "a").out == "a: cancelled\n"
    assert shell("cancel", "--status", "waiting", "--yes").out == "cancelled 2\n"
    assert [row(shell, name)[0] for name in ("a", "b", "h")] == ["cancelled"] * 3
    shell("answer", "a", "SQLite").one_line(1, "task a does not wait for an answer: it is cancelled")


def test_questions_that_the_text_repeats_are_shown_once(shell: Shell) -> None:
    ask(shell.dsn, "a", question(DATABASE, PARTS, text="Which database?\nWhich parts?"))
    out = shell("show", "a").out
    assert "question 1       Which database?\n" in out
    assert "options 2        several may be chosen:\n                 1  api\n" in out
    assert out.split("audit trail")[0].count("Which database?") == 2, "as the question, and in the form of the answer"


def test_command_to_approve_is_shown_once(shell: Shell) -> None:
    ask(shell.dsn, "a", {**PUSH, "text": "May the agent run this command? git push origin main"})
    head = shell("show", "a").out.split("audit trail")[0]
    assert "asks             May the agent run this command?\n" in head
    assert "command          git push origin main\n" in head
    assert head.count("git push origin main") == 1


def test_logs_follow_through_a_question(shell: Shell) -> None:
    ask(shell.dsn, "t", ago=0)
    call = shell.terminal("logs", "t", "-f", columns=150)
    call.said("it waits for a person: Which database? (turbo answer t)")
    sql(shell, "update agent_tasks set status = 'completed' where task_id = 't'")
    assert call.ended().code == 0
    once = shell("logs", "t")
    assert "waits for a person" not in once.err
