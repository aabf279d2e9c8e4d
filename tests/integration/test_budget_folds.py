"""The fold: each row of usage is added once, whoever folds, whatever a person holds, whatever the clocks do."""

import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.support.budgets import add, events, fold, row, spent, use

DAY = timedelta(days=1)


def test_what_is_used_is_added_once_by_scope(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        for name, scope in {
            "all": {},
            "account": {"account": "alpha"},
            "queue": {"queue": "night"},
            "type": {"task_type": "review"},
            "ann": {"submitted_by": "ann"},
            "both": {"submitted_by": "ann", "queue": "night"},
        }.items():
            add(db, name, usd=100, **scope)
        use(db, "t1", 1, input_tokens=1, output_tokens=2, cache_read_tokens=1000, cache_write_tokens=4)
        use(db, "t1", 2, account="alpha", model="m2", input_tokens=1)  # the same run, another model
        use(db, "t2", 4, queue="night", submitted_by="bob", task_type="review")
        use(db, "t3", None, queue="night", submitted_by=None)
        for _ in range(2):
            fold(db)
            assert {name: spent(db, name) for name in ("all", "account", "queue", "type", "ann", "both")} == {
                "all": (7, 8, 3),
                "account": (2, 1, 1),
                "queue": (4, 0, 2),
                "type": (4, 0, 1),
                "ann": (3, 8, 1),
                "both": (0, 0, 0),
            }
        db.execute("update agent_budgets set usd = 101")
        fold(db)
        assert spent(db, "all") == (7, 8, 3), "counted anew, from the same rows"


def test_two_folds_at_once_add_a_row_once(dsn: str) -> None:
    with psycopg.connect(dsn) as one, psycopg.connect(dsn, autocommit=True) as two:
        add(one, usd=100)
        one.commit()
        use(two, "t1", 1)
        fold(one)
        use(two, "t2", 2)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            fold(two)
        one.commit()
        fold(two)
        assert spent(two) == (3, 0, 2)


def test_a_fold_that_is_lost_is_done_again(dsn: str) -> None:
    with psycopg.connect(dsn) as one, psycopg.connect(dsn, autocommit=True) as two:
        add(two, usd=100)
        use(two, "t1", 1)
        fold(one)
        one.rollback()
        fold(two)
        assert spent(two)[0] == 1


def test_a_budget_that_comes_during_a_fold_misses_nothing(dsn: str) -> None:
    with psycopg.connect(dsn) as one, psycopg.connect(dsn, autocommit=True) as two:
        add(two, "first", usd=100)
        use(two, "t1", 1)
        fold(one)  # not committed
        add(two, "second", usd=100)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            fold(two)
        one.commit()
        state = fold(two)
        assert spent(two, "second")[0] == 1
        assert not any(budget["behind"] for budget in state["budgets"])


def test_a_budget_not_committed_during_a_fold_misses_nothing(dsn: str) -> None:
    with psycopg.connect(dsn) as person, psycopg.connect(dsn, autocommit=True) as two:
        add(two, "first", usd=100)
        add(person, "second", usd=100)
        use(two, "t1", 1)
        fold(two)
        person.commit()
        use(two, "t2", 2)
        fold(two)
        assert spent(two, "first") == spent(two, "second") == (3, 0, 2)


def test_a_locked_budget_holds_up_only_what_it_covers(dsn: str) -> None:
    with psycopg.connect(dsn) as person, psycopg.connect(dsn, autocommit=True) as db:
        add(db, "night", usd=2, queue="night")
        add(db, "day", usd=2, queue="day")
        add(db, "all", usd=100)
        fold(db)
        person.execute("select from agent_budgets where name = 'night' for update")
        use(db, "t1", 2, queue="night")  # a result: it waits for nobody
        use(db, "t2", 2, queue="day")
        state = {one["name"]: one for one in fold(db)["budgets"]}
        assert [name for name, one in state.items() if one["behind"]] == ["all", "night"]
        assert state["day"]["closed"]
        person.rollback()
        state = {one["name"]: one for one in fold(db)["budgets"]}
        assert not any(one["behind"] for one in state.values())
        assert state["night"]["closed"]
        assert spent(db, "all")[0] == 4


def test_an_edit_while_spent_opens_it(dsn: str) -> None:
    with psycopg.connect(dsn) as person, psycopg.connect(dsn, autocommit=True) as db:
        add(db, usd=1)
        use(db, "t1", 1)
        assert fold(db)["budgets"][0]["closed"]
        person.execute("update agent_budgets set usd = 5")
        use(db, "t2", 1)
        assert fold(db)["budgets"][0]["closed"], "the edit is not committed"
        person.commit()
        state = fold(db)["budgets"][0]
        assert not state["closed"]
        assert state["usd_left"] == 3


def test_a_batch_takes_runs_whole_and_says_that_more_is_left(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(
            "insert into agent_usage (task_id, fencing_token, executor, model, attempt, queue, task_type, cost_usd)"
            " select 't' || n, 1, 'x', m, 1, 'default', 'default', 1 from generate_series(1, 1500) n,"
            " unnest('{a,b}'::text[]) m order by n, m"
        )
        add(db, usd=1e6)
        state = fold(db)
        assert state["more"]
        assert state["budgets"][0]["behind"]
        while state["more"]:
            state = fold(db)
        assert spent(db) == (3000, 0, 1500)
        assert not state["budgets"][0]["behind"]


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("period", "zone", "at", "since", "ends"),
    [
        ("hour", "UTC", utc(2026, 3, 1, 5, 59, 59), utc(2026, 3, 1, 5), utc(2026, 3, 1, 6)),
        ("hour", "Europe/Berlin", utc(2026, 10, 25, 0, 30), utc(2026, 10, 25, 0), utc(2026, 10, 25, 1)),
        ("hour", "Europe/Berlin", utc(2026, 10, 25, 1, 30), utc(2026, 10, 25, 1), utc(2026, 10, 25, 2)),
        ("day", "Europe/Berlin", utc(2026, 3, 29, 12), utc(2026, 3, 28, 23), utc(2026, 3, 29, 22)),
        ("day", "Europe/Berlin", utc(2026, 10, 25, 12), utc(2026, 10, 24, 22), utc(2026, 10, 25, 23)),
        ("week", "Europe/Berlin", utc(2026, 3, 29, 12), utc(2026, 3, 22, 23), utc(2026, 3, 29, 22)),
        ("month", "America/New_York", utc(2026, 3, 31, 23), utc(2026, 3, 1, 5), utc(2026, 4, 1, 4)),
        # Midnight comes twice, and the second one counts.
        ("day", "America/Havana", utc(2026, 11, 1, 4, 30), utc(2026, 10, 31, 4), utc(2026, 11, 1, 5)),
        ("day", "America/Havana", utc(2026, 11, 1, 5, 30), utc(2026, 11, 1, 5), utc(2026, 11, 2, 5)),
        # It does not come: the day begins at one.
        ("day", "America/Havana", utc(2026, 3, 8, 12), utc(2026, 3, 8, 5), utc(2026, 3, 9, 4)),
        ("total", "UTC", utc(2026, 3, 1), utc(1970, 1, 1), utc(9000, 1, 1)),
    ],
)
def test_a_period_keeps_to_its_zone_s_clocks(
    dsn: str, period: str, zone: str, at: datetime, since: datetime, ends: datetime
) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        add(db, usd=0, period=period, timezone=zone)
        state = fold(db, at)["budgets"][0]
        found = row(db)
        assert (found["since"], found["paused_until"]) == (since, ends)
        assert state["in"] == (None if period == "total" else (ends - at).total_seconds())
        if period != "total":
            assert fold(db, ends - timedelta(microseconds=1))["budgets"][0]["in"] <= 1e-6
            fold(db, ends)
            assert row(db)["since"] == ends, "periods have no gap"


def test_the_end_of_a_period_opens_a_spent_budget(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        add(db, usd=5, timezone="Europe/Berlin")
        noon, midnight = utc(2026, 3, 29, 10), utc(2026, 3, 29, 22)
        use(db, "t1", 6, at=noon)
        assert fold(db, noon)["budgets"][0]["closed"]
        use(db, "late", 2, at=midnight - timedelta(seconds=1))  # folded after the end: it belongs to the day before
        use(db, "next", 1, at=midnight)
        assert not fold(db, midnight)["budgets"][0]["closed"]
        assert spent(db)[0] == 1


def test_a_clock_set_back_counts_that_day_again(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        add(db, usd=5)
        first, second = utc(2026, 3, 1, 12), utc(2026, 3, 2, 12)
        use(db, "t1", 5, at=first)
        use(db, "t2", 1, at=second)
        fold(db, second)
        assert spent(db)[0] == 1
        assert fold(db, first)["budgets"][0]["closed"]
        assert spent(db)[0] == 6
        fold(db, second)
        assert spent(db)[0] == 1


def test_rows_from_before_wait_for_a_longer_budget(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        add(db, "day", usd=5)
        now = utc(2026, 3, 2, 12)
        use(db, "old", 3, at=now - 40 * DAY)
        state = fold(db, now)
        assert not state["fold"]
        add(db, "total", usd=2, period="total")
        state = fold(db, now)
        assert spent(db, "total")[0] == 3
        assert spent(db, "day")[0] == 0
        assert ("budget_spent", "total") in events(db)


def test_folds_of_many_writers_add_up(dsn: str) -> None:
    """Writers and folders at once, a person who edits, and the sums are those of the ledger."""
    stop = threading.Event()

    def folder() -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            while not stop.is_set():
                try:
                    fold(own)
                except psycopg.errors.LockNotAvailable:
                    continue

    with psycopg.connect(dsn, autocommit=True) as db, psycopg.connect(dsn) as person:
        add(db, "a", usd=1e6)
        folders = [threading.Thread(target=folder) for _ in range(2)]
        for thread in folders:
            thread.start()
        try:
            for number in range(60):
                use(db, f"t{number}", 1, token=number)
                if number % 10 == 5:
                    person.execute("update agent_budgets set usd = usd + 1 where name = 'a'")
                if number % 10 == 9:
                    person.commit()
                if number == 30:
                    add(db, "b", runs=10**6)
        finally:
            stop.set()
            for thread in folders:
                thread.join()
        fold(db)
        assert spent(db, "a") == spent(db, "b") == (60, 0, 60)
