"""`turbo schedule`: at a terminal and in a pipe, with bad input, hostile names, and roles that may not."""

import re
from datetime import UTC, datetime

import psycopg
import pytest
import typer

from tests.integration.test_visible_output import HOSTILE, TURBOS_OWN, forged, unsafe
from tests.support.logins import login
from tests.support.shell import Shell
from turbo import Client
from turbo.cli import schedule, schedule_view
from turbo.client.schedule import Schedule, read_schedule
from turbo.migrate import grant_roles

HUGE = "a" * 10_000
NO_WORKER = "no live worker serves queue default; check the name with turbo status\n"


def test_schedule_is_added_listed_shown_and_removed(shell: Shell) -> None:
    words = ["--timezone", "Europe/Berlin", "--type", "triage", "--max-failures", "3", "--jitter", "90"]
    done = shell("schedule", "add", "nightly", "0 3 * * *", "Triage new issues", *words)
    assert (done.code, done.err) == (0, NO_WORKER)
    assert re.fullmatch(r"nightly: next at \d{4}-\d\d-\d\d 03:00 CES?T, in \S+\n", done.out)
    done = shell("schedule", "add", "probe", "*/5 * * * * *", "-", stdin="Probe\nthe site\n")
    assert re.match(r"probe: next at \d{4}-\d\d-\d\d \d\d:\d\d:\d[05] UTC, in ", done.out)
    done = shell("schedule", "list")
    assert done.code == 0
    head, nightly, probe = done.lines
    assert head.split() == ["SCHEDULE", "STATE", "NEXT", "IN", "THEN", "IN", "CRON", "LAST", "QUEUE", "DESCRIPTION"]
    then = r"\d\d-\d\d 03:00( CES?T)?, \d\d-\d\d 03:00( CES?T)? +\S+, \S+"
    assert re.search(rf"^nightly   on     \S+ 03:00 CES?T +\S+  {then} +0 3 \* \* \* ", nightly), nightly
    assert nightly.endswith("  default  Triage new issues")
    assert re.search(r"UTC +\S+  \d\d:\d\d:\d\d, \d\d:\d\d:\d\d +\S+, \S+ +\*/5", probe), probe
    found = shell("schedule", "list", "--json").json
    assert [(one["name"], one["state"], len(one["next_slots"])) for one in found] == [
        ("nightly", "on", 3),
        ("probe", "on", 3),
    ]
    assert datetime.fromisoformat(found[0]["next_slots"][0]).hour == 3
    lines = shell("schedule", "show", "nightly").lines
    assert "jitter           up to 1m30s" in lines
    assert "failures         0 in a row; 3 pause it" in lines
    assert "description      Triage new issues" in lines
    first = next(n for n, line in enumerate(lines) if line.startswith("next  "))
    assert all(re.fullmatch(r"(next)? +\S+ 03:00 CES?T, in \S+", line) for line in lines[first : first + 3])
    assert shell("schedule", "remove", "nightly", "probe").lines == ["nightly: removed", "probe: removed"]
    done = shell("schedule", "list")
    assert (done.out, done.err) == ("", "no schedules; turbo schedule add --help shows how to add one\n")
    assert shell("schedule", "list", "--json").json == []


def test_names_are_paused_resumed_and_run(shell: Shell) -> None:
    done = shell("schedule", "add", "n", "0 3 * * *", "x", "--paused", "--catch-up", "all")
    assert (done.code, done.out) == (0, "n: paused\n")
    assert done.err == NO_WORKER + (
        "catch_up all gives one task while overlap is skip: --overlap queue gives each missed slot its own\n"
        "it fires once it is resumed: turbo schedule resume n\n"
    )
    assert shell("schedule", "pause", "n").lines == ["n: it was already paused"]
    done = shell("schedule", "resume", "n", "nobody", "n")
    assert done.code == 1
    assert re.fullmatch(r"n: resumed; next at \S+ 03:00 UTC, in \S+\n", done.out)
    assert done.err == "nobody: no such schedule; `turbo schedule list` lists them\n"
    assert shell("schedule", "resume", "n").lines == ["n: it was not paused"]
    done = shell("schedule", "pause", "n", "nobody", "--json")
    assert (done.code, done.json) == (
        1,
        {"changed": ["n"], "refused": {"nobody": "no such schedule; `turbo schedule list` lists them"}},
    )
    task_id = shell("schedule", "run", "n").lines[0]
    assert shell("schedule", "run", "n", "--json").json["created"]
    found = shell("schedule", "show", "n", "--json").json
    assert {task["task_id"] for task in found["tasks"]} >= {task_id}
    lines = shell("schedule", "show", "n").lines
    assert "latest tasks" in lines
    assert re.search(rf"  {task_id} +pending  \S+ \S+ UTC, by hand$", "\n".join(lines), re.M)
    shell("schedule", "show", "nobody").one_line(1, "turbo schedule: no schedule 'nobody'; `turbo schedule list`")
    shell("schedule", "remove", "nobody").one_line(1, "nobody: no such schedule")


