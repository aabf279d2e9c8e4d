"""Two DSNs: does dsn lead through a pooler, listen_dsn to PostgreSQL itself, and both to one database?"""

import psycopg

from turbo import db
from turbo.db.dsn import describe
from turbo.db.identity import SERVER
from turbo.doctor.check import Check
from turbo.doctor.session import Session
from turbo.domain.finding import Finding, fail, ok
from turbo.migrate.session import behind_pooler, pools_transactions

PLACE = f"select {SERVER}, current_database(), coalesce(pg_catalog.host(pg_catalog.inet_server_addr()), 'a socket')"


def checks(session: Session) -> list[Check]:
    """None without listen_dsn: then `notifications` says what is to be said."""
    return [Check("listen_dsn", lambda: _listen_dsn(session), ("database",))] if session.apart else []


def _listen_dsn(session: Session) -> Finding:
    where = describe(session.listen_dsn)
    try:
        listening = session.listening()
    except (psycopg.Error, OSError, ValueError) as error:
        return fail(
            f"{where}: {db.why_unreachable(error)}", "correct database.listen_dsn or TURBO_LISTEN_DSN, or leave it out"
        )
    with listening:
        if pools_transactions(listening, session.listen_dsn):
            return fail(
                f"{where} is a pooler in transaction mode, too: it accepts LISTEN but delivers no notifications",
                "point listen_dsn at PostgreSQL itself, or at a pool in session mode",
            )
        direct = listening.execute(PLACE).fetchone() or ("", "", "")
        itself = not behind_pooler(listening)
    with session.deadline():
        pooled = session.connection.execute(PLACE).fetchone() or ("", "", "")
        transactions = pools_transactions(session.connection, session.dsn)
        own = not behind_pooler(session.connection)
    if pooled[0] != direct[0]:
        return fail(
            f"dsn leads to database {pooled[1]} at {pooled[2]}, listen_dsn to {direct[1]} at {direct[2]}: two servers or two databases",
            "let both name one database: a worker refuses to start like this. After a failover, wait until the pooler has followed",
        )
    way = "PostgreSQL itself" if itself else "a pool in session mode, or a proxy"
    if transactions:
        return ok(f"dsn is a pooler in transaction mode, listen_dsn {way}; both lead to one database")
    through = "PostgreSQL itself" if own else "a pool in session mode, or a proxy"
    return ok(f"dsn is {through}, listen_dsn {way}; both lead to one database (listen_dsn is not needed)")
