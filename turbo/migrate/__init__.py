"""Migrations: `turbo migrate`, and what a worker asks about the schema it finds.

error.py      what it says when it cannot go on
files.py      migrations/NNNN_name.sql: read, checked, cut into blocks
history.py    turbo_migrations: what a database has seen, and whether this turbo fits it
session.py    the connection: judged fit, and held exclusively
blockers.py   who stands in the way of a lock
contract.py   what turbo needs of an existing agent_tasks and agent_actions
survey.py     what they are
finding.py    one thing that was found, and what to do about it
judge.py      whether the tables and turbo go together (judge_columns.py: their columns)
adopt.py      the statements that make them turbo's
backfill.py   a place in the queue for rows that waited before turbo came
locks.py      which lock a statement takes, and who waits
runner.py     applies what is missing
plan.py       shows it instead
roles.py      roles and their privileges, on request
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
