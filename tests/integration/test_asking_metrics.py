"""The leader's gauges of what waits for a person."""

import psycopg
from prometheus_client import generate_latest
from psycopg.rows import dict_row

from tests.support.open_questions import PUSH, ask
from turbo import Client
from turbo.observability.metrics import Metrics
from turbo.sql import statement

WORKER = (
    "insert into agent_workers (worker_id, name, host, pid, version, slots, queues, accounts, state, heartbeat_at) values "
    "('alpha-1-abcdef', 'alpha', 'alpha', 1, '1', 2, '{default,night}', '{}', 'up', clock_timestamp())"
)


def gauges(dsn: str) -> dict[str, float]:
    """The lines of the fleet's gauges."""
    metrics = Metrics()
    with psycopg.connect(dsn, row_factory=dict_row) as db:
        metrics.fleet.replace(db.execute(statement("workers/gauges")).fetchall())
    lines = generate_latest(metrics.registry).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_gauges_count_questions_but_no_holds(dsn: str) -> None:
    with Client(dsn) as client, psycopg.connect(dsn, autocommit=True) as db:
        db.execute(WORKER)
        client.submit("x", queue="night", hold=True)
        before = gauges(dsn)
        assert before['turbo_queue_tasks{queue="night",status="waiting"}'] == 1
        assert before['turbo_queue_tasks{queue="night",status="blocked"}'] == 0
        assert before['turbo_oldest_question_age_seconds{queue="night"}'] == 0, "a hold is no question"
        ask(dsn, "a", ago=500, host="alpha")
        ask(dsn, "b", PUSH, ago=900, host="gone")
        now = gauges(dsn)
        assert now['turbo_queue_tasks{queue="default",status="waiting"}'] == 2
        assert 900 <= now['turbo_oldest_question_age_seconds{queue="default"}'] < 1000
        assert now['turbo_stranded_tasks{queue="default"}'] == 0, "nobody has answered yet"
        client.answer("a", "SQLite")
        client.approve("b")
        after = gauges(dsn)
        assert after['turbo_stranded_tasks{queue="default"}'] == 1, "only b: alpha's worker lives"
        assert after['turbo_oldest_question_age_seconds{queue="default"}'] == 0
        client.retry("b", anew=True)
        assert gauges(dsn)['turbo_stranded_tasks{queue="default"}'] == 0
