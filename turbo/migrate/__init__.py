"""Migrations: `turbo migrate`, and a worker's check of the schema.

error.py      the errors that end a migration
files.py      migrations/NNNN_name.sql: read, checked, split into blocks
history.py    turbo_migrations: the files that a database has, and whether this turbo fits it
session.py    the connection: checked, and held exclusively
blockers.py   the sessions that block a lock
locks.py      which lock a statement takes, and who waits
ownership.py  whose objects turbo uses
runner.py     applies the missing files
plan.py       shows them instead
roles.py      roles and their privileges, on request

adoption/     makes an existing agent_tasks and agent_actions turbo's:
contract.py   the columns that turbo needs         survey.py    the tables as they are
judge.py      whether they fit (judge_columns.py: their columns)
finding.py    the order and wording of findings    adopt.py     the statements
backfill.py   a place in the queue for rows that waited before turbo was installed
"""

from turbo.migrate.error import BadDsn, MigrationError
from turbo.migrate.history import (
    SCHEMA_VERSION,
    SchemaFit,
    SchemaStatus,
    check_schema,
    explain_schema,
    read_status,
    status,
    worker_verdict,
)
from turbo.migrate.plan import Plan, plan
from turbo.migrate.roles import ROLES, RolesReport, grant_roles, roles_sql
from turbo.migrate.runner import Applied, MigrationReport, Patience, migrate

__all__ = [
    "ROLES",
    "SCHEMA_VERSION",
    "Applied",
    "BadDsn",
    "MigrationError",
    "MigrationReport",
    "Patience",
    "Plan",
    "RolesReport",
    "SchemaFit",
    "SchemaStatus",
    "check_schema",
    "explain_schema",
    "grant_roles",
    "migrate",
    "plan",
    "read_status",
    "roles_sql",
    "status",
    "worker_verdict",
]
