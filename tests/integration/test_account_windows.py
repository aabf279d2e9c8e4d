"""The table of account windows: what workers write, read and show of what agents report."""

import json
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from tests.support.accounts import AccountsBench, accounts_bench
from tests.support.subscriptions import Service, Subscription
from turbo.accounts.headroom import Headroom
from turbo.accounts.windows import AccountWindows
from turbo.db.lane import Lane
from turbo.db.window_store import WindowStore
from turbo.domain.headroom import LONGEST_WINDOW, UsageWindow

ROWS = (
    "select account, time_window, model, utilization, status,"
    " extract(epoch from resets_at - clock_timestamp())::float8 from public.agent_account_windows order by 1, 2, 3"
)


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator[AccountsBench]:
    with accounts_bench(dsn, tmp_path) as one:
        yield one


@asynccontextmanager
async def worker(dsn: str) -> AsyncIterator[tuple[AccountWindows, Headroom]]:
    """What one worker process knows and writes."""
    lane, headroom = Lane(dsn, "test"), Headroom()
    windows = AccountWindows(WindowStore(lane), headroom, {"a", "b"})
    windows.start(lambda _name, _error: None)
    try:
        yield windows, headroom
    finally:
        await windows.stop()
        await lane.close()


async def test_another_worker_reads_what_one_has_written(dsn: str, db: psycopg.Connection) -> None:
    now = time.time()
    async with worker(dsn) as (one, _), worker(dsn) as (other, headroom):
        one.report(
            "a", [UsageWindow("five_hour", "", 0.42, now + 60, "allowed"), UsageWindow("seven_day", "opus", 0.9)]
        )
        one.report("own", [UsageWindow("five_hour", "", 0.5, now + 60)])
        await until_written(one)
        rows = db.execute(ROWS).fetchall()
        assert [row[:5] for row in rows] == [
            ("a", "five_hour", "", 0.42, "allowed"),
            ("a", "seven_day", "opus", 0.9, ""),
        ]
        assert 50 < rows[0][5] <= 60
        await other.refresh(["a", "b"])
        assert headroom.utilization("a") == 0.42
        assert headroom.utilization("b") is None
        assert {(a, w) for a, w, _, _ in headroom.shown()} == {("a", "five_hour"), ("a", "seven_day_opus")}


async def until_written(windows: AccountWindows) -> None:
    """Without waiting for its turn."""
    await windows._write()


async def test_odd_reports_are_bounded_on_their_way(dsn: str, db: psycopg.Connection) -> None:
    odd = [
        UsageWindow("above", "", 7.0, time.time() + 1e12),
        UsageWindow("past", "", 0.5, 1.0),
        UsageWindow("endless", "", math.inf, math.inf),
        UsageWindow("nothing"),
        UsageWindow("nul\0in\x1bside" * 50, "", -1.0, math.nan, "x\ud800"),
    ]
    async with worker(dsn) as (one, _):
        one.report("a", odd)
        await until_written(one)
    found = {row[1][:7]: (row[3], row[5]) for row in db.execute(ROWS).fetchall()}
    assert len(found) == len(odd)
    assert found["past"] == (0.5, None)
    assert found["endless"] == found["nothing"] == (None, None)
    assert found["above"][0] == 1.0
    assert LONGEST_WINDOW - 60 < found["above"][1] <= LONGEST_WINDOW


async def test_report_waits_for_no_row_that_a_person_holds(dsn: str, db: psycopg.Connection) -> None:
    async with worker(dsn) as (one, _):
        one.report("a", [UsageWindow("five_hour", "", 0.1)])
        await until_written(one)
        with psycopg.connect(dsn) as person:
            person.execute("select from public.agent_account_windows for update")
            one.report("a", [UsageWindow("five_hour", "", 0.2), UsageWindow("seven_day", "", 0.3)])
            await until_written(one)
        assert [row[3] for row in db.execute(ROWS)] == [0.1, 0.3]
        one.report("a", [UsageWindow("five_hour", "", 0.25)])
        await until_written(one)
        assert [row[3] for row in db.execute(ROWS)] == [0.25, 0.3]


@pytest.mark.parametrize(
    "values", ["2, now()", "'nan', now()", "-1, now()", "0.5, 'infinity'", "0.5, '9999-01-01'", "0.5, '-infinity'"]
)
def test_table_takes_no_figure_out_of_bounds(db: psycopg.Connection, values: str) -> None:
    insert = (
        f"insert into agent_account_windows (account, time_window, utilization, resets_at) values ('a', 'w', {values})"
    )
    with pytest.raises(psycopg.errors.CheckViolation):
        db.execute(insert.encode())


def test_runs_report_windows_to_table_metrics_and_status(bench: AccountsBench) -> None:
    service = Service(bench, {"alpha": Subscription(used=0.4), "beta": Subscription(used=0.9)})
    one = bench.start(service.pool("one", slots=1), bench.settings()).listening()
    for task_id in ("t1", "t2"):
        bench.task(task_id)
        bench.wait(task_id)
    bench.until(lambda: len(bench.sql(ROWS)) == 2)
    assert [row[:4] for row in bench.sql(ROWS)] == [("alpha", "five_hour", "", 0.41), ("beta", "five_hour", "", 0.91)]
    assert one.metric(bench.dsn, "turbo_account_utilization_ratio", account="beta", window="five_hour") == 0.91
    resets = one.metric(bench.dsn, "turbo_account_resets_timestamp_seconds", account="beta", window="five_hour")
    assert abs(resets - service.subscriptions["beta"].resets_at) < 2
    text = bench.turbo("status")
    assert "91% of five_hour" in text
    found = json.loads(bench.turbo("status", "--json"))["windows"]
    assert [(w["account"], w["utilization"]) for w in found] == [("beta", 0.91), ("alpha", 0.41)]

    one.stop()
    bench.start(service.pool("two", slots=1), bench.settings()).listening()
    bench.task("t3")
    bench.wait("t3")
    assert service.runs == {"alpha": 2, "beta": 1}, "the other worker knows without having asked"
