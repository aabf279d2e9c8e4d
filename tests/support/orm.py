"""`agent_tasks` as three object-relational mappers see it, each with a plain model of every column.

Django's `save` writes back every column as it was read, and so does Hibernate. SQLAlchemy writes what was changed; a plain
model inserts NULL for every column without a value.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import django
import psycopg
from django.conf import settings
from django.db import connections, models
from psycopg import conninfo, sql
from psycopg.types.json import Jsonb
from sqlalchemy import JSON, BigInteger, DateTime, Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"  # a test of turbo has a loop, and may wait for a save
if not settings.configured:
    settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}}, USE_TZ=True)
    django.setup()


class DjangoTask(models.Model):  # type: ignore[misc]
    """As `manage.py inspectdb` writes it."""

    task_id = models.TextField(primary_key=True)
    task_type = models.TextField(null=True)
    task_description = models.TextField()
    task_priority = models.IntegerField(null=True)
    input_data = models.JSONField(null=True)
    status = models.TextField(null=True)
    output_data = models.JSONField(null=True)
    error_message = models.TextField(null=True)
    execution_time_ms = models.BigIntegerField(null=True)
    assigned_worker_id = models.TextField(null=True)
    timeout_seconds = models.IntegerField(null=True)
    max_retries = models.IntegerField(null=True)
    retry_count = models.IntegerField(null=True)
    created_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    queue = models.TextField(null=True)
    run_after = models.DateTimeField(null=True)
    fencing_token = models.BigIntegerField(null=True)
    idempotency_key = models.TextField(null=True)
    concurrency_key = models.TextField(null=True)
    agent_session_id = models.TextField(null=True)
    failure_kind = models.TextField(null=True)
    cancel_requested_at = models.DateTimeField(null=True)
    cancel_to = models.TextField(null=True)
    infra_count = models.IntegerField(null=True)
    turbo_rev = models.BigIntegerField(null=True)

    class Meta:
        managed = False
        db_table = "agent_tasks"
        app_label = "tests"


COLUMNS = tuple(field.name for field in DjangoTask._meta.fields)


@contextlib.contextmanager
def django_on(dsn: str) -> Iterator[type[DjangoTask]]:
    """The Django model, on this database."""
    where = conninfo.conninfo_to_dict(dsn)
    connections["default"].close()
    connections["default"].settings_dict |= {
        "NAME": where["dbname"],
        "USER": where.get("user", ""),
        "PASSWORD": where.get("password", ""),
        "HOST": where.get("host", ""),
        "PORT": where.get("port", ""),
    }
    try:
        yield DjangoTask
    finally:
        connections["default"].close()


class _Base(DeclarativeBase):
    type_annotation_map = {datetime: DateTime(timezone=True), dict[str, Any]: JSON}  # noqa: RUF012


class AlchemyTask(_Base):
    __tablename__ = "agent_tasks"

    task_id: Mapped[str] = mapped_column(primary_key=True)
    task_type: Mapped[str | None]
    task_description: Mapped[str]
    task_priority: Mapped[int | None]
    input_data: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    status: Mapped[str | None]
    output_data: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error_message: Mapped[str | None]
    timeout_seconds: Mapped[int | None]
    max_retries: Mapped[int | None]
    retry_count: Mapped[int | None]
    created_at: Mapped[datetime | None]
    queue: Mapped[str | None]
    run_after: Mapped[datetime | None]
    infra_count: Mapped[int | None]
    turbo_rev: Mapped[int | None] = mapped_column(BigInteger)


def alchemy_on(dsn: str) -> Engine:
    """An engine on this database, for `sqlalchemy.orm.Session`."""
    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))


def hibernate_save(db: psycopg.Connection[Any], row: dict[str, Any]) -> None:
    """The UPDATE that Hibernate's `flush` makes of a changed entity: every column but the id, in the order of their names."""
    written = sorted(name for name in row if name != "task_id")
    query = sql.SQL("update agent_tasks set {} where task_id=%s").format(
        sql.SQL(",").join(sql.SQL("{}=%s").format(sql.Identifier(name)) for name in written)
    )
    values = [Jsonb(row[n]) if isinstance(row[n], dict) else row[n] for n in written]
    db.execute(query, [*values, row["task_id"]])
