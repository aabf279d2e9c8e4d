"""Which database a worker works for.

    unknown ──start-up has read turbo_database_id()──▶ settled ──a session finds another one──▶ that session is refused

What a worker keeps on disk (results, logs, working directories) belongs to one database. A service file, a changed name
server, or a database that was dropped and made again can lead the same DSN to another one. So every session that a settled
worker opens reads the identity first. Behind a pooler that lends backends, one session meets many: there each statement's
transaction reads it first (turbo.db.search_path). Copies of a database (a dump, a template, a base backup) have the same identity.
"""

from turbo.db.errors import AnotherDatabase

IDENTITY = "select public.turbo_database_id()"


class DatabaseIdentity:
    """Of one process. Any thread may use it."""

    def __init__(self) -> None:
        self._id: str | None = None

    @property
    def id(self) -> str | None:
        """None until it is settled."""
        return self._id

    def settle(self, found: str) -> None:
        """This process works for the database `found`, from now on. Raises AnotherDatabase if it works for another one."""
        self._id = self._id or found
        self.check(found)

    def check(self, found: str | None) -> None:
        """Raises AnotherDatabase. `found` None: the database has no identity."""
        if self._id is not None and found != self._id:
            what = "has no identity" if found is None else f"is {found}"
            raise AnotherDatabase(
                f"the DSN leads to another database than before: it {what}, and this worker's is {self._id}. Its results wait "
                "on this host. Lead the DSN back, or restart the worker to work for the new database"
            )
