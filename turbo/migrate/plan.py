"""`turbo migrate --plan`: what a migration would do, without doing it.

The session is read-only, takes no lock, and waits for nobody.
"""

from dataclasses import dataclass

from turbo.migrate import history, session
from turbo.migrate.files import Migration, read


@dataclass(frozen=True, slots=True)
class Plan:
    """The migrations a database has not seen, in order."""

    database: str
    version: int
    latest: int
    pending: tuple[Migration, ...]


def plan(dsn: str = "") -> Plan:
    """What `migrate(dsn)` would do now. Changes nothing. Raises MigrationError as `migrate` does."""
    with session.open_session(dsn, read_only=True) as connection:
        state = history.status(connection)
        return Plan(session.place(connection), state.version, state.latest, history.pending(connection, read()))
