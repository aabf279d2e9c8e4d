"""What tests of migrations share: an old table, a migration in the background, the catalog in a form that compares."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import typer
from typer.testing import CliRunner, Result

from turbo.cli.migrate import migrate as migrate_command
from turbo.migrate import Applied, MigrationReport, Patience, migrate
from turbo.migrate.files import read

QUICK = Patience(lock_timeout=0.2, attempts=3, wait=0.3)
LONG = Patience(lock_timeout=0.2, attempts=1000, wait=60)

OLD_TABLE = """
create table public.agent_tasks (
  task_id text primary key, task_type text, task_description text, task_priority int, input_data jsonb, status text,
  output_data jsonb, error_message text, execution_time_ms int, assigned_worker_id text, timeout_seconds int,
  max_retries int, retry_count int, created_at timestamptz, started_at timestamptz, completed_at timestamptz)"""


class Background:
    """A migration in a thread of its own, whose lines a test waits for instead of sleeping."""

    def __init__(
        self, dsn: str, patience: Patience = LONG, *, on_line: Callable[[str], object] = lambda _line: None
    ) -> None:
        """`on_line` is called in the migration's own thread, before it goes on."""
        self._dsn, self._patience, self._on_line = dsn, patience, on_line
        self._changed = threading.Condition()
        self.lines: list[str] = []
        self.report: MigrationReport | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "Background":
        self._thread.start()
        return self

    def _run(self) -> None:
        try:
            self.report = migrate(self._dsn, patience=self._patience, report=self._say, on_applied=self._applied)
        except BaseException as error:
            self.error = error
        with self._changed:
            self._changed.notify_all()

    def _say(self, line: str) -> None:
        self._on_line(line)
        with self._changed:
            self.lines.append(line)
            self._changed.notify_all()

    def _applied(self, one: Applied) -> None:
        self._say(f"applied {one.label}")

    def heard(self, *words: str) -> str:
        """Wait for a line that holds all of `words`."""

        def found() -> str | None:
            return next((line for line in self.lines if all(word in line for word in words)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self.error or self.report, timeout=30)
            line = found()
        assert line, f"never said {words}: {self.lines} {self.error!r} {self.report}"
        return line

    def result(self) -> MigrationReport:
        self._thread.join(60)
        if self.error:
            raise self.error
        assert self.report, "the migration did not end"
        return self.report


def query(dsn: str, text: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(text)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def open_transaction(dsn: str, statement: str, *, isolation: str = "read committed") -> Iterator[psycopg.Connection]:
    """A session that has run `statement` and leaves its transaction open."""
    with psycopg.connect(dsn, application_name="the reader", autocommit=True) as connection:
        connection.execute(f"begin isolation level {isolation}")
        connection.execute(statement)
        yield connection


def everything(dsn: str) -> list[tuple[object, ...]]:
    """The catalog, in a form that compares."""
    return query(
        dsn,
        """
        select 'class', relname::text, relkind::text, relfilenode::text from pg_class
         where relnamespace = 'public'::regnamespace
        union all
        select 'column', attrelid::regclass::text, attname::text, atttypid::regtype::text from pg_attribute
         where attrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace)
        union all
        select 'function', proname::text, md5(prosrc), null from pg_proc where pronamespace = 'public'::regnamespace
        union all
        select 'trigger', tgname::text, tgrelid::regclass::text, null from pg_trigger
         order by 1, 2, 3, 4""",
    )


def forget(dsn: str, from_version: int) -> None:
    """Back to the moment before `from_version` was recorded, as after a kill: what it did may be there in part."""
    query(dsn, f"delete from turbo_migrations where version >= {from_version}")


def version_of(file_name_part: str) -> int:
    return next(m.version for m in read() if file_name_part in m.name)


INDEXES = version_of("indexes")


_app = typer.Typer()
_app.command()(migrate_command)


def turbo_migrate(*arguments: str) -> Result:
    """`turbo migrate` in this process."""
    result = CliRunner(env={"TURBO_DSN": ""}).invoke(_app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result
