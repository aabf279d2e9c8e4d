"""Several accounts behind one executor: real workers, the real CLI, and a loopback service with scripted windows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.accounts import AccountsBench, accounts_bench
from tests.support.size import sized
from tests.support.subscriptions import Service, Subscription

TASKS = [f"t{n:02}" for n in range(sized(9, 60))]
NAMES = ("alpha", "beta", "gamma")


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator[AccountsBench]:
    with accounts_bench(dsn, tmp_path) as one:
        yield one


def completed(bench: AccountsBench, tasks: list[str]) -> bool:
    """All of them, and none of them used an attempt."""
    return bench.counts(*tasks) == [("completed", 0, 0)] * len(tasks)


@pytest.mark.sized
def test_three_accounts_are_used_evenly(bench: AccountsBench) -> None:
    service = Service(bench, {name: Subscription(step=0.02) for name in NAMES})
    worker = bench.start(service.pool("host", slots=3), bench.settings()).listening()
    for task_id in TASKS:
        bench.task(task_id, max_retries=0)
    bench.until(lambda: completed(bench, TASKS), 300)
    share = service.runs
    assert sum(share.values()) == len(TASKS), share
    assert max(share.values()) - min(share.values()) <= 3, share
    ran = bench.sql("select output_data->>'account', count(*) from agent_tasks group by 1 order by 1")
    assert dict(ran) == share
    assert dict(bench.sql("select account, count(distinct task_id) from agent_usage group by 1")) == share
    trail = "select detail->>'account', count(*) from agent_actions where action_type = 'finished' group by 1"
    assert dict(bench.sql(trail)) == share
    assert worker.metric(bench.dsn, "turbo_running_tasks", executor="claude", account="beta") == 0


def test_limits_move_tasks_on_until_all_rest(bench: AccountsBench) -> None:
    """The first limit, then all of them, then the earliest reset."""
    service = Service(bench, {"alpha": Subscription(used=1.0), "beta": Subscription(), "gamma": Subscription(used=1.0)})
    timings = {"limit_shortest": 1.0}
    worker = bench.start(service.pool("host", slots=1), bench.settings(timings=timings)).listening()
    bench.task("first", max_retries=0)
    bench.until(lambda: completed(bench, ["first"]))
    assert service.runs == {"alpha": 1, "beta": 1, "gamma": 0}
    assert bench.breakers() == {("alpha", "*"): ("paused", "usage_limit")}
    assert bench.trail("first") == ["claimed", "finished", "claimed", "finished"]
    moved = (
        "select max(executed_at) filter (where action_type = 'claimed') - min(executed_at) filter (where action_type = 'finished')"
        " < interval '5 seconds' from agent_actions"
    )
    assert bench.sql(moved) == [(True,)], "at once: a second, and the machine may be slow"

    beta = service.subscriptions["beta"]
    beta.used, beta.rests = 1.0, 6.0
    tasks = ["second", "third"]
    for task_id in tasks:
        bench.task(task_id, max_retries=0)
    bench.until(lambda: len(bench.breakers()) == 3 and set(bench.breakers().values()) == {("paused", "usage_limit")})
    bench.until(lambda: bench.counts(*tasks) == [("pending", 0, 0)] * 2)
    bench.task("other", task_type="noop")
    bench.wait("other")
    runs = service.runs
    assert sum(runs.values()) == 4, "each account was asked once more at most"
    bench.until(lambda: completed(bench, tasks), 90)
    assert service.runs == {**runs, "beta": runs["beta"] + 2}, "all wait for the earliest reset"
    assert worker.metric(bench.dsn, "turbo_account_paused", account="alpha", reason="usage_limit") == 1


def test_dead_login_in_pool_never_sees_a_second_task(bench: AccountsBench) -> None:
    service = Service(bench, {"alpha": Subscription(dead=True), "beta": Subscription(), "gamma": Subscription()})
    bench.start(service.pool("host", slots=1), bench.settings()).listening()
    tasks = [f"t{n}" for n in range(5)]
    for task_id in tasks:
        bench.task(task_id, max_retries=0)
    bench.until(lambda: completed(bench, tasks), 90)
    assert runs_of(bench, "alpha") == 1
    assert bench.breakers() == {("alpha", "host"): ("paused", "auth")}


def test_without_the_breaker_a_dead_login_sees_tasks_again(bench: AccountsBench) -> None:
    service = Service(bench, {"alpha": Subscription(dead=True), "beta": Subscription(used=1.0)})
    bench.start(service.pool("host", slots=1), bench.settings(breaker=False)).listening()
    bench.task("t", max_retries=0)
    bench.until(lambda: runs_of(bench, "alpha") > 1)


def runs_of(bench: AccountsBench, account: str) -> int:
    query = "select count(*) from agent_actions where action_type = 'finished' and detail->>'account' = %s"
    return int(bench.sql(query, account)[0][0])


def ran(bench: AccountsBench, task_id: str, **columns: str) -> str:
    """The account of a task that is run now."""
    bench.task(task_id, None, max_retries=0, **columns)
    bench.until(lambda: completed(bench, [task_id]))
    return str(bench.sql("select output_data->>'account' from agent_tasks where task_id = %s", task_id)[0][0])


def test_conversation_stays_with_its_account_while_it_may(bench: AccountsBench) -> None:
    service = Service(bench, {"alpha": Subscription(used=0.5), "beta": Subscription(used=0.2)})
    beta = service.subscriptions["beta"]
    bench.start(service.pool("host", {"beta": {"leave_at": 0.6}}, slots=1), bench.settings()).listening()
    assert (ran(bench, "warm"), ran(bench, "begin")) == ("alpha", "beta"), "each is tried once"
    beta.used = 0.7
    assert ran(bench, "on", continues="begin") == "beta"
    assert ran(bench, "new") == "alpha", "a new task leaves at 0.6"
    assert ran(bench, "again", continues="on") == "beta", "the conversation does not"
    beta.used = 1.0
    assert ran(bench, "moved", continues="again") == "alpha"
    sessions = dict(bench.sql("select task_id::text, agent_session_id from agent_tasks"))
    assert sessions["moved"] == sessions["begin"], "the session went on with the other account"


def test_refused_conversation_begins_anew_with_a_summary(bench: AccountsBench) -> None:
    service = Service(bench, {"alpha": Subscription(used=0.1), "beta": Subscription(refuses_history=True)})
    bench.start(service.pool("host", slots=1), bench.settings()).listening()
    assert ran(bench, "begin") == "alpha"
    bench.turbo("pause", "--account", "alpha")
    assert ran(bench, "on", continues="begin") == "beta"
    sessions = dict(bench.sql("select task_id::text, agent_session_id from agent_tasks"))
    assert sessions["on"] != sessions["begin"]
    prompt = bench.api.requests[-1].everything
    assert "goes on with a conversation that you cannot see" in prompt
    assert "do begin" in prompt
    assert service.runs == {"alpha": 1, "beta": 2}, "refused once, then begun anew"


def test_lost_env_file_closes_its_account_alone(bench: AccountsBench) -> None:
    service = Service(bench, {"alpha": Subscription(), "beta": Subscription()})
    config = service.pool("host", {"beta": {"last_resort": True}}, slots=1)
    worker = bench.start(config, bench.settings()).listening()
    assert (ran(bench, "one"), ran(bench, "two")) == ("alpha", "alpha"), "the other is a last resort"
    env_file = Path(config["accounts"]["alpha"]["env_file"])
    away = env_file.rename(env_file.with_suffix(".away"))
    assert ran(bench, "three") == "beta"
    assert "account alpha: env_file" in worker.log
    assert bench.breakers() == {}
    env_file.with_suffix(".env").parent.mkdir(exist_ok=True)
    away.rename(env_file)


def test_spent_budget_of_an_account_moves_work_to_another(bench: AccountsBench) -> None:
    """And once those of all of them are spent, it waits."""
    service = Service(bench, {"alpha": Subscription(), "beta": Subscription(used=0.5)})
    bench.sql("insert into agent_budgets (name, account, runs) values ('a', 'alpha', 0)")
    bench.start(service.pool("host", slots=1), bench.settings()).listening()
    assert (ran(bench, "t1"), ran(bench, "t2")) == ("beta", "beta")
    bench.sql("insert into agent_budgets (name, account, runs) values ('b', 'beta', 0)")
    bench.until(lambda: bench.sql("select true from agent_budgets where name = 'b' and paused_until is not null") != [])
    bench.task("waits", max_retries=0)
    bench.task("other", task_type="noop")
    bench.wait("other")
    assert bench.counts("waits") == [("pending", 0, 0)]
    bench.sql("delete from agent_budgets where name = 'a'")
    bench.until(lambda: completed(bench, ["waits"]))
    assert service.runs == {"alpha": 1, "beta": 2}


def test_starts_with_one_account_are_spread_out(bench: AccountsBench) -> None:
    service = Service(bench, {"alpha": Subscription(measured=False), "beta": Subscription(measured=False)})
    rules: dict[str, dict[str, Any]] = {"alpha": {"start_every_seconds": 2.0}, "beta": {"last_resort": True}}
    bench.start(service.pool("host", rules, slots=4), bench.settings()).listening()
    tasks = [f"t{n}" for n in range(4)]
    for task_id in tasks:
        bench.task(task_id, max_retries=0)
    bench.until(lambda: completed(bench, tasks), 90)
    starts = service.subscriptions["alpha"].starts
    assert len(starts) == 4
    assert starts[-1] - starts[0] > 4.0, "three times two seconds, less what the first took longer to start"


def test_used_up_credits_wait_for_a_person(bench: AccountsBench) -> None:
    service = Service(bench, {"alpha": Subscription(credits=0), "beta": Subscription()})
    timings = {"limit_shortest": 0.1, "limit_unknown": 0.1}
    worker = bench.start(service.pool("host", slots=1), bench.settings(timings=timings)).listening()
    assert (ran(bench, "one"), ran(bench, "two")) == ("beta", "beta")
    assert runs_of(bench, "alpha") == 1
    assert bench.breakers() == {("alpha", "*"): ("paused", "credits")}
    assert worker.metric(bench.dsn, "turbo_account_paused", account="alpha", reason="credits") == 1
    assert worker.metric(bench.dsn, "turbo_account_paused", account="alpha", reason="manual") == 0
    assert bench.probes() == 0, "nobody asks whether it has credits again"
    assert "then turbo resume --account alpha" in bench.turbo("status")
    service.subscriptions["alpha"].credits = 1
    bench.turbo("resume", "--account", "alpha")
    bench.until(lambda: worker.metric(bench.dsn, "turbo_account_paused", account="alpha", reason="credits") == 0)
    bench.turbo("pause", "--account", "beta")
    assert ran(bench, "three") == "alpha"


def test_limit_of_a_model_rests_that_model_alone(bench: AccountsBench) -> None:
    """One executor falls back to another model, one has only that model, and one another one."""
    service = Service(bench, {"alpha": Subscription(limited_models=("opus",))})
    config = service.pool("host", slots=1)
    claude = config["executors"]["claude"]
    del claude["accounts"]
    only = {**claude, "account": "alpha"}
    config["executors"] |= {
        "claude": {**only, "model": "opus", "fallback_models": ["sonnet"]},
        "opus": {**only, "model": "opus"},
        "other": {**only, "model": "haiku"},
    }
    config["routes"] |= {"opus": "opus", "other": "other"}
    worker = bench.start(config, bench.settings()).listening()
    assert ran(bench, "falls-back") == "alpha"
    assert bench.breakers() == {("alpha model opus", "*"): ("paused", "usage_limit")}
    bench.task("waits", None, task_type="opus", max_retries=0)
    assert ran(bench, "other", task_type="other") == "alpha"
    assert ran(bench, "again") == "alpha"
    assert bench.counts("waits") == [("pending", 0, 0)]
    models = dict(bench.sql("select task_id::text, output_data->>'model' from agent_tasks where status = 'completed'"))
    assert [next(m for m in ("sonnet", "haiku") if m in models[t]) for t in ("falls-back", "other", "again")] == [
        "sonnet",
        "haiku",
        "sonnet",
    ]
    assert len(service.subscriptions["alpha"].starts) == 4, "the limited model was asked once"
    assert "account alpha, model opus is paused" in bench.turbo("status")
    service.subscriptions["alpha"].limited_models = ()
    bench.turbo("resume", "--account", "alpha model opus")
    bench.until(lambda: completed(bench, ["waits"]))
    assert worker.metric(bench.dsn, "turbo_account_paused", account="alpha model opus", reason="usage_limit") == 0
