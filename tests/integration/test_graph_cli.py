"""`turbo graph`, `reply`, `tell`, `submit --needs`, and what cancel and retry do to those who wait."""

import json

import psycopg
import pytest

from tests.support.graphs import tie
from tests.support.shell import Shell

ODD = "clear \x1b[2J ring \x07\nstatus            completed\n\u202eand back\u200b"


def status(shell: Shell, task_id: str) -> str:
    with psycopg.connect(shell.dsn) as db:
        found = db.execute("select status::text from agent_tasks where task_id = %s", [task_id]).fetchone()
    assert found is not None
    return str(found[0])


def chain(shell: Shell) -> None:
    """plan, then a and b, then review."""
    lines = [
        {"text": "Plan the change", "id": "plan"},
        {"text": "Do it", "id": "a", "needs": ["plan"]},
        {"text": "Do the rest", "id": "b", "needs": ["plan"]},
        {"text": "Review it", "id": "review", "needs": ["a", "b"]},
    ]
    done = shell("submit", "-f", "-", "--format", "jsonl", stdin="\n".join(map(json.dumps, lines)))
    assert (done.code, done.lines) == (0, ["plan", "a", "b", "review"])
    tie(shell.dsn)


def test_submit_names_needs_in_options_and_files(shell: Shell) -> None:
    for name in ("plan", "build"):
        assert shell("submit", "x", "--id", name).code == 0
    words = ["--needs", "plan, build", "--needs", "plan", "--on-needs-failed", "run", "--parent", "plan"]
    assert shell("submit", "y", "--id", "both", *words).code == 0
    found = shell("show", "both", "--json").json
    assert (sorted(found["needs"]), found["on_needs_failed"], found["parent_task_id"]) == (
        ["build", "plan"],
        "run",
        "plan",
    )
    assert shell("submit", "z", "--id", "on", "--continues", "plan").code == 0
    assert (status(shell, "both"), status(shell, "on")) == ("blocked", "blocked")
    table = 'text,id,needs,on_needs_failed,continues\nx,c1,"plan,build",wait,\ny,c2,,,plan\n'
    assert shell("submit", "-f", "-", "--format", "csv", stdin=table).code == 0
    assert sorted(shell("show", "c1", "--json").json["needs"]) == ["build", "plan"]
    assert shell("show", "c2", "--json").json["continues"] == "plan"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--needs", "nobody"], "needs names 'nobody', and there is no such task"),
        (["--needs", ""], "needs: holds an empty id: write the ids of tasks"),
        (["--needs", "a,,b"], "needs: holds an empty id"),
        (["--needs", "a", "--needs", " "], "needs: holds an empty id"),
        (["--on-needs-failed", "run"], "--on-needs-failed is for a task with --needs"),
        (["--needs", "me", "--id", "me"], "needs: names the task itself"),
        (["--needs", "a", "--on-needs-failed", "hope"], "on_needs_failed: is 'hope': write cancel, run, wait"),
        (["--continues", "nobody"], "continues names 'nobody', and there is no such task"),
        (["--needs", ",".join(f"n{n}" for n in range(10_001)), "--needs", ",".join(f"m{n}" for n in range(10_000))],
         "needs: names 20001 tasks, more than 20000"),
    ],
)  # fmt: skip
def test_bad_needs_are_one_clear_error(shell: Shell, words: list[str], said: str) -> None:
    shell("submit", "x", *words).one_line(2, said)


def test_bad_needs_in_a_file_name_the_line(shell: Shell) -> None:
    lines = [
        {"text": "fine"},
        {"text": "x", "needs": [f"n{n}" for n in range(20_001)]},
        {"text": "x", "needs": ["a", None]},
        {"text": "x", "needs": "a"},
        {"text": "x", "id": "me", "needs": ["me"]},
        {"text": "x", "needs": ["a", ""]},
    ]
    done = shell("submit", "-f", "-", "--format", "jsonl", stdin="\n".join(map(json.dumps, lines)))
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        "line 2: column needs: names 20001 tasks, more than 20000: let a task in between need some of them",
        "line 3: column needs: holds a null: write the ids of tasks",
        "line 4: column needs: must be a list of task ids, not 'a'",
        "line 5: column needs: names the task itself: a task cannot wait for its own end",
        "line 6: column needs: holds an empty id: write the ids of tasks",
        "turbo submit: 5 bad lines; nothing was inserted",
    ]
    done = shell("submit", "-f", "-", "--format", "csv", stdin='text,needs\nx,"a,,b"\ny,\n')
    assert (done.code, done.err.splitlines()[0]) == (
        2,
        "line 2: column needs: holds an empty id: write the ids of tasks",
    )
    late = '{"text": "x", "needs": ["later"]}\n{"text": "y", "id": "later"}\n'
    done = shell("submit", "-f", "-", "--format", "jsonl", stdin=late)
    assert done.code == 0, "a task with an id is inserted before those without"
    done = shell("submit", "-f", "-", "--format", "jsonl", stdin='{"text": "x", "needs": ["nobody"]}\n')
    assert (done.code, "line 1: the database rejected it: needs names 'nobody'" in done.err) == (1, True)


