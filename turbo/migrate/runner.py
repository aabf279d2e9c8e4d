"""The runner: brings a database to this turbo's schema while the database is in use.

    read files ──▶ nothing to do
        └──▶ lock (polled) ──▶ read history again ──▶ judged ──▶ per file: its blocks ──▶ recorded ──▶ … ──▶ unlock
                                                        └──▶ an existing table that does not fit: refused, nothing changed

Between the files an existing agent_tasks and agent_actions are adopted (adopt.py, backfill.py).

A block in a transaction runs under `lock_timeout`. Other sessions queue behind a waiting table lock, so the block gives up after
two seconds, pauses (growing, jittered), reports the blocking sessions and tries again. An index is built concurrently, and
only when no transaction is in the way; an INVALID index of an interrupted attempt is dropped and built again. A file is
recorded with its last transaction. After a kill at any point, the next run continues from there.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from psycopg import errors, sql
from psycopg.rows import TupleRow

from turbo import db
from turbo.domain.states import Level
from turbo.migrate import blockers as blocking
from turbo.migrate import history, ownership, session
from turbo.migrate.adoption import adopt, backfill, judge, upgrade
from turbo.migrate.adoption.finding import refusal, worded
from turbo.migrate.adoption.survey import Survey, survey, twice
from turbo.migrate.error import AGAIN, MigrationError
from turbo.migrate.files import Block, ConcurrentIndex, Migration, read
from turbo.runtime.backoff import Backoff
from turbo.sql import statement

Connection = psycopg.Connection[TupleRow]
Report = Callable[[str], None]
_Done = TypeVar("_Done")

_CLEAR_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a migration waits, in seconds.

    `lock_timeout`: one wait for a lock (other sessions queue behind it). `attempts`: how often a statement is tried before the
    migration gives up. `wait`: how long to wait for another migration of the same database.
    """

    lock_timeout: float = 2.0
    attempts: int = 20
    wait: float = 600.0


@dataclass(frozen=True, slots=True)
class Applied:
    """One file, applied by this run, in `seconds`."""

    version: int
    label: str
    seconds: float


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """The result of one run: the versions of the database before and after, and this turbo's."""

    database: str
    version_before: int
    version: int
    latest: int
    applied: tuple[Applied, ...]


class _InTheWay(Exception):
    """Sessions that a concurrent build would have to wait for are still there."""


_NO_LOCK = (errors.LockNotAvailable, errors.DeadlockDetected, _InTheWay)


def _unreported(_line: str) -> None: ...
def _unobserved(_applied: Applied) -> None: ...
def _nothing() -> None: ...


def migrate(
    dsn: str = "",
    *,
    patience: Patience | None = None,
    report: Report = _unreported,
    on_applied: Callable[[Applied], None] = _unobserved,
) -> MigrationReport:
    """Apply the missing files; a second run finds nothing to do.

    `report` gets a line for each wait, `on_applied` each applied file. Raises MigrationError with a message for the operator.
    Safe to run from several hosts at once, and to run again after any failure.
    """
    patience = patience or Patience()
    files = read()
    with session.open_session(dsn, lock_timeout=patience.lock_timeout) as connection:
        judge_owners(connection)
        if finding := ownership.open_schema(connection):
            report(f"warning: {worded(finding)}")
        before = history.status(connection)
        done: list[Applied] = []
        if history.pending(connection, files):
            with session.exclusive(connection, dsn, wait_seconds=patience.wait, report=report):
                runner = _Runner(connection, dsn, patience, report)
                try:
                    pending = history.pending(connection, files)
                    judge_owners(connection)
                    if adopt.concerns(pending):
                        runner.judge()
                    elif upgrade.concerns(pending):
                        runner.judge_upgrade()
                    runner.prepare()
                    for migration in pending:
                        done.append(runner.apply(migration))
                        on_applied(done[-1])
                    judge_owners(connection, afterwards=True)
                finally:
                    runner.close()
        after = history.status(connection)
        return MigrationReport(session.place(connection), before.version, after.version, after.latest, tuple(done))


def judge_owners(connection: Connection, *, afterwards: bool = False) -> None:
    """Raises MigrationError if somebody else made one of turbo's objects: before it is even read, or while turbo migrated."""
    if findings := ownership.judge(connection):
        raise MigrationError(refusal(findings, changed=afterwards))