@pytest.fixture
def plain(shell: Shell) -> Shell:
    """Without a database: what is refused is refused before."""
    return Shell("host=127.0.0.1 port=1", shell.cwd)


def test_bad_input_is_one_clear_line_before_the_database(plain: Shell) -> None:
    """The rest of it: test_schedule_client.py."""
    bad = [
        (["n", "30 4 30 2 *", "x"], "cron: '30 4 30 2 *'"),
        (["n", "\x1b[2J", "x"], "cron: '\\x1b[2J' is not a cron expression"),
        (
            ["n", "0 3 * * *", "x", "-z", "Mars/\u202ePhobos"],
            "timezone: 'Mars/\\u202ePhobos' is unknown; write a name as in",
        ),
        ([HUGE, "0 3 * * *", "x"], "name: has 10000 characters, more than 200"),
        (["n", "0", "3", "*", "*", "*", "x"], "unexpected extra argument"),
    ]
    for words, said in bad:
        plain("schedule", "add", *words).one_line(2, said)
    plain("schedule", "add", "n", "0 3 * * *", "x").one_line(1, "cannot reach the database")


def test_second_of_one_name_is_refused_or_replaces(shell: Shell, db: psycopg.Connection) -> None:
    db.execute("insert into agent_schedules (name, cron, task_description) values ('n', '0 3 * * *', 'x')")
    again = ["schedule", "add", "n", "0 4 * * *", "y"]
    shell(*again).one_line(1, "there is a schedule n already: give --replace to change it to this")
    assert shell("schedule", "pause", "n").code == 0
    done = shell(*again, "--replace")
    assert (done.code, done.out) == (0, "n: paused\n")
    assert shell("schedule", "show", "n", "--json").json["cron"] == "0 4 * * *"


def test_schedule_removed_while_it_is_shown_is_no_error(shell: Shell, db: psycopg.Connection) -> None:
    db.execute("insert into agent_schedules (name, cron, task_description) values ('a', '0 3 * * *', 'x')")
    with psycopg.connect(shell.dsn) as other:
        other.execute("delete from agent_schedules where name = 'a'")
        assert shell("schedule", "show", "a").code == 0, "it is there until the commit, and nothing waits for it"
        other.commit()
    shell("schedule", "show", "a").one_line(1, "no schedule 'a'")