def test_graph_draws_states_in_a_pipe_and_at_a_terminal(shell: Shell) -> None:
    chain(shell)
    done = shell("graph", "rev")
    assert done.lines == [
        "plan          pending    Plan the change",
        "├─ a          blocked    Do it",
        "└─ b          blocked    Do the rest",
        "   └─ review  blocked    also needs a  Review it",
    ]
    assert done.err == "4 tasks: 3 blocked, 1 pending\n"
    shown = shell.terminal("graph", "plan", columns=60).ended()
    assert "   └─ review  blocked    also needs a  Review it" in shown.text
    assert shell("graph", "plan", "--json").json["edges"][0]["mode"] == "cancel"
    assert shell("graph", "plan", "--mermaid").lines[:2] == ["flowchart TD", '  n0["plan<br/>pending"]:::open']
    done = shell("graph", "plan", "-n", "2")
    assert (len(done.lines), done.err) == (
        2,
        "showing the nearest 2 tasks (1 pending, 1 blocked); use --limit for more\n",
    )
    shell("graph", "nobody").one_line(1, "no task 'nobody'")
    shell("graph", "plan", "--json", "--mermaid").one_line(2, "either --mermaid or --json")
    ascii_only = shell("graph", "plan", PYTHONIOENCODING="ascii").lines
    assert ascii_only[1].startswith("|- a")


def test_hostile_graph_steers_no_terminal(shell: Shell) -> None:
    lines = [json.dumps({"text": ODD, "id": ODD}), json.dumps({"text": ODD, "id": "b", "needs": [ODD]})]
    assert shell("submit", "-f", "-", "--format", "jsonl", stdin="\n".join(lines)).code == 0
    tie(shell.dsn)
    assert shell("tell", "b", ODD).code == 0
    assert shell("reply", "b", ODD, "--id", "c").code == 0
    for words in (
        ["graph", "b"],
        ["graph", "b", "--mermaid"],
        ["show", "b"],
        ["show", "c"],
        ["tasks", "-s", "blocked"],
        ["status"],
    ):
        done = shell(*words)
        assert done.code == 0, done.err
        for said in (done.out, done.err):
            assert not set("\x1b\x07\u202e\u200b") & set(said), words
            assert not [line for line in said.splitlines() if line.startswith("status ") and "completed" in line], words
    shown = shell.terminal("graph", "b").ended()
    assert not [steering for steering in ("\x07", "\u202e", "\u200b", "\x1b[2J") if steering in shown.out]


def test_reply_takes_an_argument_or_standard_input(shell: Shell) -> None:
    shell("submit", "x", "--id", "plan", "--type", "claude", "--queue", "night")
    done = shell("reply", "plan", "Now the docs", "--id", "docs", "-p", "7")
    assert (done.code, done.out, done.err) == (0, "docs\n", "")
    made = shell("reply", "pl", "--json", stdin="line one\nline two\n").json
    assert made["created"]
    found = shell("show", made["task_id"], "--json").json
    assert (found["task_description"], found["continues"], found["queue"]) == ("line one\nline two", "plan", "night")
    shell("reply", "plan").one_line(2, "standard input is empty: write turbo reply plan TEXT")
    shell("reply", "plan", "-", stdin=b"\xff").one_line(2, "not UTF-8")
    shell("reply", "nobody", "x").one_line(1, "no task 'nobody'")
    own_key = ["submit", "x", "--continues", "plan", "--concurrency-key", "k"]
    shell(*own_key).one_line(2, "a follow-up may not have a concurrency_key of its own")
    shell("submit", "x", "--id", "never")
    shell("cancel", "never")
    shell("reply", "never", "x").one_line(
        1, "task never never ran and is cancelled: there is no conversation to go on with"
    )


