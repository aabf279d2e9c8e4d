"""Do notifications arrive, here and at every live worker of the fleet?

A pooler in transaction mode accepts LISTEN, and then delivers nothing. So the doctor sends a NOTIFY and waits for it. It also
notifies each live worker on that worker's channel, and a worker that receives it answers (turbo.worker.listener). That
finds a worker without notifications from any machine, even while its slots are busy.
"""

import secrets
import shlex
import time
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import sql as compose

from turbo import db
from turbo.client.fleet_status import OLD_QUESTION_SECONDS, STRANDED_LOOKED_AT
from turbo.db.channels import CROWDED, HEARD, QUESTION, worker_channel
from turbo.doctor.check import Check
from turbo.doctor.session import Session, SessionRow
from turbo.domain.finding import Finding, fail, ok, skip, warn
from turbo.domain.problem import ProblemKind, written_problems
from turbo.migrate.session import behind_pooler, place, pools_transactions

NAMED = 10
"""Of the workers that do not answer, so many are named: whoever may write here may invent workers."""

DELIVERY_SECONDS = 5.0
ANSWER_SECONDS = 5.0
"""A worker answers within milliseconds; one that is reconnecting is back within a second."""


def checks(session: Session) -> list[Check]:
    return [
        Check("notifications", lambda: _delivered(session), ("writable", "listen_dsn")),
        Check("workers hear", lambda: _workers_hear(session), ("notifications", "schema")),
        Check("worker problems", lambda: _problems(session), ("schema",)),
        Check("questions", lambda: _questions(session), ("schema",)),
    ]


def _delivered(session: Session) -> Finding:
    where = place(session.connection)
    with session.deadline():
        pooled = behind_pooler(session.connection)
        if not session.apart and pools_transactions(session.connection, session.dsn):
            return fail(
                f"{where} is a pooler in transaction mode: it accepts LISTEN but delivers no notifications",
                "set database.listen_dsn to PostgreSQL itself (docs/operations.md, PgBouncer), or point the DSN there, "
                "or at a pool in session mode",
            )
    if (share := session.rows("notify_queue")[0]["share"]) > CROWDED:
        return fail(
            f"nothing is sent: the server's notification queue is {share:.0%} full", "see the check `notify queue`"
        )
    channel, token = f"turbo_doctor_{secrets.token_hex(6)}", secrets.token_hex(8)
    with session.listening() as listening:
        listening.execute(compose.SQL("listen {}").format(compose.Identifier(channel)))
        with session.deadline():
            session.connection.execute("select pg_notify(%s, %s)", [channel, token])
        for payload in _payloads(listening, DELIVERY_SECONDS):
            if payload == token:
                how = "through a pooler in session mode, or a proxy," if pooled else "from another session"
                how = "sent by dsn, and heard by listen_dsn," if session.apart else how
                return ok(f"a NOTIFY {how} arrives")
    return fail(
        f"{where} accepts LISTEN, but a NOTIFY from another session does not arrive",
        "point the DSN at PostgreSQL itself: the proxy in between does not forward notifications",
    )


def _workers_hear(session: Session) -> Finding:
    workers = session.rows("workers")
    if not workers:
        return skip("there is no live worker")
    deaf = _silent(session, workers)
    if not deaf:
        count = f"{len(workers)} live worker{'' if len(workers) == 1 else 's'}"
        return ok(f"{count} answered a notification")
    named = ", ".join(f"{row['worker_id']} on {row['host']}" for row in deaf[:NAMED])
    named += f" and {len(deaf) - NAMED} more" if len(deaf) > NAMED else ""
    return fail(
        f"live, but without notifications: {named}; these workers poll every second and react late",
        "check the worker's log: its DSN leads through a pooler in transaction mode without listen_dsn, or its event loop is blocked",
    )


def _problems(session: Session) -> Finding:
    """What live workers say is wrong with them, on whatever host they are."""
    workers = session.rows("workers")
    problems = ((row["worker_id"], problem) for row in workers for problem in written_problems(row["problems"]))
    reported = [one for one in problems if one[1]["kind"] != ProblemKind.DEAF]  # `workers hear` asks them
    if not reported:
        return ok("no live worker reports one") if workers else skip("there is no live worker")
    (worker_id, first), more = reported[0], len(reported) - 1
    also = f"; {more} more: turbo status lists them" if more else ""
    return warn(f"worker {worker_id}: {first['what']}{also}", first["do"])


def _questions(session: Session) -> Finding:
    """What waits for a person; and what a person's answer cannot help, because only one host may go on with it, which is away."""
    stranded = session.statement("status/stranded", {"most": STRANDED_LOOKED_AT})
    if stranded:
        first, tasks = stranded[0], sum(row["tasks"] for row in stranded)
        return warn(
            f"{tasks} task{'s' if tasks > 1 else ''} cannot run: only {first['host']} has the conversation of {first['task_id']},"
            f" and no live worker there serves queue {first['queue']}",
            f"start a worker on {first['host']}, or: turbo retry --anew {shlex.quote(first['task_id'])}",
        )
    row = session.rows("questions")[0]
    if not row["waiting"]:
        return ok("no task waits for a person")
    waits = f"{row['waiting']} task{'s wait' if row['waiting'] > 1 else ' waits'} for a person"
    if (oldest := row["oldest_seconds"] or 0.0) > OLD_QUESTION_SECONDS:
        return warn(f"{waits}; the oldest question has been open for {oldest / 3600:.0f} h", "turbo questions")
    return ok(f"{waits}: turbo questions")


def _silent(session: Session, workers: list[SessionRow]) -> list[SessionRow]:
    """The workers that did not answer within ANSWER_SECONDS."""
    waiting = {str(row["worker_id"]): row for row in workers}
    token = secrets.token_hex(8)
    with session.listening() as listening:
        listening.execute(compose.SQL("listen {}").format(compose.Identifier(HEARD)))
        channels = [worker_channel(worker_id) for worker_id in waiting]
        session.rows("ask", {"channels": channels, "question": QUESTION + token})
        for payload in _payloads(listening, ANSWER_SECONDS):
            answered, _, worker_id = payload.partition(" ")
            if answered == token:
                waiting.pop(worker_id, None)
            if not waiting:
                break
    return list(waiting.values())


def _payloads(connection: psycopg.Connection[Any], seconds: float) -> Iterable[str]:
    """Payloads as they arrive. psycopg's generator is always run to its end, because payloads that arrived in the same packet
    would be lost otherwise."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        payloads = [notify.payload for notify in connection.notifies(timeout=min(left, 0.02))]
        yield from payloads
    db.cut(connection)
