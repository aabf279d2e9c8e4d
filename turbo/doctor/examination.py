"""All checks, in order: the database first, then this host."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import psycopg

from turbo import db
from turbo.config.worker import WorkerConfig
from turbo.doctor import (
    budgets,
    delivery,
    disk,
    limits,
    metrics_port,
    pooling,
    programs,
    schedules,
    schema,
    server,
    sessions,
    subscriptions,
    surroundings,
    work,
    worktrees,
)
from turbo.doctor.check import Check
from turbo.doctor.session import Session, SessionRow
from turbo.domain.finding import Finding, fail, skip
from turbo.domain.states import Level
from turbo.observability.log import scrub

OLD_TRANSACTION_SECONDS = 300.0


def examine(
    dsn: str,
    config: WorkerConfig | None = None,
    *,
    listen_dsn: str = "",
    env_file: Path | None = None,
    old_transaction_seconds: float = OLD_TRANSACTION_SECONDS,
) -> Iterator[Finding]:
    """Run every check. Yields one finding per check, as soon as it is known.

    `listen_dsn`: the worker's, if it has one. Without `config` this host is not checked, because its state directory, executors and
    port are unknown. `env_file` is the worker's (`turbo worker --env-file`). A transaction is old after `old_transaction_seconds`.
    """
    lacking: dict[str, str] = {}  # a check that did not succeed → the check that is the cause
    with Session(dsn, listen_dsn) as session:
        for check in _checks(session, config, env_file, old_transaction_seconds):
            cause = next((lacking[name] for name in check.needs if name in lacking), None)
            finding = skip(f"see {cause}") if cause else _run(check)
            if finding.level in (Level.FAIL, Level.SKIP):
                lacking[check.name] = cause or check.name
            yield replace(finding, subject=check.name, what=scrub(finding.what))


def _run(check: Check) -> Finding:
    try:
        return check.run()
    except psycopg.errors.InsufficientPrivilege as error:
        return fail(db.reason(error), "run the doctor as a member of turbo_reader, or turbo migrate --roles")
    except psycopg.Error as error:
        return fail(f"the query failed: {db.reason(error)}", "see the server's log")
    except OSError as error:
        return fail(f"cannot be checked: {error}", "fix this, and run the doctor again")


def _checks(
    session: Session, config: WorkerConfig | None, env_file: Path | None, old_transaction_seconds: float
) -> Iterator[Check]:
    yield from server.checks(session, old_transaction_seconds)
    yield from schema.checks(session, as_worker=config is not None)
    yield from pooling.checks(session)
    yield from delivery.checks(session)
    yield from work.checks(session)
    yield from schedules.checks(session)
    yield from budgets.checks(session, config)
    yield from limits.checks(session)
    yield from subscriptions.checks(session)
    yield from sessions.checks(session)
    if config is None:
        yield Check(
            "this host", lambda: skip("give --config FILE to check the state directory, programs, logins and ports")
        )
        return
    host = _Host(session, config)
    yield from disk.checks(Path(config.worker.state_dir))
    yield from worktrees.checks(Path(config.worker.state_dir))
    yield Check("metrics port", lambda: metrics_port.metrics_port(config.metrics, host.workers, host.name))
    yield from programs.checks(config, env_file, lambda: host.surroundings)


class _Host:
    """This machine, and the workers on it."""

    def __init__(self, session: Session, config: WorkerConfig) -> None:
        self._session = session
        self._config = config
        self.name = config.worker.this_host

    @cached_property
    def workers(self) -> list[SessionRow]:
        """The live workers of the fleet; empty when the database does not answer."""
        try:
            return self._session.rows("workers")
        except psycopg.Error:
            return []

    @cached_property
    def surroundings(self) -> surroundings.WorkerEnvironment:
        return surroundings.of_worker(self.workers, self.name, self._config.worker.name or self.name)
