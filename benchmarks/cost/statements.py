"""What is measured: eight statements, each as turbo or its user sends it.

A worker prepares its statements: psycopg prepares them here once on a real connection, and the server then shows their
text and types (pg_prepared_statements). A user's INSERT is not prepared. Each call meets the same situation as the one
before: each claim has its own queue, each finish its own running tasks, each poll tasks that fell due just before it.
Otherwise a call would have to pass the index entries that earlier calls left behind.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql

from turbo.db.connect import SESSION_SETTINGS
from turbo.db.lane import PLAN_SETTINGS
from turbo.sql import statement

WORKER = "cost-1-abcdef"  # claims and polls; it runs nothing, for a poll looks at each task that its worker runs
RUNNER = "cost-2-abcdef"  # runs what is finished
ROUNDS = {1: (20, 820), 100: (4, 68)}
"""Calls in the first run and in the second, by the rows of a call. Enough of them, because some costs come in lumps: every
400 rows a page of an index is full and is cleaned, which costs as much as five claims of one task."""

OUTPUT = json.dumps({"text": "Three unused imports removed, all tests pass."})


def fill(rounds: Mapping[int, tuple[int, int]]) -> tuple[str, ...]:
    """The statements that give an empty database its workers, and tasks enough for so many calls."""
    running = scheduled = 100 * rounds[100][1]
    return (
        # replica: the triggers refuse a row that is inserted as running
        "set session_replication_role = replica",
        f"""
        insert into agent_workers (worker_id, name, host, pid, version, slots, queues)
        values ('{WORKER}', 'cost', 'here', 1, '0', 100, '{{default}}'), ('{RUNNER}', 'cost', 'here', 2, '0', 100, '{{default}}')
        """,
        # 6 waiting tasks in a queue for a claim of one, 150 in a queue for a claim of a hundred
        *(
            f"""
            insert into agent_tasks (task_id, task_description, input_data, queue, run_after)
            select 't_' || left(md5('claim {rows} ' || q || ' ' || n), 20), 'Analyze module ' || n, '{{"depth": 2}}',
                   'claim-{rows}-' || q, now() - interval '1 hour' + n * interval '10 ms'
              from generate_series(0, {calls - 1}) q, generate_series(1, {waiting}) n
            """
            for rows, calls, waiting in ((1, rounds[1][1], 6), (100, rounds[100][1], 150))
        ),
        f"""
        insert into agent_tasks (task_id, task_description, input_data, status, assigned_worker_id, fencing_token, started_at)
        select 't_' || left(md5('run ' || n), 20), 'Analyze module ' || n, '{{"depth": 2}}', 'running', '{RUNNER}',
               (n + 1)::bigint << 20, now()
          from generate_series(0, {running - 1}) n
        """,
        f"""
        insert into agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token, detail)
        select task_id, 'claimed', true, '{RUNNER}', 'pending', 'running', fencing_token, '{{"attempt": 1}}'
          from agent_tasks where status = 'running'
        """,
        f"""
        insert into agent_tasks (task_id, task_description, input_data, status, queue, run_after)
        select 't_' || left(md5('due ' || n), 20), 'Analyze module ' || n, '{{"depth": 2}}', 'scheduled', 'due',
               now() + interval '1 day' + n * interval '1 s'
          from generate_series(0, {scheduled - 1}) n
        """,
        "analyze",
    )


WARM = (
    # Every page into memory and every hint bit set: what a call costs is not to depend on who read a page before.
    "set enable_seqscan = on",
    "select count(*), count(input_data) from agent_tasks",
    "select count(*) from agent_actions",
    "set enable_seqscan = off",
    "set enable_bitmapscan = off",
    "select count(idempotency_key) from agent_tasks where task_id > ''",
    "select count(*) from agent_tasks where status = 'pending' and queue > ''",
    "select count(*) from agent_tasks where status = 'scheduled' and run_after > '2000-01-01'",
    "select count(*) from agent_tasks where status = 'running' and assigned_worker_id > ''",
    "select count(task_type) from agent_tasks where idempotency_key is null",
    "select count(success) from agent_actions where task_id > ''",
    "reset enable_bitmapscan",
    "reset enable_seqscan",
)

MAKE_DUE = (
    "update public.agent_tasks set run_after = now() - interval '1 hour', turbo_rev = turbo_rev + 1"
    " where task_id = any (%(ids)s::text[])"
)


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of the table. The lines are SQL, one a line, as `postgres --single` reads them.

    `session`: sent once, first. `before`, `call`: sent in each round; only calls are counted. `written`: a query for the
    number of rows that calls have written: `rows` each.
    """

    statement: str
    rows: int
    session: tuple[str, ...]
    call: Callable[[int], str]
    written: str
    before: Callable[[int], str] | None = None

    @property
    def name(self) -> str:
        return f"{self.statement} {self.rows}"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement as psycopg has prepared it."""

    name: str
    text: str
    types: tuple[str, ...]
    parameters: tuple[str, ...]

    @property
    def line(self) -> str:
        types = f" ({', '.join(self.types)})" if self.types else ""
        return _one_line(f"prepare {self.name}{types} as {self.text}")

    def execute(self, **values: object) -> str:
        literals = ", ".join(sql.Literal(values[name]).as_string(None) for name in self.parameters)
        return _one_line(f"execute {self.name} ({literals})")


def prepare(connection: psycopg.Connection[tuple[object, ...]], name: str, text: str, **sample: object) -> Prepared:
    """What psycopg prepares for `text` and parameters of these types."""
    connection.prepare_threshold = 0
    with connection.transaction(force_rollback=True):
        connection.execute("deallocate all")
        connection.execute(text.encode(), sample)
        rows = connection.execute(
            "select statement, parameter_types::text[] from pg_prepared_statements where not from_sql and statement !~ 'pg_prep'",
            prepare=False,
        ).fetchall()
    ((sent, types),) = rows
    parameters = tuple(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))
    return Prepared(name, str(sent), tuple(types), parameters)  # type: ignore[arg-type]


def measures(connection: psycopg.Connection[tuple[object, ...]]) -> list[Measure]:
    """All of them, for the filled database of `connection`."""
    claim = {"worker": WORKER, "may_idle": True, "only_types": None, "skip_types": None} | {
        "characters": 16_000_001,
        "place": '{"host": "here", "labels": {"os": "linux", "arch": "x86_64", "host": "here"}, "stay": 60.0}',
    }
    poll = {"worker": WORKER, "queue": "due", "queues": ["due"], "accounts": [], "host": "here", "stay": 60.0}
    finish = {"worker": RUNNER, "infra_cap": 5, "host": "here"}
    claims = prepare(connection, "claims", statement("tasks/claim"), **claim, queue="claim-1-0", n=1)
    finishes = prepare(connection, "finishes", statement("tasks/finish"), **finish, results=_results(range(1)))
    polls = prepare(connection, "polls", statement("tasks/poll_one"), **poll)
    makes_due = prepare(connection, "makes_due", MAKE_DUE, ids=_ids("due", range(1)))

    def claim_of(rows: int) -> Measure:
        return Measure(
            "claim", rows, _worker_session(claims),
            lambda k: claims.execute(**claim, queue=f"claim-{rows}-{k}", n=rows),
            f"select count(*) from agent_tasks where status = 'running' and queue ~ '^claim-{rows}-'",
        )  # fmt: skip

    def finish_of(rows: int) -> Measure:
        return Measure(
            "finish", rows, _worker_session(finishes),
            lambda k: finishes.execute(**finish, results=_results(range(k * rows, (k + 1) * rows))),
            "select count(*) from agent_tasks where status = 'completed'",
        )  # fmt: skip

    def poll_of(rows: int) -> Measure:
        return Measure(
            "poll", rows, _worker_session(polls, makes_due),
            lambda _: polls.execute(**poll),
            "select count(*) from agent_actions where action_type = 'promoted'",
            before=lambda k: makes_due.execute(ids=_ids("due", range(k * rows, (k + 1) * rows))),
        )  # fmt: skip

    return [*(of(rows) for of in (claim_of, finish_of, poll_of) for rows in (1, 100)), insert(), bulk_insert()]


def insert(columns: str = "task_description", values: str = "'Analyze module 7'") -> Measure:
    """One task, as any client inserts it."""
    return Measure(
        "insert", 1, (),
        lambda _: f"insert into agent_tasks ({columns}) values ({values})",
        "select count(*) from agent_tasks where queue = 'default' and status = 'pending'",
    )  # fmt: skip


def bulk_insert() -> Measure:
    return Measure(
        "insert", 100, (),
        lambda _: "insert into agent_tasks (task_description, input_data)"
        " select 'Analyze module ' || n, '{\"depth\": 2}' from generate_series(1, 100) n",
        "select count(*) from agent_tasks where queue = 'default' and status = 'pending'",
    )  # fmt: skip


def _worker_session(*statements: Prepared) -> tuple[str, ...]:
    """What a worker's session begins with."""
    return (
        SESSION_SETTINGS.replace("%s", "pg_backend_pid()"),
        PLAN_SETTINGS,
        *(prepared.line for prepared in statements),
    )


def _results(numbers: Iterable[int]) -> str:
    """Results of these running tasks, as turbo.db.result_store sends them."""
    return json.dumps(
        [
            {"task_id": task_id, "token": (n + 1) << 20, "outcome": "succeeded", "output": OUTPUT, "ms": 61_250}
            for n, task_id in ((n, _id("run", n)) for n in numbers)
        ]
    )


def _ids(kind: str, numbers: Iterable[int]) -> list[str]:
    return [_id(kind, n) for n in numbers]


def _id(kind: str, number: int) -> str:
    """As `fill` makes it: of the length of turbo's own ids, and in no order."""
    return f"t_{hashlib.md5(f'{kind} {number}'.encode(), usedforsecurity=False).hexdigest()[:20]}"


def _one_line(text: str) -> str:
    if "\n" in text.strip():
        raise ValueError(f"a line of SQL has a line end in it: {text[:80]}")
    return text.strip()
