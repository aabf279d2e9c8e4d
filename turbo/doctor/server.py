"""The database server: is it reachable and writable, and does anything slow it down?"""

import time

import psycopg

from turbo import db
from turbo.doctor.check import Check
from turbo.doctor.session import Session
from turbo.domain.finding import Finding, fail, ok, skip, warn
from turbo.migrate.session import OLDEST_SERVER, place

SKEW_SECONDS = 2.0
QUEUE_WARN, QUEUE_FAIL = 0.1, 0.5


def checks(session: Session, old_transaction_seconds: float) -> list[Check]:
    return [
        Check("database", lambda: _reachable(session)),
        Check("writable", lambda: _writable(session), ("database",)),
        Check("server", lambda: _server(session), ("database",)),
        Check("standbys", lambda: _standbys(session), ("writable",)),
        Check("transactions", lambda: _transactions(session, old_transaction_seconds), ("writable",)),
        Check("notify queue", lambda: _notify_queue(session), ("writable",)),
        Check("clock", lambda: _clock(session), ("database",)),
    ]


def _reachable(session: Session) -> Finding:
    began = time.monotonic()
    try:
        session.open()
    except (psycopg.Error, OSError, ValueError) as error:  # an unreadable DSN, too
        return fail(
            f"{db.describe(session.dsn)}: {db.why_unreachable(error)}",
            "start the server, or correct --dsn, TURBO_DSN or the PG* variables",
        )
    seconds = time.monotonic() - began
    return ok(f"{place(session.connection)} answers, connected in {seconds * 1000:.0f} ms")


def _writable(session: Session) -> Finding:
    where = place(session.connection)
    if session.facts["standby"]:
        return fail(
            f"{where} is a read-only standby",
            "give the primary's address, or all hosts in one DSN (host=a,b port=5432,5432): turbo finds the primary",
        )
    if session.facts["read_only"]:
        return fail(
            f"{where} is read-only for role {session.facts['role']}: default_transaction_read_only is on",
            "remove the setting from the role, the database or the server",
        )
    return ok(f"the primary, as role {session.facts['role']}")


def _server(session: Session) -> Finding:
    info = session.connection.info
    version = info.parameter_status("server_version") or str(info.server_version)
    if info.server_version < OLDEST_SERVER:
        return fail(f"PostgreSQL {version} is too old", "upgrade to PostgreSQL 14 or later")
    if session.facts["encoding"] not in ("UTF8", "SQL_ASCII"):
        return fail(
            f"the database is encoded in {session.facts['encoding']}, but agents write any Unicode text",
            "create a database in UTF8: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
        )
    return ok(f"PostgreSQL {version}, {session.facts['encoding']}")


def _standbys(session: Session) -> Finding:
    """Must a standby confirm commits, and is one connected?"""
    names = session.facts["synchronous_standby_names"].strip()
    standbys = session.rows("standbys")
    unseen = any(s["sync_state"] is None for s in standbys)
    if names and not unseen and not any(s["sync_state"] in ("sync", "quorum") for s in standbys):
        return fail(
            f"every commit waits for a synchronous standby, and none is connected (synchronous_standby_names = {names})",
            "start the standby, or ALTER SYSTEM SET synchronous_standby_names = '' and SELECT pg_reload_conf()",
        )
    if names:
        return ok(f"commits wait for {names}")
    if standbys:
        return warn(
            f"standbys are connected ({', '.join(s['name'] for s in standbys)}), but none is synchronous: a failover may lose "
            "the last commits. turbo records its results again from the spool, but the newest inserted tasks are lost",
            "set synchronous_standby_names if that matters to you",
        )
    return ok("no standby is connected, and no commit waits for one")


def _transactions(session: Session, seconds: float) -> Finding:
    """The oldest xmin. Whatever keeps dead rows from being vacuumed slows down every claim."""
    limited = (
        "" if session.facts["sees_all"] else " among this role's sessions (grant pg_read_all_stats to see the others)"
    )
    held = next(iter(session.rows("transactions", {"seconds": seconds})), None)
    if held is None:
        return ok(f"none is older than {seconds:g} s{limited}")
    old = f"open for {held['seconds']:.0f} s, of user {held['who'] or '?'}"
    if held["pid"] is None:
        return warn(
            f"prepared transaction {held['application']} keeps dead rows from being vacuumed: {old}",
            f"COMMIT PREPARED or ROLLBACK PREPARED '{held['application']}'",
        )
    what = f"{held['application'] or 'no application_name'}, {held['state']}"
    return warn(
        f"a transaction keeps dead rows from being vacuumed, and claims get slower: pid {held['pid']} ({what}), {old}",
        f"end it: SELECT pg_terminate_backend({held['pid']})",
    )


def _notify_queue(session: Session) -> Finding:
    share = session.rows("notify_queue")[0]["share"]
    if share < QUEUE_WARN:
        return ok(f"{share:.0%} full")
    sessions = [
        f"pid {s['pid']} (user {s['who']}, database {s['database']}, {s['state']} for {s['seconds']:.0f} s)"
        for s in session.rows("open_transactions")
    ]
    do = "a session that listens in an open transaction keeps it from being emptied; end it: SELECT pg_terminate_backend(pid). "
    do += f"The oldest open transactions: {'; '.join(sessions)}" if sessions else "This role sees no open transaction"
    if not session.facts["sees_all"]:
        do += (
            "; those of other roles are hidden (grant pg_read_all_stats), but the server's log names the session's pid"
        )
    what = f"{share:.0%} full; above 50% inserts wake no worker, and workers poll every second"
    return fail(what, do) if share >= QUEUE_FAIL else warn(what, do)


def _clock(session: Session) -> Finding:
    """The database's clock compared with this machine's. The round trip is the error of measurement."""
    best: tuple[float, float] | None = None
    for _ in range(3):
        before = time.time()
        at = session.rows("clock")[0]["at"]
        after = time.time()
        if best is None or after - before < best[1]:
            best = (at - (before + after) / 2, after - before)
    if best is None:
        return skip("not measured")
    skew, error = best
    if abs(skew) - error / 2 <= SKEW_SECONDS:
        return ok(f"this machine and the database differ by less than {max(abs(skew), error, 0.001):.3f} s")
    return warn(
        f"this machine's clock is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the database's",
        "synchronize it with NTP (timedatectl, or sntp on macOS). turbo uses the database's clock, but logs and files show this one",
    )
