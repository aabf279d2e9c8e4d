"""What `turbo status`, `doctor` and the metrics say of budgets."""

from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.test_asking_metrics import gauges
from tests.integration.test_blocked_status import problems, worker
from tests.support.budgets import add, fold, use
from tests.support.configs import config_of
from tests.support.shell import Shell
from turbo.doctor.budgets import never_spent


@pytest.fixture
def live(shell: Shell) -> Shell:
    worker(shell, 99)
    return shell


def test_spent_and_nearly_spent_budgets_are_problems(live: Shell, db: psycopg.Connection) -> None:
    assert "there are no budgets" in live("doctor").out
    add(db, "fine", usd=100)
    add(db, "near", usd=10, runs=100)
    add(db, "over", usd=9, account="alpha", timezone="Europe/Berlin")
    add(db, "gone", runs=1, period="total", submitted_by="ann")
    use(db, "t1", 9, account="alpha")
    fold(db)
    found = "\n".join(problems(live))
    assert "budget near is nearly spent: 9.00 of 10.00 USD, 1 of 100 runs" in found
    assert "budget over is spent (9.00 of 9.00 USD): tasks of account alpha wait until 2" in found
    assert "00:00 CE" in found
    assert "budget gone is spent (1 of 1 runs): tasks of submitter ann wait for good" in found
    assert "fine" not in found
    assert "budget gone is spent" in live("doctor").out
    db.execute("delete from agent_budgets where name <> 'fine'")
    assert not problems(live)
    assert "1 budget" in live("doctor").out


def test_budgets_that_nobody_keeps_are_problems(live: Shell, db: psycopg.Connection) -> None:
    add(db, "lone", usd=1)
    assert not problems(live)
    db.execute("update agent_budgets set updated_at = now() - interval '2 minutes'")
    assert "budget lone is not counted" in "\n".join(problems(live))
    worker(live, 19)
    assert "budget lone does not hold: worker " in "\n".join(problems(live))


def test_gauges_tell_of_budgets(dsn: str, db: psycopg.Connection) -> None:
    add(db, "half", usd=10, runs=100)
    add(db, "over", usd=5)
    add(db, "zero", runs=0, tokens=5)
    use(db, "t1", 5)
    fold(db)
    page = gauges(dsn)
    found = {
        name: (page[f'turbo_budget_used_ratio{{budget="{name}"}}'], page[f'turbo_budget_spent{{budget="{name}"}}'])
        for name in ("half", "over", "zero")
    }
    assert found == {"half": (0.5, 0), "over": (1, 1), "zero": (1, 1)}


def test_dollars_over_executors_without_costs_are_told(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        accounts={"alpha": {}, "beta": {}},
        executors={
            "sh": {"kind": "command", "command": ["true"], "account": "beta"},
            "claude": {"kind": "claude", "account": "alpha"},
        },
        routes={"default": "claude", "probe": "sh"},
    )

    def never(**scope: object) -> bool:
        return never_spent({"only_usd": True, "account": None, "queue": None, "task_type": None} | scope, config)

    assert never(task_type="probe")
    assert never(account="beta")
    assert not never(task_type="probe", only_usd=False)
    assert not never(task_type="review")
    assert not never(account="alpha")
    assert not never(task_type="probe", queue="elsewhere")
    assert not never()


@pytest.mark.parametrize(
    ("section", "prices", "spent"),
    [
        ({}, {}, False),
        ({}, {"gpt-5.5": {"input": 1, "output": 1}}, True),
        ({"model": "gpt-5.5"}, {"gpt-5.5": {"input": 1, "output": 1}}, True),
        ({"model": "gpt-5.5"}, {"other": {"input": 1, "output": 1}}, False),
    ],
)
def test_codex_has_a_cost_where_its_model_has_a_price(
    tmp_path: Path, section: dict[str, Any], prices: dict[str, Any], *, spent: bool
) -> None:
    executors = {"codex": {"kind": "codex", **section}}
    config = config_of(tmp_path, executors=executors, routes={"default": "codex"}, prices=prices)
    budget = {"only_usd": True, "account": None, "queue": None, "task_type": "any"}
    assert never_spent(budget, config) is not spent