def test_tell_says_when_it_cannot(shell: Shell) -> None:
    shell("submit", "x", "--id", "plan")
    assert shell("tell", "plan", "Not that file").out == "plan: told\n"
    assert shell("tell", "plan", "--json", stdin="from a pipe\n").json["task_id"] == "plan"
    shell("tell", "plan", "-", stdin="x" * 10_000_000).one_line(2, "message: has 10000000 bytes, more than 262144")
    shell("tell", "plan", " ").one_line(2, "message: is empty")
    shell("tell", "plan").one_line(2, "standard input is empty: write turbo tell plan TEXT")
    out = shell("show", "plan").out
    assert "message" in out
    assert "Not that file" in out
    shell("cancel", "plan")
    shell("tell", "plan", "x").one_line(
        1, "task plan is over: it is cancelled. To go on with its conversation: turbo reply plan TEXT"
    )


def test_cancel_and_retry_say_how_many_they_touch(shell: Shell) -> None:
    chain(shell)
    done = shell("cancel", "plan")
    assert (done.code, done.out) == (0, "plan: cancelled\n")
    assert done.err == "3 tasks that wait for it are cancelled, too\n"
    with psycopg.connect(shell.dsn, autocommit=True) as db:
        db.execute("update agent_tasks set status = 'cancelled', failure_kind = 'needs' where task_id = 'a'")
    done = shell("retry", "plan", "nobody")
    assert (done.code, done.out) == (1, "plan: pending\n")
    assert done.err.splitlines()[0] == "1 task that was cancelled because of it waits for it again"
    refused = shell("cancel", "--status", "pending")
    assert (refused.code, "cancel 1 task (pending)? 2 tasks that wait for them are cancelled, too" in refused.err) == (
        2,
        True,
    )
    shell("submit", "x", "--id", "lonely")
    assert shell("cancel", "lonely").err == ""


def test_whole_graph_is_cancelled_and_retried(shell: Shell) -> None:
    chain(shell)
    shell("submit", "x", "--id", "lonely")
    assert shell("cancel", "--graph", "b").lines == ["cancelled 4 tasks"]
    assert [status(shell, name) for name in ("plan", "review", "lonely")] == ["cancelled", "cancelled", "pending"]
    shell("cancel", "--graph", "b").one_line(1, "b: no task of its graph is unfinished: nothing to cancel")
    again = shell("retry", "--graph", "b", "--json").json
    assert {one["task_id"]: one["status"] for one in again["changed"]} == {
        "plan": "pending", "a": "blocked", "b": "blocked", "review": "blocked",
    }  # fmt: skip
    shell("retry", "--graph", "b", "--anew").one_line(2, "either --graph or --anew")
    shell("cancel", "--graph").one_line(2, "give either task ids or filter options")
    shell("cancel", "--graph", "--queue", "night").one_line(2, "--graph needs task ids")


def test_show_tells_what_a_task_has_to_do_with_others(shell: Shell) -> None:
    chain(shell)
    assert shell("reply", "plan", "more", "--id", "docs").code == 0
    tie(shell.dsn)
    shell("tell", "plan", "Not that file")
    lines = shell("show", "plan").lines
    first = next(n for n, line in enumerate(lines) if line.startswith("needed by"))
    assert lines[first : first + 2] == ["needed by        blocked    a", "                 blocked    b"]
    assert "conversation     pending    plan" in lines
    assert "                 blocked    docs" in lines
    assert next(line for line in lines if line.startswith("messages")).endswith(
        "postgres, not delivered yet: Not that file"
    )
    out = shell("show", "review").out
    assert "blocked          for " in out
    assert "waits for a (blocked), b (blocked)" in out
    assert "needs            blocked    a\n                 blocked    b\n" in out
    found = shell("show", "review", "--json").json
    assert found["blocked"]["needs_left"] == 2
    assert found["relations"]["needs"][0] == {"task_id": "a", "status": "blocked"}
    plain = shell("submit", "x", "--id", "plain")
    assert plain.code == 0
    assert not [line for line in shell("show", "plain").lines if line.startswith(("needs", "conversation", "messages"))]


def test_list_of_blocked_tasks_says_what_they_wait_for(shell: Shell) -> None:
    chain(shell)
    shell("submit", "fresh", "--id", "new", "--needs", "plan")
    found = {line.split()[0]: line for line in shell("tasks", "--status", "blocked").lines[1:]}
    assert found["review"].endswith("waits for a (blocked), b (blocked): Review it")
    assert found["new"].endswith("no worker has looked at it yet: fresh")
    assert "waits for" not in shell("tasks", "--status", "pending").out


def test_waiting_for_a_blocked_task_says_for_what_it_waits(shell: Shell) -> None:
    chain(shell)
    call = shell.terminal("submit", "x", "--id", "new", "--needs", "plan", "--wait", columns=120)
    call.said("new is blocked: no worker has looked at it yet (turbo graph new)")
    call.interrupt()
    assert call.ended().code == 130
