"""The errors that end `turbo migrate`: one message, for the operator."""

UNREADABLE_DSN = "the DSN cannot be read: write postgresql://user@host:port/database, or host=… port=… dbname=…"
"""libpq's own message quotes the DSN, and a password may be in it."""

AGAIN = "Run turbo migrate again: it continues from here"


class MigrationError(Exception):
    """The migration stopped. The message has what happened, where, and the remedy; another run continues."""


class BadDsn(MigrationError):
    """The DSN itself cannot be read: wrong usage, not a failure of the database."""
