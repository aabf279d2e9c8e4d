"""`turbo submit`: one task, many tasks, and waiting for them."""

import json
import re
import signal
import subprocess
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support.prefork import TURBO
from tests.support.shell import Shell
from tests.support.waiting import until
from tests.support.workers import Bench


def rows(shell: Shell) -> list[dict[str, Any]]:
    with psycopg.connect(shell.dsn, row_factory=dict_row) as db:
        return db.execute("select * from agent_tasks order by created_at, task_id").fetchall()


def end(shell: Shell, task_id: str, status: str, **more: object) -> None:
    """As a worker would have it, by hand."""
    with psycopg.connect(shell.dsn, autocommit=True) as db:
        db.execute(
            "update agent_tasks set status = %s, output_data = %s, error_message = %s where task_id = %s",
            [status, json.dumps(more["output"]) if "output" in more else None, more.get("error"), task_id],
        )


# ── one ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pipe_receives_only_the_id(shell: Shell) -> None:
    done = shell(
        "submit", "Review src/auth.py", "--type", "review", "--queue", "night", "-p", "8", "--input", '{"a": 1}'
    )
    assert (done.code, done.err) == (0, "")
    (row,) = rows(shell)
    assert done.out == f"{row['task_id']}\n"
    assert (row["task_description"], row["task_type"], row["queue"]) == ("Review src/auth.py", "review", "night")
    assert (row["task_priority"], row["input_data"], row["status"]) == (8, {"a": 1}, "pending")


@pytest.mark.parametrize("words", [["submit", "-"], ["submit", "--file", "-"], ["submit", "--file", "prompt.md"]])
def test_text_from_stdin_or_a_file_is_kept_whole(shell: Shell, words: list[str]) -> None:
    text = "Zwei Zeilen,\nmit ümläuts\n"
    (shell.cwd / "prompt.md").write_text(text)
    assert shell(*words, stdin=text).code == 0
    assert rows(shell)[0]["task_description"] == text
    shell("submit", "-", stdin=b"\xff").one_line(2, "is not UTF-8 text")


def test_after_option_schedules_the_task(shell: Shell) -> None:
    shell("submit", "x", "--after", "2h30m", "--id", "a")
    shell("submit", "x", "--after", "2100-01-01T06:00", "--id", "b")
    assert [row["status"] for row in rows(shell)] == ["scheduled"] * 2
    assert rows(shell)[1]["run_after"].astimezone().isoformat().startswith("2100-01-01T06:00")
    assert re.search(r"in 2h(29|30)m", shell("tasks").out)


def test_key_submits_once_and_an_id_is_taken_once(shell: Shell) -> None:
    first = shell("submit", "x", "--idempotency-key", "k", "--json").json
    again = shell("submit", "y", "--idempotency-key", "k", "--json")
    assert first["created"] is True
    assert again.json == {"task_id": first["task_id"], "created": False}
    assert "already has a task" in again.err
    assert shell("submit", "x", "--id", "mine").out == "mine\n"
    shell("submit", "y", "--id", "mine").one_line(1, "task mine already exists")


# ── waiting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_wait_prints_the_result_and_sets_the_exit_code(bench: Bench, shell: Shell) -> None:
    bench.start().listening()
    done = shell("submit", "x", "--input", '{"raw": "\'the answer\'"}', "--wait")
    assert (done.code, done.out.strip()) == (0, "the answer")
    assert done.err == f"{rows(shell)[0]['task_id']}\n", "the id is beside the result"
    done = shell("submit", "x", "--input", '{"exit": 3}', "--max-retries", "0", "--wait", "--id", "bad")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("bad\nbad: failed (error): ")
    done = shell("submit", "x", "--type", "noop", "--wait")
    assert (done.code, done.out) == (0, ""), "no output is nothing"
    done = shell("submit", "x", "--type", "echo", "--wait", "--json")
    assert done.code == 0
    assert done.json["status"] == "completed"


def test_terminal_shows_the_state_of_the_task(bench: Bench, shell: Shell) -> None:
    worker = bench.start()
    worker.listening()
    person = shell.terminal("submit", "x", "--input", '{"seconds": 600}', "--id", "long", "--wait")
    try:
        person.said("long  running")
        person.said(f"on {worker.worker_id}")
        shell("cancel", "long")
        done = person.ended()
    finally:
        person.kill()
    assert done.code == 1
    assert "long: cancelled" in done.text


def test_ctrl_c_leaves_the_task_running(shell: Shell) -> None:
    person = shell.terminal("submit", "x", "--id", "mine", "--wait")
    try:
        person.said("no live worker serves queue default")
        person.interrupt()
        done = person.ended()
    finally:
        person.kill()
    assert done.code == 130
    assert "stopped waiting; task mine continues" in done.text
    assert "turbo cancel mine" in done.text
    assert "Traceback" not in done.text
    assert rows(shell)[0]["status"] == "pending"


