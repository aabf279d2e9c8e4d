"""What a budget may be, judged when it is written; and who may write it."""

import psycopg
import pytest

from tests.support.budgets import add, events, fold, row, spent, use


def test_wrong_budgets_are_refused_with_what_to_do(dsn: str) -> None:
    wrong: list[tuple[dict[str, object], str, str]] = [
        ({"usd": -1}, "usd of budget b is -1", "0 or more"),
        ({"usd": "NaN"}, "usd of budget b is NaN", "0 or more"),
        ({"usd": "Infinity"}, "usd of budget b is Infinity", "0 or more"),
        ({"tokens": -1}, "tokens of budget b is -1", "0 or more"),
        ({"runs": -5}, "runs of budget b is -5", "0 or more"),
        ({}, "budget b limits nothing", "usd, tokens or runs"),
        ({"runs": 1, "period": "year"}, "period of budget b is 'year'", "'month'"),
        ({"runs": 1, "timezone": "Berlin"}, "timezone 'Berlin' is unknown", "Europe/Berlin"),
        ({"runs": 1, "timezone": "europe/berlin"}, "timezone 'europe/berlin' is unknown", "capitals"),
        ({"runs": 1, "warn_at": 0}, "warn_at of budget b is 0", "above 0"),
        ({"runs": 1, "warn_at": "NaN"}, "warn_at of budget b is NaN", "above 0"),
        ({"runs": 1, "queue": ""}, "queue of budget b is empty", "Leave it out"),
        ({"runs": 1, "name": " "}, "the name of a budget is empty", "short name"),
        ({"runs": 1, "name": "a\tb"}, "a control character", "short name"),
    ]
    with psycopg.connect(dsn, autocommit=True) as db:
        for columns, message, hint in wrong:
            with pytest.raises(psycopg.errors.CheckViolation) as refused:
                add(db, **columns)  # type: ignore[arg-type]
            assert message in str(refused.value.diag.message_primary)
            assert hint in str(refused.value.diag.message_hint)
        add(db, usd=0)
        with pytest.raises(psycopg.errors.CheckViolation, match="cannot change"):
            db.execute("update agent_budgets set name = 'c'")
        with pytest.raises(psycopg.errors.CheckViolation, match="usd of budget b is -2"):
            db.execute("update agent_budgets set usd = -2")


def test_turbo_s_own_columns_begin_empty(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        add(db, usd=1, spent_usd=9, since="2020-01-01", paused_until="2030-01-01", created_by="eve")
        found = row(db)
        assert found["since"] is None
        assert found["paused_until"] is None
        assert found["created_by"] == db.info.user
        assert spent(db) == (0, 0, 0)


def test_an_older_worker_keeps_a_budget_from_being_written(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(
            "insert into agent_workers (worker_id, name, host, pid, version, slots, queues, schema)"
            " values ('old-1-abc', 'old', 'h', 1, '0', 1, '{default}', 19)"
        )
        for columns in ({}, {"queue": "default"}):
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="worker old-1-abc is older"):
                add(db, runs=1, **columns)
        add(db, "elsewhere", runs=1, queue="other")
        db.execute("update agent_workers set state = 'dead'")
        add(db, runs=1)


def test_zero_closes_and_null_limits_nothing(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        add(db, "nothing", usd=0)
        add(db, "much", usd=100)
        use(db, "t", 50)
        state = fold(db)
        assert {one["name"]: one["closed"] for one in state["budgets"]} == {"much": False, "nothing": True}
        assert events(db) == [("budget_spent", "nothing")]
        fold(db)
        assert len(events(db)) == 1


def test_a_budget_is_warned_of_and_spent_once(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        add(db, usd=10, warn_at=0.5)
        for number, usd in enumerate((4, 1, 1, 4, 1)):
            use(db, f"t{number}", usd)
            fold(db)
        assert events(db) == [("budget_warned", "b"), ("budget_spent", "b")]
        detail = db.execute("select detail from agent_events order by event_id desc limit 1").fetchone()
        assert detail is not None
        assert (detail[0]["usd"], detail[0]["spent_usd"]) == (10, 10)
        db.execute("update agent_budgets set usd = 20")
        state = fold(db)
        assert not state["budgets"][0]["closed"]
        assert spent(db)[0] == 11


def test_a_schedule_that_fails_is_an_event_once(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("insert into agent_schedules (name, cron, task_description) values ('s', '0 3 * * *', 'x')")
        for error in (None, "no", "no", "other"):
            db.execute("update agent_schedules set error = %s, rev = rev + 1", [error])
        assert events(db) == [("schedule_failed", "s")] * 2
