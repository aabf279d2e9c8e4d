"""Whatever text a row holds, in whatever column: no command of turbo's lets it steer a terminal or pass for another line."""

import json
import math
import re
import sys
import unicodedata
from pathlib import Path

import psycopg
import pytest

import turbo
from tests.support.shell import Shell
from turbo.domain.visible import visible, visible_json

EVIL = "\x1b[6;6H\x1b]52;c;ZXZpbA==\x07\x1b[2J \x9b31m\x9d0;x\x9c \u202e\u2066\u200f\u061c\u200b\ufeff\xad\U000e0041 \x7f\b\r"
FORGED = [
    "status           forged",
    "error            forged",
    "forged",
    "audit trail forged",
    '",\n"status": "forged"',
]
LINE_ENDS = ["\n", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\u2029", "\r"]
MARKUP = "[red]red[/red] [@click=app.quit]quit[/] \\[b] [/] {x} %s"
WIDE = "x" * 63 + "status           forged" + "y" * 57 + "forged"
HOSTILE = EVIL + MARKUP + WIDE + "".join(end + forged for end in LINE_ENDS for forged in FORGED) + "\n"
TABLES = ("agent_tasks", "agent_actions", "agent_progress", "agent_workers", "agent_queues", "agent_accounts")
STATES = ("scheduled", "pending", "running", "completed", "failed", "cancelled")

CLOSED = {
    "agent_queues": {"queue"},
    "agent_workers": {"state"},
    "agent_accounts": {"state", "reason"},
}
"""Columns that take words of a list only, or a name that cannot harm: what the database refuses is asserted below."""

TURBOS_OWN = re.compile(r"\x1b\[([0-9;]*m|\?25[hl]|2K|1A)|\r")
"""Colours, and how the line of a wait is drawn again."""


def hostile(column: str) -> str:
    return f"{column}{HOSTILE}"


def key_of(state: str) -> str:
    """A hostile idempotency key: at most 500 characters."""
    return f"{state} {HOSTILE}"[:500]


def hostile_json(column: str) -> str:
    text = hostile(column)
    found: object = {
        "output": text, "log": text, "error": text, "outcome": text, text: text, "usage": [{"model": text}],
        "workspace": {"host": text, "path": text, "branch": text, "error": text, text: text},
    }  # fmt: skip
    return json.dumps([{"kind": text, "what": text, "do": text}] if column == "problems" else found)


def columns_of(db: psycopg.Connection, table: str) -> dict[str, str]:
    """Every column that holds text in some form, and its type."""
    rows = db.execute(
        "select attname, format_type(coalesce(nullif(t.typbasetype, 0), t.oid), null)"
        "  from pg_attribute a join pg_type t on t.oid = atttypid"
        " where attrelid = %s::regclass and attnum > 0 and not attisdropped",
        [table],
    ).fetchall()
    return {name: kind for name, kind in rows if kind.startswith(("text", "json", "char"))}


def fill(db: psycopg.Connection, table: str, where: str, *, keep: frozenset[str] = frozenset()) -> set[str]:
    """Write hostile text into every such column. Returns those that refuse it."""
    refused, state = set(), where.strip("'").rpartition("'")[2]
    for column, kind in columns_of(db, table).items():
        if column in keep:
            continue
        value: object = hostile_json(column) if kind.startswith("json") else hostile(column)
        if column == "task_id":
            value = f"t{state}{HOSTILE}"
        if column == "idempotency_key":
            value = key_of(state)
        how = "array[%s]" if kind.endswith("[]") else f"%s::text::{kind}"
        update = f"update {table} set {column} = {how} where {where}"
        try:
            with db.transaction():
                db.execute(update.encode(), [value])
        except psycopg.errors.CheckViolation:
            refused.add(column)
    return refused


@pytest.fixture
def poisoned(dsn: str, shell: Shell) -> Shell:
    """A task in each state, a worker, a queue and an account, with hostile text in every column that takes it."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("set session_replication_role = replica")  # no trigger of turbo's stands between
        for state in STATES:
            db.execute(
                "insert into agent_tasks (task_id, task_description, status, created_at, started_at, completed_at, run_after,"
                " fencing_token, cancel_requested_at) values (%(state)s, 'x', %(state)s, now(), now(),"
                " case when %(state)s in ('completed', 'failed', 'cancelled') then now() end, now() - interval '1 h',"
                " case when %(state)s = 'running' then 1 end, case when %(state)s = 'running' then now() end)",
                {"state": state},
            )
        db.execute("insert into agent_actions (action_type) values ('finished')")
        db.execute(
            "insert into agent_workers (worker_id, name, host, pid, version, slots, queues) values ('w', 'w', 'h', 1, '1', 1, '{}')"
        )
        db.execute("insert into agent_queues (queue) values ('default')")
        db.execute("insert into agent_accounts (account, host, state, reason) values ('a', 'h', 'paused', 'manual')")
        refused = {t: fill(db, t, "true") for t in TABLES if t not in ("agent_tasks", "agent_progress")}
        for state in STATES:
            assert not fill(db, "agent_tasks", f"status = '{state}'", keep=frozenset({"status"}))
        db.execute("update agent_actions set task_id = (select task_id from agent_tasks where status = 'failed')")
        db.execute(
            "insert into agent_progress (task_id, fencing_token, worker_id)"
            " select task_id, 1, 'w' from agent_tasks where status = 'running'"
        )
        refused["agent_progress"] = fill(db, "agent_progress", "true", keep=frozenset({"task_id"}))
        assert {t: names for t, names in refused.items() if names} == CLOSED
    return shell


COMMANDS = [
    ["show", "tfailed"], ["show", "trunning"], ["tasks"], ["status"], ["top", "--once"], ["show", "t"], ["logs", "tfailed", "-f"],
    ["logs", "trunning"], ["diff", "trunning"], ["doctor"], ["show", "tscheduled"], ["show", HOSTILE], ["logs", "tpending"],
    ["cancel", "tfailed", "t", HOSTILE], ["cancel", "tscheduled"], ["retry", "trunning"], ["tasks", "--status", HOSTILE],
    ["submit", "x", "--idempotency-key", key_of("completed"), "--wait"], ["migrate", "--plan"],
    ["pause", "--queue", HOSTILE], ["pause", "--account", HOSTILE], [HOSTILE],
    ["submit", "x", "--idempotency-key", key_of("failed")],
]  # fmt: skip
RAW = (["submit", "x", "--idempotency-key", key_of("completed"), "--wait"],)
"""Into a pipe: an agent's result as it is, like a log or a diff."""

AT_TERMINAL = [*COMMANDS[:8], *RAW]
JSON_COMMANDS = [
    ["show", "tfailed"], ["tasks"], ["status"], ["show", "trunning"], ["logs", "trunning"], ["cancel", "trunning", "t"],
    ["submit", "x", "--idempotency-key", key_of("failed")], ["pause", "--account", HOSTILE],
]  # fmt: skip


def unsafe(text: str) -> set[str]:
    """Characters that steer a terminal or leave no mark, by Unicode's own categories."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n\t"}


def forged(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.startswith(("forged", "status           forged", "error            f"))
            or line.startswith(("audit trail f", '"status": "forged"'))]  # fmt: skip


def test_in_a_pipe_no_row_steers_or_forges(poisoned: Shell) -> None:
    for command in COMMANDS:
        done = poisoned(*command)
        shown = done.err if command in RAW else done.out + done.err
        assert "Traceback" not in shown, (command, shown)
        assert (unsafe(shown), forged(shown)) == (set(), []), (command[:2], shown)
        if command == COMMANDS[0]:
            assert "[red]red[/red]" in shown, "it is shown as it is written"
            assert "\\x1b[6;6H" in shown
            assert len([line for line in shown.split("\n") if line.startswith("status ")]) == 1
        if command in RAW:
            assert done.out == hostile("output_data") + "\n", done.err


def test_at_a_terminal_no_row_steers_or_forges(poisoned: Shell) -> None:
    """Also where the terminal itself would go on at the left edge."""
    for command in AT_TERMINAL:
        done = poisoned.terminal(*command, columns=80).ended()
        shown = TURBOS_OWN.sub("", done.out.replace("\r\n", "\n"))
        assert "Traceback" not in shown, (command, shown)
        wrapped = "\n".join(line[at : at + 80] for line in shown.split("\n") for at in range(0, max(1, len(line)), 80))
        assert unsafe(shown) == set(), (command[:2], shown)
        assert command[:2] not in AT_TERMINAL[:2] or not forged(wrapped), (command[:2], shown)
        assert command in RAW or not forged(shown), (command[:2], shown)
        assert command[0] == "submit" or "\x1b[" in done.out or command[0] == "logs" or command == ["show", "t"], (
            "turbo's own"
        )


def test_json_is_exact_and_steers_nothing(poisoned: Shell) -> None:
    """At a terminal as in a pipe."""
    for command in JSON_COMMANDS:
        done = poisoned(*command, "--json")
        assert not unsafe(done.out + done.err), command
        assert done.out, (command, done)
        document = done.json
        if command == JSON_COMMANDS[0]:
            assert document["error_message"] == hostile("error_message")
            assert document["output_data"] == json.loads(hostile_json("output_data"))
    seen = poisoned.terminal("show", "tfailed", "--json").ended().out.replace("\r\n", "\n")
    assert json.loads(seen)["error_message"] == hostile("error_message")
    assert not unsafe(seen)


def test_top_shows_a_row_as_it_is_written(poisoned: Shell) -> None:
    """Its lists and the screen of a log: what it writes to the terminal holds nothing of a row's that steers."""
    screen = poisoned.terminal("top", columns=120, rows=24)
    try:
        screen.said("Running tasks")
        screen.said("\\x1b[6;6H")
        for key, text in (
            ("l", "[red]red[/red]"),
            ("q", "Running tasks"),
            ("v", "Waiting tasks"),
            ("3", "3 Queues"),
            ("2", "2 Workers"),
        ):
            screen.type(key)
            screen.said(text)
        screen.type("1")
        screen.type("v")
        screen.said("Ended tasks")
        screen.type("c")
        screen.said("y: yes")
        screen.type("n")
        screen.type("q")
        done = screen.ended()
    finally:
        screen.kill()
    assert done.code == 0
    assert not unsafe(done.out) - set("\x1b\r\b\x07"), unsafe(done.out)
    assert "==\x07" not in done.out
    assert "\x1b[6;6H" not in done.out
    assert "\x1b]52" not in done.out


# ── the one function ────────────────────────────────────────────────────────────────────────────────────────────────


_IGNORABLE = (
    "ad 34f 61c 115f-1160 17b4-17b5 180b-180f 200b-200f 202a-202e 2060-206f 3164 fe00-fe0f feff ffa0 fff0-fff8 1bca0-1bca3"
    " 1d173-1d17a e0000-e0fff"
)
IGNORABLE = [
    number
    for ends in (part.split("-") for part in _IGNORABLE.split())
    for number in range(int(ends[0], 16), int(ends[-1], 16) + 1)
]
"""Default_Ignorable_Code_Point in DerivedCoreProperties.txt of Unicode 16."""


def test_every_character_that_steers_is_made_visible() -> None:
    for number in range(0x110000):
        c = chr(number)
        if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert (
                c in "\n\t"
                or number < 0x20
                or visible(c) == c
                or unicodedata.category(c) not in ("Ll", "Nd", "Sc", "Sm", "Pd")
            )
        else:
            assert visible(c, lines=True).isascii(), hex(number)
    for number in IGNORABLE:
        assert visible(f"a{chr(number)}b").isascii(), hex(number)
        assert visible_json(f"a{chr(number)}b").isascii(), hex(number)
    assert visible("⚠\ufe0f 1\ufe0f\u20e3 💥\ufe0e") == "⚠\ufe0f 1\ufe0f\u20e3 💥\ufe0e"
    assert visible("⚠\ufe0f\ufe0f1\ufe0fx\ufe0f") == "⚠\ufe0f\\ufe0f1\\ufe0fx\\ufe0f"
    assert visible("\ufe0f") == "\\ufe0f"
    assert json.loads(visible_json("⚠\ufe0f1\ufe0f")) == "⚠\ufe0f1\ufe0f"
    assert visible("a\n\tb") == "a\\n\\tb"
    assert visible("a\n\tb", lines=True) == "a\n\tb"
    assert visible("naïve 日本語 💥 → ✓ e\u0301 ❤\ufe0f") == "naïve 日本語 💥 → ✓ e\u0301 ❤\ufe0f"
    for text in (HOSTILE, "\ud800", "\U000e0041", "\x7f", '"\\'):
        for ascii_only in (False, True):
            assert json.loads(visible_json({text: text}, ascii_only=ascii_only)) == {text: text}
            assert not unsafe(visible_json({text: text}, ascii_only=ascii_only))


def test_commands_print_only_through_the_one_way_out() -> None:
    """`print` or `typer.echo` would pass by the stream where its encoding is ASCII."""
    found = [
        f"{path.name}: {line.strip()}"
        for path in (Path(turbo.__file__).parent / "cli").rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"(?<![\w.])print\(|typer\.(echo|secho)\(|import click", line)
    ]
    assert not found