def waiting(shell: Shell, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [TURBO, "submit", *words, "--wait"],
        env=shell.environment(),
        cwd=shell.cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_wait_explains_why_a_task_may_not_start(shell: Shell) -> None:
    shell("pause", "--queue", "night")
    process = waiting(shell, "x", "--queue", "night", "--id", "a")
    assert process.stderr is not None
    assert process.stderr.readline() == "a\n"
    assert "queue night is paused" in process.stderr.readline()
    end(shell, "a", "completed", output={"output": "by hand"})
    assert process.communicate(timeout=30)[0] == "by hand\n"
    assert process.returncode == 0


def test_wait_warns_when_a_served_task_does_not_start(shell: Shell) -> None:
    with psycopg.connect(shell.dsn, autocommit=True) as db:
        columns = "worker_id, name, host, pid, version, slots, queues"
        db.execute(f"insert into agent_workers ({columns}) values ('w-1-abcdef', 'w', 'h', 1, '1', 1, '{{default}}')")
    process = waiting(shell, "x", "--after", "yesterday", "--id", "a")
    assert process.stderr is not None
    assert process.stderr.readline() == "a\n"
    assert "is served, but the task still waits" in process.stderr.readline()
    end(shell, "a", "failed", error="by hand")
    assert process.communicate(timeout=30)[1] == "a: failed: by hand\n", "said once"
    assert process.returncode == 1


def test_wait_reports_a_deleted_task(shell: Shell) -> None:
    process = waiting(shell, "x", "--id", "a")
    until(lambda: rows(shell), what="it is there")
    with psycopg.connect(shell.dsn, autocommit=True) as db:
        db.execute("delete from agent_tasks")
    assert "no task 'a'" in process.communicate(timeout=30)[1]
    assert process.returncode == 1


# ── many ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_jsonl_submits_many_tasks(shell: Shell) -> None:
    (shell.cwd / "tasks.jsonl").write_text(
        '{"text": "one", "id": "a", "input": {"path": "x.py"}, "priority": 9}\n\n"two"\n'
        '{"task_description": "three", "task_id": "c", "queue": "day", "after": "1h"}\n'
    )
    done = shell("submit", "--file", "tasks.jsonl", "--queue", "night", "--type", "review")
    assert done.code == 0
    assert done.err == "3 tasks inserted\n"
    by_id = {row["task_id"]: row for row in rows(shell)}
    assert [by_id[i]["task_description"] for i in done.lines] == ["one", "two", "three"], "ids in the lines' order"
    assert {row["task_type"] for row in by_id.values()} == {"review"}
    assert (by_id["a"]["queue"], by_id["a"]["input_data"], by_id["a"]["task_priority"]) == (
        "night",
        {"path": "x.py"},
        9,
    )
    assert (by_id["c"]["queue"], by_id["c"]["status"]) == ("day", "scheduled")


def test_csv_and_stdin_submit_many_tasks(shell: Shell) -> None:
    text = '\ufefftext,type,input.path,priority\r\n"a, ""b""",lint,x.py,7\r\n"two\nlines",,,\r\n'
    done = shell("submit", "--file", "-", "--format", "csv", "--type", "other", "--json", stdin=text)
    assert done.code == 0
    by_id = {row["task_id"]: row for row in rows(shell)}
    first, second = (by_id[i] for i in done.json["task_ids"])
    assert (first["task_description"], first["task_type"], first["input_data"]) == ('a, "b"', "lint", {"path": "x.py"})
    assert (second["task_description"], second["task_type"], second["input_data"]) == ("two\nlines", "other", None)
    assert first["task_priority"] == 7


def test_invalid_line_is_named_and_nothing_is_inserted(shell: Shell) -> None:
    (shell.cwd / "t.jsonl").write_bytes(
        b'"good"\n{"text": "x", "queue": "A B"}\n{"text": "x", "priority": "high"}\n{"txt": "x"}\nno json\n'
        b'{"text": "x", "after": "whenever"}\n[1]\n{"text": "nul \\u0000"}\n{"text": "\xff"}\n"good too"\n'
    )
    done = shell("submit", "--file", "t.jsonl")
    assert (done.code, done.out) == (2, "")
    wanted = [
        "line 2: column queue: 'A B' is not a queue name",
        "line 3: column task_priority: must be a whole number, not 'high'",
        "line 4: column txt: no such column; did you mean text?",
        "line 5: column 1: is not JSON",
        "line 6: column run_after: 'whenever' is not a time",
        "line 7: must be an object with columns",
        "line 8: column task_description: contains a NUL character",
        "line 9: byte 11: is not UTF-8 text",
        "turbo submit: 8 bad lines; nothing was inserted",
    ]
    assert len(done.err.splitlines()) == len(wanted)
    for line, text in zip(done.err.splitlines(), wanted, strict=True):
        assert line.startswith(text), (line, text)
    (shell.cwd / "t.csv").write_bytes(b'text,priority\n"two\nlines",high\nx\ny,1\n"open')
    done = shell("submit", "--file", "t.csv")
    assert done.code == 2
    assert [line.partition(":")[0] for line in done.err.splitlines()] == ["line 2", "line 4", "line 6", "turbo submit"]
    (shell.cwd / "h.csv").write_text("txt\nx\n")
    assert "line 1: column txt: no such column; did you mean text?" in shell("submit", "--file", "h.csv").err
    (shell.cwd / "l.csv").write_bytes(b"text\n\xff\n")
    assert "line 2: byte 1: is not UTF-8 text" in shell("submit", "--file", "l.csv").err
    (shell.cwd / "many.jsonl").write_text("x\n" * 50)
    assert "50 bad lines (40 more are not shown)" in shell("submit", "--file", "many.jsonl").err
    (shell.cwd / "none.jsonl").write_text("\n")
    assert "the file has no tasks" in shell("submit", "--file", "none.jsonl").err
    assert rows(shell) == []


def test_batch_refused_by_the_database_is_undone_and_explained(shell: Shell) -> None:
    shell("submit", "x", "--id", "taken")
    (shell.cwd / "t.jsonl").write_text(
        "".join(f'{{"text": "x", "id": "{i}"}}\n' for i in ("a", "b", "c", "taken", "e"))
    )
    done = shell("submit", "--file", "t.jsonl", "--batch", "2")
    assert (done.code, done.lines) == (1, ["a", "b"])
    assert "line 4: the database rejected it: task taken already exists" in done.err
    assert "2 tasks, up to line 2, inserted; nothing from line 3 on. " in done.err
    assert "turbo submit --file t.jsonl --from-line 3" in done.err
    assert {row["task_id"] for row in rows(shell)} == {"taken", "a", "b"}
    (shell.cwd / "t.jsonl").write_text("".join(f'{{"text": "x", "id": "{i}"}}\n' for i in ("a", "b", "c", "d", "e")))
    assert shell("submit", "--file", "t.jsonl", "--from-line", "3").lines == ["c", "d", "e"]


def test_ctrl_c_in_a_batch_reports_what_was_submitted(shell: Shell) -> None:
    (shell.cwd / "t.jsonl").write_text("".join(f'{{"text": "x", "id": "{i}"}}\n' for i in "abc"))
    with psycopg.connect(shell.dsn) as blocking:
        blocking.execute("insert into agent_tasks (task_id, task_description) values ('b', 'x')")
        process = subprocess.Popen(
            [TURBO, "submit", "--file", "t.jsonl", "--batch", "1"],
            env=shell.environment(), cwd=shell.cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "a\n"
        with psycopg.connect(shell.dsn, autocommit=True) as db:
            waits = (
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            )
            until(lambda: db.execute(waits).fetchone() == (1,), what="it waits for line 2")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        blocking.rollback()
    assert (process.returncode, out) == (130, "")
    assert err.startswith("turbo submit: interrupted\n1 task, up to line 1, inserted; it is not known whether lines 2")
    assert "--from-line 2" in err
    assert {row["task_id"] for row in rows(shell)} == {"a"}


def test_terminal_shows_a_bar_and_a_summary_not_ids(shell: Shell) -> None:
    (shell.cwd / "t.jsonl").write_text('"x"\n' * 1500)
    done = shell.terminal("submit", "--file", "t.jsonl", "--batch", "50").ended()
    assert done.code == 0
    assert "inserting" in done.text
    assert "/1500" in done.text
    assert done.text.rstrip().endswith("1500 tasks inserted")
    assert not any(row["task_id"] in done.text for row in rows(shell)[:10])


def test_wait_follows_many_tasks(bench: Bench, shell: Shell) -> None:
    bench.start().listening()
    (shell.cwd / "t.jsonl").write_text('{"text": "x", "type": "noop"}\n' * 20)
    done = shell("submit", "--file", "t.jsonl", "--wait")
    assert done.code == 0
    assert done.err.endswith("20 completed\n")
    (shell.cwd / "t.jsonl").write_text(
        '{"text": "x", "type": "noop"}\n{"text": "x", "input": {"exit": 1}, "max_retries": 0}\n'
    )
    done = shell("submit", "--file", "t.jsonl", "--wait", "--json")
    assert done.code == 1
    assert done.json["ended"] == {"completed": 1, "failed": 1}
