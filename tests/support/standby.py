"""What a failover to an asynchronous standby does to the tables of tasks: they are again as they were some commits ago."""

from collections.abc import Sequence

import psycopg

TABLES = (
    "agent_tasks",
    "agent_actions",
    "agent_dependencies",
    "agent_blocked",
    "agent_unsettled",
    "agent_conversations",
    "agent_messages",
)


class Standby:
    """`caught_up()`: it has received everything. `takes_over()`: what came since never happened."""

    def __init__(self, dsn: str, tables: Sequence[str] = TABLES) -> None:
        self._dsn = dsn
        self._tables = tables
        with psycopg.connect(dsn) as db:
            db.execute("create schema standby")
            for table in tables:
                db.execute(f"create table standby.{table} (like public.{table})")

    def caught_up(self) -> None:
        self._copy("public", "standby")

    def takes_over(self) -> None:
        self._copy("standby", "public")

    def _copy(self, source: str, target: str) -> None:
        with psycopg.connect(self._dsn) as db:
            db.execute("set session_replication_role = replica")
            for table in self._tables:
                db.execute(f"delete from {target}.{table}")
                copied = f"insert into {target}.{table} overriding system value select * from {source}.{table}"
                db.execute(copied)
