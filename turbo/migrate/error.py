"""The errors that end `turbo migrate`: one message, for the operator."""

AGAIN = "Run turbo migrate again: it continues from here"


class MigrationError(Exception):
    """The migration stopped. The message has what happened, where, and the remedy; another run continues."""


class BadDsn(MigrationError):
    """The DSN itself cannot be read: wrong usage, not a failure of the database."""
