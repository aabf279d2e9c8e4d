"""What a failover to an asynchronous standby does to the tables of tasks: they are again as they were some commits ago."""

import psycopg

TABLES = (
    "agent_tasks",
    "agent_actions",
    "agent_dependencies",
    "agent_blocked",
    "agent_unsettled",
    "agent_conversations",
)


class Standby:
    """`caught_up()`: it has received everything. `takes_over()`: what came since never happened."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        with psycopg.connect(dsn) as db:
            db.execute("create schema standby")
            for table in TABLES:
                db.execute(f"create table standby.{table} (like public.{table})")

    def caught_up(self) -> None:
        self._copy("public", "standby")

    def takes_over(self) -> None:
        self._copy("standby", "public")

    def _copy(self, source: str, target: str) -> None:
        with psycopg.connect(self._dsn) as db:
            db.execute("set session_replication_role = replica")
            for table in TABLES:
                db.execute(f"delete from {target}.{table}")
                copied = f"insert into {target}.{table} overriding system value select * from {source}.{table}"
                db.execute(copied)
