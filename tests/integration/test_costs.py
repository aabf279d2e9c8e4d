"""`turbo costs` and Client.costs: sums of the ledger by type, account, queue, model, submitter and day."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.support.logins import login
from tests.support.shell import Shell
from turbo import AsyncClient, Client, CostLine, UnknownTimezone
from turbo.cli.costs import bar, dollars
from turbo.migrate import grant_roles

NOW = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
HOSTILE = "evil\x1b[2J\nmodel"

RUNS = [
    # task, token, executor, account, model, task_type, queue, who, days ago, in, out, read, write, cost
    ("a", 1, "claude", "max", "sonnet", "review", "default", "ana", 1, 10, 20, 30, 40, 1.5),
    ("a", 1, "claude", "max", "haiku", "review", "default", "ana", 1, 1, 2, 3, 4, 0.25),
    ("a", 1, "reviewer", "api", "sonnet", "review", "default", "ana", 1, 100, 100, 0, 0, 2.0),
    ("a", 2, "claude", "max", "sonnet", "review", "default", "ana", 3, 10, 20, 30, 40, 0.75),
    ("b", 3, "codex", "", "gpt", "build", "ci", None, 3, 1000, 2000, 0, 0, None),
    ("c", 4, "claude", "max", "sonnet", "build", "ci", "bo", 40, 7, 7, 7, 7, 64.0),
]
COLUMNS = (
    "task_id, fencing_token, executor, account, model, task_type, queue, submitted_by, at, input_tokens, output_tokens,"
    " cache_read_tokens, cache_write_tokens, cost_usd, attempt"
)


@pytest.fixture
def used(db: psycopg.Connection) -> None:
    insert = f"insert into agent_usage ({COLUMNS}) values ({', '.join(['%s'] * 14)}, 1)".encode()
    for run in RUNS:
        db.execute(insert, (*run[:8], NOW - timedelta(days=run[8]), *run[9:]))


@pytest.mark.usefixtures("used")
def test_sums_count_a_run_once_for_each_executor(dsn: str) -> None:
    week = NOW - timedelta(days=7)
    with Client(dsn) as client:
        found = client.costs("account", week)
        assert found.lines == (
            CostLine("max", 2, 21, 42, 63, 84, 2.5),
            CostLine("api", 1, 100, 100, 0, 0, 2.0),
            CostLine("", 1, 1000, 2000, 0, 0, None, unpriced=1),
        )
        assert found.total == CostLine("", 4, 1121, 2142, 63, 84, 4.5, unpriced=1)
        assert (found.cut, found.count) == (False, 3)
        for by, names in {
            "type": ["review", "build"],
            "queue": ["default", "ci"],
            "model": ["sonnet", "haiku", "gpt"],
            "submitter": ["ana", ""],
        }.items():
            found = client.costs(by, week)
            assert [line.name for line in found.lines] == names
            assert found.total.runs == 4, "a run of two models is one"
        ever = client.costs("type", lines=1)
        assert ever.lines == (CostLine("build", 2, 1007, 2007, 7, 7, 64.0, unpriced=1),)
        assert (ever.cut, ever.count) == (True, 2)
        assert ever.total.cost_usd == 68.5
        with pytest.raises(ValueError, match="colour"):
            client.costs("colour")


@pytest.mark.parametrize(
    ("tokens", "cost"),
    [(2**63 - 1, "1"), (-1, "1"), (1, "1e400"), (1, "Infinity"), (1, "-0.01"), (1, "NaN")],
)
def test_row_that_no_run_can_have_is_refused(shell: Shell, tokens: int, cost: str) -> None:
    """A worker's role may insert rows: none of them ends everybody's sums, or makes others' runs cheaper."""
    grant_roles(shell.dsn)
    with login(shell.dsn, "turbo_worker") as worker, psycopg.connect(worker, autocommit=True) as liar:
        insert = (
            "insert into agent_usage (task_id, fencing_token, executor, account, attempt, queue, task_type, {}, cost_usd)"
            " values ('x', 101, 'e', 'liar', 1, 'q', 't', %s, %s::numeric)"
        )
        for column in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"):
            with pytest.raises(psycopg.errors.CheckViolation):
                liar.execute(insert.format(column).encode(), [tokens, cost])
        liar.execute(insert.format("input_tokens").encode(), [10**12, "1e6"])
    with Client(shell.dsn) as client:
        lines = {line.name: line for line in client.costs("account", NOW - timedelta(days=7)).lines}
    assert lines["liar"] == CostLine("liar", 1, 10**12, 0, 0, 0, 1e6)


@pytest.mark.usefixtures("used")
async def test_days_are_those_of_a_time_zone(dsn: str) -> None:
    async with AsyncClient(dsn) as client:
        days = [(NOW - timedelta(days=days)).date() for days in (40, 3, 1)]
        found = await client.costs("day")
        assert [line.name for line in found.lines] == [str(day) for day in days]
        tokyo = await client.costs("day", timezone="Pacific/Kiritimati")  # 14 hours ahead: noon is another day there
        assert [line.name for line in tokyo.lines] == [str(day + timedelta(days=1)) for day in days]
        with pytest.raises(UnknownTimezone, match="Mars"):
            await client.costs("day", timezone="Mars/Olympus")
        latest = await client.costs("day", lines=2)
        assert [line.name for line in latest.lines] == [str(day) for day in days[1:]]