class _Runner:
    """One run on one connection, which holds the migration lock."""

    def __init__(self, connection: Connection, dsn: str, patience: Patience, report: Report) -> None:
        self._connection = connection
        self._patience = patience
        self._report = report
        self._step = ""
        self._watcher = blocking.LockWatcher(dsn, session.backend(connection), patience.lock_timeout, self._waiting)

    def close(self) -> None:
        self._watcher.close()

    def prepare(self) -> None:
        self._attempts("turbo_migrations", None, lambda: history.create(self._connection))

    def judge(self) -> None:
        """Raises MigrationError, before anything is changed, if turbo cannot use the existing tables."""
        existing = self._survey()
        repeated: tuple[str, ...] = ()
        if columns := adopt.keys_of_its_own(existing):
            repeated = self._attempts("adoption", None, lambda: twice(self._connection, columns))
        findings = judge.judge(existing, repeated)
        if any(finding.level is Level.REFUSE for finding in findings):
            raise MigrationError(refusal(findings))
        for finding in findings:
            if finding.level is Level.WARN:
                self._report(f"note: {worded(finding)}")

    def judge_upgrade(self) -> None:
        """Raises MigrationError, before anything is changed, if turbo's agent_tasks cannot take the new states and columns."""
        findings = upgrade.judge(self._survey())
        if any(finding.level is Level.REFUSE for finding in findings):
            raise MigrationError(refusal(findings))

    def apply(self, migration: Migration) -> Applied:
        started = time.monotonic()
        if migration.version == adopt.STEPS_BEFORE:
            self._take_steps(adopt.steps(self._survey()))
        if migration.version == upgrade.BEFORE:
            self._take_steps(upgrade.steps(self._survey()))
        if migration.version == adopt.BACKFILL_BEFORE:
            self._backfill()
        for block in migration.blocks:
            self._run(migration, block, last=block is migration.blocks[-1])
        return Applied(migration.version, migration.label, time.monotonic() - started)

    def _survey(self) -> Survey:
        return self._attempts("adoption", None, lambda: survey(self._connection))

    def _take_steps(self, steps: Sequence[adopt.Step]) -> None:
        for step in steps:
            self._block("adoption", step.block, in_transaction=step.in_transaction)

    def _backfill(self) -> None:
        how = backfill.method_for(self._survey())
        filled = self._attempts("adoption", None, lambda: backfill.run(self._connection, how))
        if filled:
            self._report(f"adoption: {filled} waiting rows got their created_at as run_after")

    def _run(self, migration: Migration, block: Block, *, last: bool) -> None:
        record = (lambda: history.record(self._connection, migration)) if last else _nothing
        self._block(migration.label, block, in_transaction=migration.in_transaction, record=record)

    def _block(self, step: str, block: Block, *, in_transaction: bool, record: Callable[[], None] = _nothing) -> None:
        index = block.concurrent_index

        def together() -> None:
            with self._connection.transaction():
                self._send(block)
                record()

        def alone() -> None:
            if index is None or self._clear_the_way(index):
                self._send(block)
            record()

        self._attempts(step, block, together if in_transaction else alone)

    def _send(self, block: Block) -> None:
        # Without parameters psycopg uses the simple protocol, which accepts a file of many statements.
        self._connection.execute(block.sql.encode())

    def _attempts(self, step: str, block: Block | None, work: Callable[[], _Done]) -> _Done:
        """Do `work` and return its result. If a lock is not available, try again until the patience is exhausted."""
        self._step = step
        pause = Backoff(base=0.25, cap=4.0)
        for attempt in range(1, self._patience.attempts + 1):
            try:
                with self._watcher.watching():
                    return work()
            except _NO_LOCK as error:
                if attempt == self._patience.attempts:
                    raise MigrationError(
                        f"{step}: no lock in {attempt} attempts of {self._patience.lock_timeout:g} s: "
                        f"{blocking.describe(self._watcher.seen)}. {AGAIN}"
                    ) from error
                time.sleep(pause.next())
            except psycopg.Error as error:
                raise self._failed(step, block, error) from error
        raise AssertionError("the last attempt returns or raises")

    def _waiting(self, blockers: blocking.Blockers) -> None:
        self._report(f"{self._step}: waiting for a lock, {blocking.describe(blockers)}")

    def _clear_the_way(self, index: ConcurrentIndex) -> bool:
        """Wait without a lock until an index build would not have to wait, and drop an INVALID leftover. False if a valid index
        exists already."""
        qualified, table = f"{index.schema}.{index.index}", f"{index.schema}.{index.table}"
        row = self._connection.execute(
            statement("migrate/index_state"), {"index": qualified, "table": table}
        ).fetchone()
        if row and row[0]:
            return False
        leftover = row is not None
        deadline = time.monotonic() + self._patience.lock_timeout
        while sessions := blocking.in_the_way(self._connection, table, readers=leftover):
            self._watcher.seen = sessions
            self._watcher.report(sessions)
            if time.monotonic() > deadline:
                raise _InTheWay
            time.sleep(_CLEAR_POLL_SECONDS)
        if leftover:
            self._report(f"{self._step}: {index.index} was left INVALID by an earlier attempt: building it again")
            self._connection.execute(
                sql.SQL("drop index concurrently if exists {}").format(sql.Identifier(index.schema, index.index))
            )
        return True

    def _failed(self, step: str, block: Block | None, error: psycopg.Error) -> MigrationError:
        if block is not None and error.diag.statement_position:
            before = block.sql[: int(error.diag.statement_position) - 1]
            step += f".sql line {block.first_line + before.count(chr(10))}"
        text = error.diag.message_primary or db.reason(error)
        if isinstance(error, errors.InsufficientPrivilege):
            return MigrationError(
                f"{step}: {text}. Run turbo migrate as a role that may CREATE in schema public and that owns "
                f"agent_tasks and agent_actions where they exist (this one is {self._connection.info.user})"
            )
        if self._connection.closed or db.is_transient(error):
            return MigrationError(f"{step}: {text}. {AGAIN}")
        detail = "; ".join(part for part in (error.diag.message_detail, error.diag.message_hint) if part)
        return MigrationError(f"{step}: {text}{f' ({detail})' if detail else ''}")
