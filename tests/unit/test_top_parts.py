"""The parts of `turbo top` without a screen: rates in spans of time, rows fitted to a width, sparklines."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from turbo.cli.live.columns import fit, line, sparkline
from turbo.cli.live.feed import LiveTask, Rates
from turbo.cli.live.format import account_row
from turbo.cli.output import Column
from turbo.client.fleet_status import AccountLine
from turbo.domain.visible import visible


def rows(now: float, *ended: tuple[int, str, int]) -> list[dict[str, Any]]:
    known = [{"now": now, "bucket": b, "status": s, "tasks": n} for b, s, n in ended]
    return known or [{"now": now, "bucket": None, "status": None, "tasks": None}]


def task(tokens: int, task_id: str = "t") -> LiveTask:
    return LiveTask(task_id, "running", "default", None, "w", 1.0, "", "x", tokens, 0, 0, 3, False)


def test_finished_task_is_counted_once() -> None:
    rates = Rates()
    rates.ended(rows(1000.0, (99, "completed", 3), (98, "failed", 2)), 600)
    rates.ended(rows(1001.0, (100, "completed", 1), (99, "completed", 4)), 20)
    rates.ended(rows(1002.0, (100, "completed", 1), (99, "completed", 4)), 20)
    assert rates.series("completed")[-3:] == [0, 4, 1]
    assert rates.series("failed")[-3:] == [2, 0, 0]
    assert len(rates.series("completed")) == 60
    assert round(rates.per_minute("completed"), 2) == round(5 * 60 / 52, 2)
    rates.ended(rows(2000.0), 20)
    assert set(rates.series("completed")) == {0}, "ten minutes later it is forgotten"


def test_partial_span_does_not_replace_a_whole_one() -> None:
    rates = Rates()
    rates.ended(rows(1009.0, (99, "completed", 10)), 600)
    rates.ended(rows(1012.0, (99, "completed", 2)), 20)  # it sees from 992 on
    assert rates.series("completed")[-3:] == [10, 0, 0]


def test_token_rate_is_the_growth_of_running_tasks() -> None:
    rates = Rates()
    rates.ended(rows(1000.0), 600)
    rates.spent([task(100)])
    assert rates.series("tokens")[-1] == 0, "what was spent before is not of this minute"
    rates.spent([task(150), task(70, "new")])
    rates.spent([task(20), task(75, "new")])  # the first runs again, from nothing
    assert rates.series("tokens")[-1] == 55


@given(
    st.lists(st.lists(st.text(max_size=30), min_size=4, max_size=4), max_size=5),
    st.integers(min_value=12, max_value=120),
)
def test_rows_fit_the_width(cells: list[list[str]], room: int) -> None:
    columns = (
        Column("A", flexible=True, least=10), Column("B", drop=2), Column("C", drop=1, right=True),
        Column("D", drop=3, flexible=True),
    )  # fmt: skip
    widths = fit(columns, cells, room)
    assert 0 in widths
    for row in cells:
        text = line(columns, widths, row)
        assert text.cell_len <= room
        assert visible(text.plain) == text.plain


def test_sparkline_names_its_maximum() -> None:
    assert sparkline([0, 1, 2, 4, 8], 5) == "▁▂▃▅█" or sparkline([0, 1, 2, 4, 8], 5)[-1] == "▇"
    assert sparkline([0, 0], 5) == "▁▁"
    assert sparkline([1, 2, 3], 0) == ""


def test_accounts_with_blanks_in_their_names_stay_apart() -> None:
    names = [("a b", "c"), ("a", "b c")]
    lines = [AccountLine(account, host, "open", None, None, None, None) for account, host in names]
    assert len({account_row(line).key for line in lines}) == 2
