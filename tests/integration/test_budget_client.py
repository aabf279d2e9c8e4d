"""Budgets through the clients and the command line."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.integration.test_python_client import KINDS, Blocking
from tests.support.budgets import fold, use
from tests.support.shell import Shell
from turbo import BadField, BudgetRefused, Client, UnknownBudget
from turbo.client.budget import MayNotBudget


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, dsn: str) -> Iterator[Any]:
    one = Client(dsn) if request.param == "sync" else Blocking(dsn)
    yield one
    one.close()


def test_a_budget_is_set_listed_changed_and_removed(dsn: str, client: Any) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        made = client.budgets.set("daily", usd=50, account="alpha", timezone="Europe/Berlin", runs=10)
        assert (made.state, made.usd, made.runs, made.period, made.warn_at) == ("new", 50, 10, "day", 0.8)
        use(db, "t1", 45, account="alpha", token=1)
        fold(db)
        near = client.budgets.get("daily")
        assert (near.state, near.spent_usd, near.spent_runs, near.used) == ("near", 45, 1, 0.9)
        assert near.ends is not None
        assert timedelta(0) < near.ends - near.now <= timedelta(hours=25)
        client.budgets.set("daily", usd=10)
        fold(db)
        (changed,) = client.budgets.list()
        assert (changed.state, changed.account, changed.runs, changed.timezone) == ("spent", None, None, "UTC")
        assert client.budgets.names("da") == ["daily"]
        client.budgets.remove("daily")
        for name in ("daily", "\0"):
            with pytest.raises(UnknownBudget):
                client.budgets.remove(name)
            with pytest.raises(UnknownBudget):
                client.budgets.get(name)
        for columns in ({}, {"usd": -1}, {"usd": float("nan")}, {"runs": 2**63}, {"runs": 1, "period": "year"}):
            with pytest.raises(BadField):
                client.budgets.set("x", **columns)
        with pytest.raises(BudgetRefused, match=r"timezone 'Berlin' is unknown\. Write a name"):
            client.budgets.set("x", runs=1, timezone="Berlin")


def test_a_role_that_may_not_is_told_who_may(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("create role nobody_of_budgets login")
        try:
            host = db.info
            other = f"host={host.host} port={host.port} dbname={host.dbname} user=nobody_of_budgets"
            with Client(other) as client:
                with pytest.raises(MayNotBudget, match="turbo_admin may"):
                    client.budgets.set("b", runs=1)
                with pytest.raises(MayNotBudget, match="turbo_reader may"):
                    client.budgets.list()
        finally:
            db.execute("drop role nobody_of_budgets")


def test_turbo_budget_on_the_command_line(dsn: str, shell: Shell) -> None:
    assert "no budgets" in shell("budget", "list").err
    done = shell("budget", "set", "daily", "--usd", "50", "--per", "day", "--account", "alpha-max")
    assert (done.code, done.out) == (0, "daily: 50.00 USD per day, account alpha-max\n")
    scope = ("--queue", "night", "--type", "x", "--submitter", "eve")
    done = shell("budget", "set", "night", "--runs", "0", "--tokens", "5", *scope)
    assert done.out == "night: 5 tokens, 0 runs per day, queue night, type x, submitter eve\n"
    assert "no live worker serves queue night" in done.err
    with psycopg.connect(dsn, autocommit=True) as db:
        use(db, "t1", 60, account="alpha-max")
        fold(db)
    listed = shell("budget", "list").out
    assert "60.00 of 50.00 USD" in listed
    assert "120%" in listed
    found = shell("budget", "list", "--json").json
    assert [(one["name"], one["state"]) for one in found] == [("daily", "spent"), ("night", "spent")]
    for words, said in (
        (("--usd", "-1"), "usd: is -1.0: write 0 or more"),
        (("--runs", "1", "--timezone", "x"), "timezone 'x' is unknown"),
        ((), "a budget limits at least one of them"),
        (("--runs", "1", "--per", "year"), "write hour, day"),
    ):
        done = shell("budget", "set", "daily", *words)
        assert (done.code, done.out) == (2, "")
        assert said in done.err
    done = shell("budget", "remove", "daily", "gone")
    assert (done.code, done.out) == (1, "daily: removed\n")
    assert "no such budget" in done.err
