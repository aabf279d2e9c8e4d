"""A usage limit rests an account on every host until the reset that the service reported; real CLI, real workers."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support import messages_api
from tests.support.accounts import ACCOUNT, AccountsBench, accounts_bench, is_probe, subscription
from tests.support.messages_api import Answer, Request
from tests.support.stores import Stores
from turbo.db.lane import Lane

LIMITED = {(ACCOUNT, "*"): ("paused", "usage_limit")}
DAY = 86_400


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator[AccountsBench]:
    with accounts_bench(dsn, tmp_path) as one:
        yield one


class Limit:
    """A usage limit that resets so many seconds after the first request meets it, however long the CLI took to send it."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self.resets_at = 0

    def decide(self, _request: Request) -> Answer | None:
        self.resets_at = self.resets_at or int(time.time()) + self._seconds
        return messages_api.usage_limit("five_hour", self.resets_at) if time.time() < self.resets_at else None


def until_of(bench: AccountsBench) -> float:
    return float(bench.sql("select extract(epoch from until) from agent_accounts where host = '*'")[0][0])


def test_both_hosts_pause_until_the_reset_then_one_probes(bench: AccountsBench) -> None:
    limit = Limit(12)
    bench.api.decide = limit.decide
    timings = {"limit_shortest": 1.0, "limit_jitter": 1.0, "resume_spread": 0.5}
    workers = [
        bench.worker(host, login=subscription(), timings=timings, worker={"slots": 1}) for host in ("alpha", "beta")
    ]
    bench.task("t0", max_retries=0)
    bench.until(lambda: bench.breakers() == LIMITED)
    resets_at = limit.resets_at
    assert resets_at - 0.1 <= until_of(bench) <= resets_at + 1.1, "the reported reset, and at most the jitter"
    bench.until(lambda: bench.counts("t0") == [("pending", 0, 0)])
    for worker in workers:
        bench.until(
            lambda w=worker: w.metric(bench.dsn, "turbo_account_paused", account=ACCOUNT, reason="usage_limit") == 1
        )
    more = [f"t{n}" for n in range(1, 8)]
    for task_id in more:
        bench.task(task_id, max_retries=0)
    bench.task("other", task_type="noop")
    bench.wait("other")
    assert bench.counts(*more) == [("pending", 0, 0)] * 7, "claimed while the account rests"
    assert time.time() < resets_at, "too slow a machine: the reset came before the test was ready"
    assert (bench.runs_of(), bench.probes()) == (1, 0)

    everything = ["t0", *more]
    bench.until(lambda: bench.counts(*everything) == [("completed", 0, 0)] * 8, 90)
    assert bench.probes() == 1, "one prober of two"
    share = dict(bench.sql("select assigned_worker_id, count(*) from agent_tasks where task_id <> 'other' group by 1"))
    assert set(share) == {w.worker_id for w in workers}
    assert sum("probe good" in w.log for w in workers) == 1
    assert sum("this worker resumes in" in w.log for w in workers) == 2
    paused = [w.metric(bench.dsn, "turbo_account_paused", account=ACCOUNT, reason="usage_limit") for w in workers]
    assert paused == [0, 0]
    pauses = [w.metric(bench.dsn, "turbo_usage_limit_pauses_total", account=ACCOUNT) for w in workers]
    assert sum(pauses) == 1


def test_weekly_limit_pauses_for_days_until_resumed_by_hand(bench: AccountsBench) -> None:
    resets_at = int(time.time()) + 3 * DAY
    bench.api.answer(messages_api.usage_limit("seven_day", resets_at))
    alpha = bench.worker("alpha", login=subscription(), worker={"slots": 3})
    tasks = ["t0", "t1", "t2"]
    for task_id in tasks:  # three slots hit it at about the same time: it is one pause
        bench.task(task_id, max_retries=0)
    bench.until(lambda: bench.breakers() == LIMITED)
    bench.until(lambda: bench.counts(*tasks) == [("pending", 0, 0)] * 3)
    assert abs(until_of(bench) - resets_at) < 0.1
    assert alpha.metric(bench.dsn, "turbo_usage_limit_pauses_total", account=ACCOUNT) == 1
    runs = bench.runs_of()
    bench.api.answer(messages_api.text("done"))
    bench.turbo("resume", "--account", ACCOUNT)
    bench.until(lambda: bench.counts(*tasks) == [("completed", 0, 0)] * 3)
    assert bench.runs_of() == runs + 3


