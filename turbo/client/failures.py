"""What a failure means to a person who asked turbo for something, and what to do."""

import psycopg

from turbo import db
from turbo.client.privileges import why_denied
from turbo.observability.log import scrub

LISTED_BY = {
    "no task": "turbo tasks",
    "no schedule": "turbo schedule list",
    "no budget": "turbo budget list",
    "no limit": "turbo limit list",
    "no subscription": "turbo subscription list",
}
"""How an error about an unknown name begins, and which command lists the names."""


def explained(error: Exception, command: str) -> str:
    """The error in words, without secrets. `command`: what was asked for, by the name of its command."""
    return scrub(_explained(error, command))


def _explained(error: Exception, command: str) -> str:
    text = str(error)
    if isinstance(error, LookupError):
        lists = next((lists for begin, lists in LISTED_BY.items() if text.startswith(begin)), None)
        return f"{text}; `{lists}` lists them" if lists is not None else text
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
        return "the database has no turbo schema: run `turbo migrate`"
    if isinstance(error, db.UnreadableDsn):
        return text
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        return f"cannot reach the database: {db.why_unreachable(error)} (check --dsn, TURBO_DSN or the PG* variables)"
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return (
            f"{error.diag.message_primary}: this server is a standby, or default_transaction_read_only is on for the role. "
            "Give the primary's address, or all hosts in one DSN (host=a,b)"
        )
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return f"{error.diag.message_primary}: another transaction, which is not finished, has locked it. Nothing was changed"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return why_denied(error, command)
    if isinstance(error, psycopg.Error):
        hint = f" {error.diag.message_hint}" if error.diag.message_hint else ""
        return f"{error.diag.message_primary or db.reason(error)}{hint}"
    return text