def test_json_has_no_number_that_json_lacks(dsn: str, shell: Shell) -> None:
    numbers = [math.inf, -math.inf, math.nan, 1.5, {"a": (math.inf, None, "x")}]
    document = json.loads(visible_json(numbers), parse_constant=pytest.fail)
    assert document == ["Infinity", "-Infinity", "NaN", 1.5, {"a": ["Infinity", None, "x"]}]
    data = f'{{"a": 1{"0" * 400}.5, "b": -1{"0" * 400}.5, "c": 1.5}}'
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("insert into agent_tasks (task_id, task_description, input_data) values ('t', 'x', %s)", [data])
    shown = json.loads(shell("show", "t", "--json").out, parse_constant=pytest.fail)
    assert shown["input_data"] == {"a": sys.float_info.max, "b": -sys.float_info.max, "c": 1.5}


def test_number_without_end_is_printed_at_any_depth() -> None:
    deep: object = float("inf")
    for _ in range(700):
        deep = [deep]
    assert visible_json(deep).count("[") == 700


@pytest.mark.parametrize("levels", [500, 700, 900, 2000])
def test_deep_json_of_a_row_is_printed_as_json(dsn: str, shell: Shell, levels: int) -> None:
    """What is too deep for Python is the text of the JSON. At a terminal the writer indents, with calls for each level."""
    deep = "jsonb_build_object('a', (repeat('[', %(n)s) || repeat(']', %(n)s))::jsonb)"
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(
            f"insert into agent_tasks (task_id, task_description, input_data) values ('deep', 'x', {deep})".encode(),
            {"n": levels},
        )
        db.execute(
            "update agent_tasks set status = 'completed', output_data = input_data where task_id = 'deep'",
        )
    terminal = shell.terminal("show", "deep", "--json").ended()
    for done in (shell("show", "deep", "--json"), terminal):
        assert done.code == 0, (done.err, done.out[-300:])
        row = json.loads(done.text)
        for found in (row["input_data"], row["output_data"]):
            text = found if isinstance(found, str) else json.dumps(found)
            assert text.count("[") == text.count("]") == levels
    assert shell("show", "deep").code == 0
