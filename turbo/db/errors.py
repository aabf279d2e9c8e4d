"""What an error from PostgreSQL means: whether waiting helps, and how to report it in one line."""

import asyncio
import logging

import psycopg

from turbo.db.dsn import UnreadableDsn, Unshown
from turbo.runtime.backoff import Backoff
from turbo.runtime.outage import Outage

DATABASE_ERRORS = (psycopg.Error, OSError)
"""What a statement may raise: the server's and the client's errors, and a deadline (TimeoutError is an OSError)."""

TRANSIENT_CLASSES = ("08", "53", "58")
TRANSIENT_CODES = frozenset(
    {
        "57P01",
        "57P02",
        "57P03",
        "57P05",
        "57014",
        "25006",
        "25P03",
        "25P04",
        "40001",
        "40003",
        "40P01",
        "55P03",
        "55006",
    }
)
"""SQLSTATEs after which the same statement may succeed later: connection, resources, system errors; shutdown, crash and
start-up (but not 57P04, a dropped database); a cancelled statement; a primary that is still read-only just after its
promotion; serialisation, deadlock, locks."""


OUTDATED_CODES = frozenset({"26000", "42P05", "XX000"})
"""A prepared statement that is gone, or there already; an internal error, such as a cache look-up of a dropped object."""

OUTDATED_BY = frozenset(
    {
        ("0A000", "RevalidateCachedQuery"),
        ("42804", "plpgsql_param_eval_recfield"),
        ("42804", "plpgsql_param_eval_generic"),
        ("42704", "lookup_type_cache"),
    }
)
"""SQLSTATEs with many meanings, by the function of the server that refuses: "cached plan must not change result type", "type of
parameter 18 (bigint) does not match that when preparing the plan", "type with OID 16410 does not exist". The messages are
translated, the names are not."""


class LaneClosed(psycopg.OperationalError):
    """The worker stops, and its lane has ended: trying again cannot help."""


class LaneGivesWay(psycopg.OperationalError):
    """The lane opens no session now: others of this worker need it more. Trying again later helps."""


class AnotherDatabase(psycopg.OperationalError):
    """A session leads to another database than this worker's: it is closed, and the statement is not sent."""


class AnotherServer(psycopg.OperationalError):
    """A session leads to another server than the one that this worker listens on: the statement is not sent. After a failover a pooler
    may follow a little later, so trying again may help."""


def is_transient(error: BaseException) -> bool:
    """Whether waiting can help: the database is away, busy, or changing its primary."""
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:  # raised by the client: no connection, connection lost
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate in TRANSIENT_CODES or error.sqlstate.startswith(TRANSIENT_CLASSES)


def is_outdated(error: BaseException) -> bool:
    """Whether the session is at fault, and not the statement: the schema changed, and the session has plans from before. The
    same statement may succeed on a new session."""
    if not isinstance(error, psycopg.Error) or error.sqlstate is None:
        return False
    return error.sqlstate in OUTDATED_CODES or (error.sqlstate, error.diag.source_function) in OUTDATED_BY


GUARDS = ("agent_tasks_one_running_per_place", "agent_tasks_one_running_per_conversation")
"""The unique indexes that let one task on each place of a concurrency key, and one of a conversation, run at a time."""


def is_key_race(error: BaseException) -> bool:
    """Whether another session claimed a task of the same concurrency key or conversation meanwhile: the same statement finds it
    taken, and passes."""
    return isinstance(error, psycopg.errors.UniqueViolation) and error.diag.constraint_name in GUARDS


def is_about_one_row(error: BaseException) -> bool:
    """Whether one row that the statement writes may be the cause: its content, a constraint of the table's owner, a policy,
    an error in a trigger. Waiting does not help, and the statement may pass without that row."""
    if not isinstance(error, psycopg.Error) or is_transient(error) or is_outdated(error) or is_exhausted(error):
        return False
    if error.sqlstate is None or error.sqlstate.startswith(("22", "23", "44", "54", "P0")):
        return error.sqlstate is not None or is_unstorable(error)
    # Whatever a function of the owner's raises: the context names it.
    return is_about_this_role(error) or error.diag.context is not None


def is_about_this_role(error: psycopg.Error) -> bool:
    """Whether row level security refused the row: it may be another worker's to write. 42501 is every missing privilege;
    the server's function is the same in every language of its messages."""
    return error.sqlstate == "42501" and error.diag.source_function == "ExecWithCheckOptions"


def is_exhausted(error: BaseException) -> bool:
    """Whether a sequence has handed out its last number: no row can be written, whichever it is."""
    return isinstance(error, psycopg.Error) and error.sqlstate == "2200H"


def is_unstorable(error: psycopg.Error) -> bool:
    """Class 22 (data exception) and 54 (limits), or text that psycopg cannot send: the content itself is at fault."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.DataError)
    return error.sqlstate.startswith(("22", "54")) and not is_exhausted(error)


_AMBIGUOUS = (
    ". Somebody created a function of the same name: `turbo doctor` names it and its owner. Drop it, and "
    "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
)


def reason(error: BaseException) -> str:
    """An error in one line, for a log."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return text + _AMBIGUOUS if isinstance(error, psycopg.errors.AmbiguousFunction) else text


def why_refused(error: psycopg.Error) -> str:
    """Why the server refused a row, in one line that others may read: without its DETAIL, which quotes the row. Of a
    trigger's error, with the function that raised it."""
    text = " ".join((error.diag.message_primary or str(error)).split())
    context = (error.diag.context or "").splitlines()
    return (f"{text} ({' '.join(context[-1].split())})" if context else text)[:300] or type(error).__name__


def why_unreachable(error: BaseException) -> str:
    """Why no session could be opened, in one line, and what to check."""
    if isinstance(error, Unshown | UnreadableDsn):
        return str(error)
    text = reason(error).removeprefix("connection failed: ").removeprefix("connection is bad: ")
    text = text.partition(" Is the server running")[0].rstrip(".")
    if "does not exist" in text and "database" in text:
        return f"{text}; create it first with createdb or CREATE DATABASE"
    if "FATAL" in text or "session is read-only" in text:  # it runs, and refuses
        return text
    return f"{text}. Is it running?"


def outage(
    logger: logging.Logger, failing: str, back: str, *, level: int = logging.WARNING, backoff: Backoff | None = None
) -> Outage:
    """An Outage for work on the database. Its log lines go to `logger` and begin with `failing` and `back`."""
    return Outage(logger, failing, back, lasting=is_lasting, kind=kind, reason=reason, level=level, backoff=backoff)


def is_lasting(error: BaseException) -> bool:
    """Whether waiting alone will not help: a revoked privilege, a missing column."""
    return isinstance(error, AnotherDatabase) or (isinstance(error, psycopg.Error) and not is_transient(error))


def kind(error: BaseException) -> str:
    """Waiting for a server shows several errors in turn (refused, starting up, read-only): one kind, "away". Others are
    distinguished by SQLSTATE."""
    if isinstance(error, AnotherServer):
        return "another server"
    if not is_lasting(error):
        return "away"
    return str(getattr(error, "sqlstate", None) or type(error).__name__)
