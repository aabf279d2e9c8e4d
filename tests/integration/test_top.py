"""`turbo top` in a real terminal (tmux), as a person sees and steers it; and how little it asks of the database."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support import database
from tests.support.open_questions import ask
from tests.support.prefork import TURBO
from tests.support.terminal import Terminal, terminal
from tests.support.waiting import until
from tests.support.workers import Bench
from turbo import embedded
from turbo.client.fleet_status import COUNTED
from turbo.sql import statement

SPEAKER = """
import json, sys, time
data = json.load(sys.stdin)["input_data"] or {}
for number in range(10_000):
    print(f"reading [src]/module_{number}.py \\x1b[31m", flush=True)
    time.sleep(0.3)
"""


def config(bench: Bench, name: str, slots: int, *queues: str) -> dict[str, Any]:
    program = bench.path / "speaker.py"
    program.write_text(SPEAKER)
    made = bench.config(name=name, slots=slots, queues=list(queues), drain_seconds=0)
    made["accounts"] = {"alpha-max": {}}
    made["executors"] |= {
        "speaker": {"kind": "command", "command": [sys.executable, str(program)], "grace_seconds": 0.2},
        "sleep": {"kind": "python", "handler": "turbo.testing:sleep", "account": "alpha-max"},
        "fail": {"kind": "python", "handler": "turbo.testing:fail"},
    }
    made["routes"] = {"default": "speaker", "sleep": "sleep", "fail": "fail", "echo": "echo"}
    return made


@pytest.fixture
def fleet(bench: Bench) -> Bench:
    """Two workers, 500 running tasks (4 of them programs that speak), 200 waiting, a paused queue and account."""
    bench.start(config(bench, "alpha", 4, "default")).listening()
    bench.start(config(bench, "beta", 496, "bulk")).listening()
    insert = "insert into agent_tasks (task_id, task_type, task_description, queue, input_data, run_after)"
    bench.sql(f"""{insert} select 'bulk_' || lpad(i::text, 4, '0'), 'sleep', 'Summarise document ' || i, 'bulk',
                                  '{{"seconds": 600}}', now() from generate_series(1, 496) i""")
    # Oldest first: the four that speak stand at the end.
    until(lambda: bench.sql("select count(*) from agent_tasks where status = 'running'") == [(496,)], 60)
    bench.sql(
        f"{insert} select 'review_' || i, 'review', 'Review — 日本語 ' || i, 'default', null, now() from generate_series(1, 100) i"
    )
    bench.sql(
        f"{insert} select 'later_' || i, 'sleep', 'Later', 'night', null, now() + interval '2 h' from generate_series(1, 16) i"
    )
    bench.sql("insert into agent_queues (queue, reason) values ('night', 'the backup runs')")
    bench.sql(f"{insert} select 'night_' || i, 'sleep', 'At night', 'night', null, now() from generate_series(1, 88) i")
    bench.sql("insert into agent_accounts (account, host, state, reason, until)"
              " values ('beta-max', '*', 'paused', 'usage_limit', now() + interval '131 minutes')")  # fmt: skip
    until(lambda: bench.sql("select count(*) from agent_tasks where status = 'running'") == [(500,)], 60)
    until(lambda: bench.sql("select count(*) from agent_progress") == [(4,)])
    return bench


def top(bench: Bench, columns: int, rows: int, **environment: str) -> Any:
    command = [TURBO, "top", "--state-dir", bench.path / "state"]
    return terminal(command, columns, rows, {"TURBO_DSN": bench.dsn, **environment})


@pytest.fixture
def small(bench: Bench) -> Iterator[tuple[Bench, Terminal]]:
    """One worker of two slots, and its top."""
    bench.start(config(bench, "alpha", 2, "default")).listening()
    with top(bench, 100, 28) as screen:
        screen.shows("no running tasks")
        yield bench, screen


def test_five_hundred_tasks_fit_two_sizes(fleet: Bench) -> None:
    with top(fleet, 80, 24) as screen:
        seen = screen.shows("1 Running tasks: 500", "bulk_0001", "q quit")
        lines = seen.splitlines()
        assert "2 workers on 1 host · 500/500 slots busy · 184 pending · 16 scheduled" in lines[0]
        assert re.search(r"\d\d:\d\d:\d\d$", lines[0])
        assert "! 1 of 2: account beta-max is paused" in lines[1]
        assert re.search(r"completed/min \d.*▁.*failed/min \d.*▁.*tokens/min \d.*▁", lines[2])
        assert re.search(r"workers +alpha 4/4 · beta 496/496", lines[3])
        assert "night 88 wait" in lines[4]
        assert "beta-max paused usage_limit 2h" in lines[5]
        assert sum(line.lstrip("▌ ").startswith("bulk_") for line in lines) >= 14
        screen.keys("End")
        screen.shows("reading [src]/module_", r"\x1b[31m")  # of the program's words nothing steers the terminal
        screen.keys("v")
        screen.shows("Waiting tasks: 184 pending, 16 scheduled", "Review — 日本語")
        screen.keys("v", "v", "3")
        assert re.search(r"night +paused +88 +0 +16", screen.shows("3 Queues: 3", "SCHEDULED"))
        screen.resize(200, 50)
        seen = screen.shows("1 Running tasks: 500", "2 Workers: 2", "3 Queues: 3", "4 Accounts: 2")
        assert sum("bulk_" in line for line in seen.splitlines()) > 40
        assert max(len(line) for line in seen.splitlines()) > 190
        screen.resize(80, 24)
        screen.hides("2 Workers: 2")
        screen.keys("q")
        screen.shows("[exit 0]")


def test_keys_cancel_retry_and_follow_waiting_tasks(small: tuple[Bench, Terminal]) -> None:
    bench, screen = small
    bench.insert("talker")
    bench.insert("other_1", {"seconds": 600}, task_type="sleep")
    screen.shows("talker", "reading [src]/module_", "other_1")
    screen.keys("/talk")  # at once: what follows the slash belongs to the filter
    screen.shows("1 of 2 with “talk”")
    screen.hides("other_1")
    screen.keys("Enter")
    screen.keys("l")
    screen.shows("talker is running", "the full log of attempt 1, on this host", "reading [src]/module_2.py")
    screen.keys("Escape")
    screen.shows("Running tasks: 2", "with “talk”")
    screen.keys("c")
    screen.shows("cancel task talker?   y: yes   n: no")
    screen.keys("n")
    screen.hides("cancel task talker?")
    assert bench.row("talker")["cancel_requested_at"] is None
    screen.keys("c")
    screen.shows("cancel task talker?")
    screen.keys("y")
    screen.shows("task talker: its agent is being stopped")
    bench.wait("talker", "cancelled")
    screen.keys("v", "v")
    screen.shows("Ended tasks: the newest 1", "cancelled")
    screen.keys("r")
    screen.shows("run task talker again?")
    screen.keys("y")
    screen.shows("task talker: pending")
    bench.wait("talker", "running")
    screen.keys("v")
    screen.shows("Running tasks: 2, 1 of 2 with")
    screen.keys("Escape")
    screen.shows("Running tasks: 2", "other_1", "talker")
    screen.keys("?")
    screen.shows("turbo top: keys")
    screen.keys("c")  # the keys of the tables are none now
    screen.keys("Escape")
    screen.hides("turbo top: keys")
    assert "cancel task" not in screen.screen()


def test_waiting_tasks_show_what_they_ask(small: tuple[Bench, Terminal]) -> None:
    bench, screen = small
    ask(bench.dsn, "asks", ago=7500, queue="night")  # which no worker serves
    ask(bench.dsn, "pinned", host="gone", queue="night")
    bench.sql("insert into agent_tasks (task_id, task_description, status) values ('held', 'Deploy it', 'waiting')")
    screen.shows("3 asking a person", "1 task can run only on gone")
    screen.keys("v")
    seen = screen.shows("Waiting tasks: 0 pending, 3 asking a person", "asks: Deploy it")
    rows = [
        words for line in seen.splitlines() if len(words := line.lstrip("▌ ").split()) > 3 and words[1] == "waiting"
    ]
    assert [words[0] for words in rows] == ["asks", "pinned", "held"]
    assert (rows[0][2], rows[0][-3:]) == ("2h05m", ["asks:", "Which", "database?"])
    screen.keys("3")
    screen.shows("WAITING")


def test_keys_pause_and_resume_a_queue_and_an_account(small: tuple[Bench, Terminal]) -> None:
    bench, screen = small
    screen.keys("3")
    screen.shows("3 Queues: 1", "open")
    screen.keys("p")
    screen.shows("pause queue default? (running tasks continue)")
    screen.keys("y")
    screen.shows("queue default is paused by")
    assert bench.sql("select queue, reason from agent_queues where paused") == [("default", "turbo top")]
    screen.keys("p")
    screen.shows("resume queue default?")
    screen.keys("y")
    screen.shows("no problems")
    screen.keys("4")
    screen.shows("alpha-max")
    screen.keys("p")
    screen.shows("pause account alpha-max on every host?")
    screen.keys("y")
    screen.shows("account alpha-max is paused on every host: manual")
    screen.keys("p")
    screen.shows("resume account alpha-max on every host?")
    screen.keys("y")
    screen.shows("no problems")
    screen.keys("2")
    screen.keys("p")
    screen.shows("choose a queue (3) or an account (4) first")


def test_outage_is_shown_and_cleared(own_server: embedded.Server, tmp_path: Path) -> None:
    with psycopg.connect(own_server.dsn, autocommit=True) as db:
        db.execute("insert into agent_tasks (task_id, task_description) values ('t1', 'x')")
    environment = {"TURBO_DSN": own_server.dsn}
    with terminal([TURBO, "top", "--state-dir", tmp_path], 100, 28, environment) as screen:
        screen.shows("1 pending")
        own_server.stop("immediate")
        screen.shows("s old, trying again: the database is away: ", "1 pending")
        own_server.start_again()
        screen.hides("trying again")
        with psycopg.connect(own_server.dsn, autocommit=True) as db:
            db.execute("insert into agent_tasks (task_id, task_description) values ('t2', 'x')")
        screen.shows("2 pending")
        screen.keys("q")
        screen.shows("[exit 0]")


def test_no_color_prints_no_colours(small: tuple[Bench, Terminal]) -> None:
    bench, screen = small
    bench.sql("insert into agent_queues (queue) values ('default')")
    coloured = re.compile(r"\x1b\[[0-9;]*\b(?:3[0-7]|4[0-7]|9[0-7]|38|48)[;m]")
    screen.shows("is paused by")
    assert coloured.search(screen.screen(colours=True)), "with colours there are some"
    with top(bench, 100, 28, NO_COLOR="1") as plain:
        plain.shows("is paused by")
        assert not coloured.search(plain.screen(colours=True))


def test_missing_terminal_is_one_line_and_once_works_anywhere(fleet: Bench) -> None:
    environment = {**os.environ, "TURBO_DSN": fleet.dsn}
    piped = subprocess.run([TURBO, "top"], env=environment, capture_output=True, text=True)
    assert (piped.returncode, piped.stdout) == (2, "")
    assert piped.stderr.startswith("turbo top: standard output is not a terminal: use `turbo top --once` for one frame")
    assert piped.stderr.count("\n") == 1
    with terminal([TURBO, "top"], 100, 28, {"TURBO_DSN": fleet.dsn, "TERM": "dumb"}) as screen:
        assert "the terminal cannot move its cursor (TERM=dumb)" in screen.shows("[exit 2]")
    once = subprocess.run([TURBO, "top", "--once"], env=environment, capture_output=True, text=True, check=True)
    assert "\x1b" not in once.stdout
    lines = once.stdout.splitlines()
    assert lines[0] == "2 workers on 1 host · 500/500 slots busy · 184 pending · 16 scheduled"
    assert sum(line.startswith("bulk_") for line in lines) == 496
    assert once.stderr == ""
    nowhere = {**environment, "TURBO_DSN": "host=127.0.0.1 port=1"}
    away = subprocess.run([TURBO, "top", "--once"], env=nowhere, capture_output=True, text=True)
    assert away.returncode == 1
    assert away.stderr.startswith("turbo top: cannot reach the database")


# ── gentle ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_refresh_costs_three_statements_a_second(dsn: str, tmp_path: Path) -> None:
    """Counted by the database: no worker is there, so every transaction is this command's."""

    def transactions() -> int:
        with psycopg.connect(database.server().dsn, autocommit=True) as db:
            name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
            return db.execute("select xact_commit from pg_stat_database where datname = %s", [name]).fetchone()[0]

    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("insert into agent_tasks (task_description) select 'x' from generate_series(1, 500)")
    with terminal([TURBO, "top", "--state-dir", tmp_path], 200, 50, {"TURBO_DSN": dsn}) as screen:
        screen.shows("500 pending")
        before, began = transactions(), time.monotonic()
        until(lambda: transactions() >= before + 60, 90)
        counted, seconds = transactions() - before, time.monotonic() - began
    # A session reports what it did once a second or later, so some seconds' worth may come at once: fifteen of them.
    assert (counted - 15) / seconds < 4.5


