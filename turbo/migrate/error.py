"""What `turbo migrate` says when it cannot go on: one message for the person who can act."""

UNREADABLE_DSN = "the DSN cannot be read: write postgresql://user@host:port/database, or host=… port=… dbname=…"
"""libpq's own message quotes the DSN, and a password may be in it."""

AGAIN = "Run turbo migrate again: it goes on from here"


class MigrationError(Exception):
    """The migration stopped. Its text says what happened, where, and what to do next; running again continues."""


class BadDsn(MigrationError):
    """The DSN itself cannot be read: wrong usage, not a failure of the database."""