@pytest.mark.usefixtures("used")
def test_costs_prints_a_table_and_a_plot(shell: Shell, db: psycopg.Connection) -> None:
    done = shell("costs", "--by", "account")
    assert (done.code, done.lines) == (
        0,
        [
            "ACCOUNT  RUNS  INPUT  OUTPUT  CACHE READ  CACHE WRITE   USD",
            "max         2     21      42          63           84  2.50",
            "api         1    100     100                           2.00",
            "(none)      1   1.0k    2.0k                              ?",
            "total       4   1.1k    2.1k          63           84  4.50",
        ],
    )
    assert "the cost of 1 run is not known" in done.err
    by_day = shell("costs")
    assert [line.split()[0] for line in by_day.lines] == [
        "DAY",
        *(str((NOW - timedelta(days=days)).date()) for days in (3, 2, 1)),
        "total",
    ], "also the day between, on which nothing ran"
    seen = shell.terminal("costs", "--by", "account", columns=120).ended()
    bars = {line.split()[0]: line.count("█") for line in seen.text.splitlines() if "█" in line}
    assert bars["max"] == 24
    assert 15 < bars["api"] < 24
    assert shell("costs", "--by", "type", "--since", "60d", "--json").json["lines"][0] == {
        "name": "build",
        "runs": 2,
        "input_tokens": 1007,
        "output_tokens": 2007,
        "cache_read_tokens": 7,
        "cache_write_tokens": 7,
        "cost_usd": 64.0,
        "unpriced": 1,
    }
    db.execute("update agent_usage set model = %s where model = 'gpt'", [HOSTILE])
    assert "\x1b[2J" not in shell.terminal("costs", "--by", "model").ended().out
    assert len(shell("costs", "--by", "model").lines) == 5


@pytest.mark.usefixtures("used")
def test_since_and_limit_of_costs_mean_whole_days(shell: Shell, db: psycopg.Connection) -> None:
    """The runs were at noon in UTC: a date in Kiritimati, 14 hours ahead, begins and ends ten hours earlier."""
    day = (NOW - timedelta(days=3)).date()

    def runs(*options: str) -> int:
        found = shell("costs", "--json", *options).json
        return int(found["total"]["runs"])

    assert runs("--since", f"{day}") == 4
    assert runs("--since", f"{day}T13:00", "--by", "model") == 2, "a time without a zone, in UTC"
    assert runs("--since", f"{day}", "--timezone", "Pacific/Kiritimati") == 4
    assert runs("--since", f"{day + timedelta(days=1)}", "--timezone", "Pacific/Kiritimati", "--by", "model") == 4
    assert runs("--since", f"{day + timedelta(days=1)}", "--by", "model") == 2
    db.execute("update agent_usage set at = date_trunc('day', now(), 'UTC') - interval '7 days' where task_id = 'c'")
    assert runs() == runs("--since", "1 week", "--by", "type") == 5, "the first day is whole"
    assert runs("--since", "168h") == runs("--since", "6d") == 4
    shown = shell("costs", "--by", "model", "--limit", "1", "--since", "60d")
    assert "showing 1 of 3 lines; the total is of all of them" in shown.err
    assert "showing the latest 1 of 3 lines" in shell("costs", "--limit", "1").err


def test_wrong_and_empty_costs_are_one_clear_line(shell: Shell, dsn: str) -> None:
    shell("costs", "--by", "colour").one_line(2, "write type, account, queue, model, day, submitter")
    shell("costs", "--since", "yore").one_line(2, "--since 'yore' is not a time")
    for by in ("day", "model"):
        shell("costs", "--by", by, "--timezone", "Mars/Olympus").one_line(2, "'Mars/Olympus' is not a time zone: write")
    nothing = shell("costs")
    assert (nothing.code, nothing.out) == (0, "")
    assert "no run has used anything since" in nothing.err
    assert shell("costs", "--json").json["total"]["runs"] == 0


@pytest.mark.usefixtures("used")
def test_readers_see_costs_and_submitters_do_not(shell: Shell, dsn: str) -> None:
    grant_roles(dsn)
    with login(dsn, "turbo_reader") as reader, login(dsn, "turbo_submitter") as submitter:
        assert len(shell("costs", "--by", "account", "--dsn", reader).lines) == 5
        shell("costs", "--dsn", submitter).one_line(1, "turbo_reader may")


def test_bars_show_the_least_and_the_most() -> None:
    assert [bar(height, 100.0, 4) for height in (0, 0.01, 12.5, 50, 90, 100)] == ["", "▌", "▌", "██", "███▌", "████"]
    assert [dollars(cost) for cost in (None, 0.0, 0.00421, 12.345, 1e6)] == [
        "?",
        "0.00",
        "0.0042",
        "12.35",
        "1000000.00",
    ]