def test_host_with_a_dead_login_leaves_the_probe_to_another(bench: AccountsBench) -> None:
    limit = Limit(3)

    def decide(request: Request) -> Answer | None:
        if "Bearer sk-ant-oat01-dead" in str(request.headers):
            return messages_api.expired_token()
        return limit.decide(request)

    bench.api.decide = decide
    timings = {"limit_shortest": 1.0}
    dead = {"CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-dead"}
    bench.worker("alpha", login=subscription(), timings=timings)
    bench.task("t", max_retries=0)
    bench.until(lambda: bench.breakers() == LIMITED)
    bench.workers[0].stop()
    bench.worker("beta", login=dead, timings=timings)  # alone: it must be the one that probes
    bench.until(lambda: bench.breakers().get((ACCOUNT, "beta")) == ("paused", "auth"))
    assert bench.breakers() == {(ACCOUNT, "beta"): ("paused", "auth"), (ACCOUNT, "*"): ("half_open", "usage_limit")}
    bench.worker("alpha", login=subscription(), timings=timings)
    row = bench.wait("t", seconds=60)
    assert bench.breakers() == {(ACCOUNT, "beta"): ("paused", "auth")}
    assert row["assigned_worker_id"] == bench.workers[2].worker_id
    assert row["retry_count"] == 0
    probes = [number for number, request in enumerate(bench.api.requests) if is_probe(request)]
    assert probes[-1] < len(bench.api.requests) - 1, "a worker that starts knows what is closed before it claims"


def test_limit_of_an_unnamed_account_stays_on_its_host(bench: AccountsBench) -> None:
    resets_at = int(time.time()) + DAY
    bench.api.decide = lambda r: messages_api.usage_limit("five_hour", resets_at) if not is_probe(r) else None
    bench.worker("alpha", login=subscription(), account=None)
    bench.task("t", max_retries=0)
    bench.until(lambda: bench.breakers() == {("claude", "alpha"): ("paused", "usage_limit")})
    bench.api.decide = lambda _request: None
    bench.worker("beta", login=subscription(), account=None)
    assert "beta" in bench.wait("t")["assigned_worker_id"]


# ── the row, without a worker ────────────────────────────────────────────────────────────────────────────────────────


async def limit(stores: Stores, resets_at: float | None, host: str = "*", **more: float) -> object:
    known = {"shortest": 60.0, "longest": 8.0 * DAY, "unknown": 900.0, "jitter": 0.0}
    return await stores.accounts.limit(ACCOUNT, host, resets_at=resets_at, why="x", **{**known, **more})


@pytest.mark.parametrize(
    ("resets_in", "rests"),
    [(7200.0, 7200.0), (-5.0, 60.0), (1.0, 60.0), (400.0 * DAY, 8.0 * DAY), (None, 900.0)],
)
async def test_reset_is_clamped_on_the_database_clock(dsn: str, resets_in: float | None, rests: float) -> None:
    lane = Lane(dsn, "test")
    stores = Stores("w-1-abcdef", lane, lane, host="alpha")
    with psycopg.connect(dsn, autocommit=True) as db:
        (now,) = db.execute("select extract(epoch from clock_timestamp())::float8").fetchone() or (0.0,)
        assert await limit(stores, None if resets_in is None else now + resets_in) is True
        query = "select extract(epoch from until)::float8 from agent_accounts"
        (until,) = db.execute(query).fetchone() or (0.0,)
    assert abs(until - now - rests) < 5
    await lane.close()


async def test_latest_of_several_limits_makes_one_pause(dsn: str) -> None:
    lanes = [Lane(dsn, f"test {n}") for n in range(8)]
    several = [Stores(f"w-{n}-abcdef", lane, lane, host="alpha") for n, lane in enumerate(lanes)]
    at = time.time()
    new = await asyncio.gather(*(limit(stores, at + 1000 + 100 * n) for n, stores in enumerate(several)))
    assert sorted(str(n) for n in new) == ["False"] * 7 + ["True"]
    assert await limit(several[0], at + 500) is False
    (row,) = await several[0].accounts.rows(ACCOUNT)
    assert row.seconds is not None
    assert 1690 < row.seconds <= 1701
    for lane in lanes:
        await lane.close()