def test_long_backlog_costs_no_more_than_a_short_one(dsn: str) -> None:
    def pages(most: int) -> tuple[int, int]:
        with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as db:
            db.execute("analyze agent_tasks")
            [found] = [
                row
                for row in db.execute(statement("top/queues"), {"most": most, "limit": 500})
                if row["queue"] == "default"
            ]
            plan = db.execute(
                "explain (analyze, buffers, format json) " + statement("top/queues"), {"most": most, "limit": 500}
            ).fetchone()
            root = plan["QUERY PLAN"][0]["Plan"]
            return root["Shared Hit Blocks"] + root["Shared Read Blocks"], found["pending"]

    def insert(number: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute("insert into agent_tasks (task_description, task_priority, queue) select 'x', i %% 7, "
                       " case i %% 3 when 0 then 'night' else 'default' end from generate_series(1, %s) i", [number])  # fmt: skip
            db.execute("vacuum analyze agent_tasks")

    insert(2_000)
    few, counted = pages(500)
    insert(38_000)
    many, again = pages(500)
    assert counted == again == 501, "counting stops"
    assert many <= 1.5 * few, (few, many)
    everything, _ = pages(10 * COUNTED)
    assert everything > 1.2 * many, "without the bound it does grow"


def test_many_scheduled_rows_are_not_all_read(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(
            "insert into agent_tasks (task_description, run_after)"
            " select 'x', now() + interval '1 day' from generate_series(1, 20000)"
        )
        db.execute("vacuum analyze agent_tasks")
        query = "explain (analyze, format json) " + statement("top/queues")
        (found,) = db.execute(query, {"most": 500, "limit": 500}).fetchone() or ()
    assert "501" in re.findall(r"'Actual Rows': (\d+)", str(found)), "counting stops"
    assert max(map(int, re.findall(r"'Actual Rows': (\d+)", str(found)))) <= 501


def test_other_commands_do_not_load_textual(dsn: str) -> None:
    program = (
        "import sys; from turbo.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code\n"
        "finally: print('textual' in sys.modules, file=sys.stderr)"
    )
    for arguments in (["top", "--once"], ["status"], ["--help"]):
        more = ["--dsn", dsn] if "--help" not in arguments else []
        done = subprocess.run([sys.executable, "-c", program, *arguments, *more], capture_output=True, text=True)
        assert done.stderr == "False\n"