def test_locked_schedule_is_left_alone_and_named(
    dsn: str, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    db.execute(
        "insert into agent_schedules (name, cron, task_description) select n, '0 3 * * *', 'x' from unnest('{a,b,c}'::text[]) n"
    )
    monkeypatch.setattr(schedule, "connect", lambda dsn: Client(dsn, lock_seconds=0.2))
    with psycopg.connect(dsn) as other:
        other.execute("select from agent_schedules where name = 'b' for update")
        with pytest.raises(typer.Exit) as ended:
            schedule.pause(["a", "b", "c"], as_json=False, dsn=dsn)
    said = capsys.readouterr()
    assert (ended.value.exit_code, said.out) == (1, "a: paused\nc: paused\n")
    assert said.err == "b: not changed after 10 s: another transaction, which is not finished, has locked it\n"


def test_list_says_what_is_late_in_error_or_paused(shell: Shell, db: psycopg.Connection) -> None:
    db.execute(
        "insert into agent_schedules (name, cron, task_description, max_failures)"
        " select n, '0 * * * *', 'Do it', 2 from unnest('{late,wrong,self}'::text[]) n"
    )
    db.execute("update agent_schedules set next_at = now() - interval '5 min', rev = rev + 1 where name = 'late'")
    db.execute("update agent_schedules set error = 'its task was refused: no', rev = rev + 1 where name = 'wrong'")
    db.execute(
        "update agent_schedules set enabled = false, error = 'paused itself after 2 failures in a row', failures = 2,"
        " skipped = 3, skipped_at = now(), rev = rev + 1 where name = 'self'"
    )
    found = {line.split()[0]: line for line in shell("schedule", "list").lines[1:]}
    assert re.search(r"^late +late .*  a slot has been due for 5m\d\ds, and no worker fires it: Do it$", found["late"])
    assert re.search(r"^wrong +error .*  its task was refused: no: Do it$", found["wrong"])
    assert re.search(r"^self +paused +0 .*  paused itself after 2 failures in a row: Do it$", found["self"])
    done = shell("schedule", "show", "self")
    lines = done.lines
    assert done.err == "once that is mended: turbo schedule resume self\n"
    assert "failures         2 in a row; 2 pause it" in lines
    assert [line for line in lines if line.startswith("passed over      3 slots, the last ")]


def test_table_fits_the_terminal(shell: Shell, db: psycopg.Connection) -> None:
    db.execute(
        "insert into agent_schedules (name, cron, timezone, task_description, queue)"
        " values ('nightly-triage', '0 3 * * *', 'Europe/Berlin', repeat('Triage new issues ', 9), 'night')"
    )
    narrow = shell.terminal("schedule", "list", columns=80).ended()
    assert narrow.code == 0
    assert all(len(line) <= 80 for line in narrow.text.splitlines())
    (line,) = [line for line in narrow.text.splitlines() if line.startswith("nightly-triage")]
    assert line.count(" 03:00") == 3, narrow.text
    wide = shell.terminal("schedule", "list", columns=200).ended().text
    assert "DESCRIPTION" in wide
    assert len([line for line in wide.splitlines() if line.count(" 03:00") == 3]) == 1


def test_long_name_widens_no_other_line_in_a_pipe(shell: Shell, db: psycopg.Connection) -> None:
    db.execute(
        "insert into agent_schedules (name, cron, task_description)"
        " select name, '0 3 * * *', 'x' from unnest(array['short', repeat('n', 200)]) name"
    )
    _, long, short = sorted(shell("schedule", "list").lines, key=lambda line: ("SCHEDULE" not in line, line))
    assert long.startswith("n" * 200 + "  on "), "in a pipe nothing is cut"
    assert short.startswith("short ")
    assert len(short) < 220
    assert len(shell("schedule", "list", "--json").json[0]["name"]) == 200


def test_moments_in_json_are_iso_8601(shell: Shell, db: psycopg.Connection) -> None:
    db.execute("insert into agent_schedules (name, cron, task_description) values ('n', '0 3 * * *', 'x')")
    assert shell("schedule", "run", "n").code == 0
    shown = shell("schedule", "show", "n", "--json").json
    (listed,) = shell("schedule", "list", "--json").json
    (task,) = shell("tasks", "--json").json
    costs = shell("costs", "--json").json
    moments = [
        *(shown[name] for name in ("created_at", "since", "run_at", "now")), *shown["next_slots"], *listed["next_slots"],
        shown["tasks"][0]["slot"], task["created_at"], costs["since"],
    ]  # fmt: skip
    for moment in moments:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", moment), moment
    assert all(slot.endswith("T03:00:00Z") for slot in shown["next_slots"]), (
        "whole seconds, as jq's fromdate reads them"
    )


def test_slots_are_shown_on_the_clocks_of_the_zone() -> None:
    """The night of the change in Berlin, and a zone whose clocks change by half an hour."""

    def shown(cron: str, zone: str, now: datetime) -> tuple[object, ...]:
        given = dict.fromkeys(Schedule.__slots__) | {"name": "n", "cron": cron, "timezone": zone, "now": now}
        row = given | {"enabled": True, "since": now, "skipped": 0, "task_description": "x", "overlap": "skip"}
        for column in ("next_slots", "late_seconds"):
            del row[column]
        return schedule_view._row(read_schedule(row))[2:6]

    assert shown("30 2 * * *", "Europe/Berlin", datetime(2026, 10, 24, 12, tzinfo=UTC)) == (
        "10-25 02:30 CEST", "12h30m", "10-26 02:30 CET, 10-27 02:30", "1d13h, 2d13h",
    )  # fmt: skip
    assert shown("*/30 * * * *", "Australia/Lord_Howe", datetime(2026, 4, 4, 14, 20, tzinfo=UTC)) == (
        "04-05 01:30 +11", "10m00s", "01:30 +1030, 02:00", "40m00s, 1h10m",
    )  # fmt: skip
    assert shown("0 0 1 1 *", "UTC", datetime(2026, 4, 4, tzinfo=UTC)) == (
        "2027-01-01 00:00 UTC", "272d0h", "2028-01-01 00:00, 2029-01-01 00:00", "637d0h, 1003d0h",
    )  # fmt: skip


def test_hostile_schedules_steer_no_terminal(shell: Shell, db: psycopg.Connection) -> None:
    """Names that the database takes, and all else that a row may hold where its triggers were passed by."""
    odd = "$(id>F)\u202etxt [red]x[/red]"
    for name in (odd, "-n"):
        assert shell("schedule", "add", "--paused", "--", name, "0 3 * * *", HOSTILE).code == 0, name
    db.execute("set session_replication_role = replica")
    db.execute("alter table agent_schedules drop constraint if exists agent_schedules_overlap_check")
    for column in (
        "cron",
        "timezone",
        "overlap",
        "task_type",
        "queue",
        "concurrency_key",
        "created_by",
        "error",
        "name",
    ):
        db.execute(f"update agent_schedules set {column} = %s where name = '-n'".encode(), [HOSTILE])
    db.execute("update agent_schedules set input_data = to_jsonb(%s::text)", [HOSTILE])
    insert = "insert into agent_tasks (task_id, task_description, status, error_message, idempotency_key)"
    insert += " values (%s, 'x', 'failed', %s, %s)"
    db.execute(insert.encode(), [HOSTILE, HOSTILE, f"schedule {odd}@2026-11-27T03:00:00Z"])
    for words in (["list"], ["show", odd], ["show", HOSTILE]):
        for done in (shell("schedule", *words), shell.terminal("schedule", *words).ended()):
            said = TURBOS_OWN.sub("", done.out.replace("\r\n", "\n") + done.err)
            assert (done.code, unsafe(said), "\\u202e" in said) == (0, set(), True), (words, said)
            assert "\x1b" in done.out or not forged(said)
    for words in (["pause", HOSTILE], ["show", "nobody" + HOSTILE], ["add", odd, "0 3 * * *", "x"]):
        done = shell("schedule", *words)
        assert "Traceback" not in done.err
        assert (unsafe(done.out + done.err), forged(done.out + done.err)) == (set(), []), words
    found = {one["name"]: one for one in shell("schedule", "list", "--json").json}
    assert found[HOSTILE]["error"] == HOSTILE


def test_roles_that_may_not_are_told_who_may(shell: Shell) -> None:
    grant_roles(shell.dsn)
    with login(shell.dsn, "turbo_admin") as dsn:
        admin = Shell(dsn, shell.cwd)
        for words in (
            ["add", "n", "0 3 * * *", "x", "--paused"],
            ["add", "n", "0 4 * * *", "x", "--replace"],
            ["resume", "n"],
            ["run", "n"],
        ):
            assert admin("schedule", *words).code == 0, words
    may_not = "this role may not change or run schedules: turbo_admin may (GRANT turbo_admin TO"
    with login(shell.dsn, "turbo_submitter") as dsn:
        other = Shell(dsn, shell.cwd)
        other("schedule", "list").one_line(
            1, "this role may not see schedules: turbo_reader may (GRANT turbo_reader TO"
        )
        other("schedule", "run", "n").one_line(1, may_not)
        other("schedule", "add", "m", "0 3 * * *", "x").one_line(1, may_not)
    with login(shell.dsn, "turbo_reader") as dsn:
        other = Shell(dsn, shell.cwd)
        assert other("schedule", "show", "n").code == 0
        other("schedule", "pause", "n").one_line(1, may_not)
        other("schedule", "remove", "n").one_line(1, may_not)


def test_database_before_schedules_says_what_to_do(shell: Shell, db: psycopg.Connection) -> None:
    db.execute("drop table agent_schedules cascade")
    for words in (["list"], ["add", "n", "0 3 * * *", "x"]):
        shell("schedule", *words).one_line(1, "run `turbo migrate`")
