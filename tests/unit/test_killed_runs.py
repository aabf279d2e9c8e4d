"""What is kept of a run whose worker was killed, and what is read of its log."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from turbo.domain.outcome import MOST_TOKENS, MOST_USD, ModelUsage
from turbo.domain.task import NO_TASK
from turbo.domain.usage import MeteredRun, Prices, usage_rows
from turbo.executors.claude.log_usage import used_in
from turbo.host.state_dir import StateDir, WorkerHome
from turbo.process.journal import Entry, Journal, new_cookie
from turbo.process.reaper import end_leftovers
from turbo.worker.killed_runs import KilledRuns

TASK = replace(NO_TASK, task_id="t", task_type="review", fencing_token=7, retry_count=1)
RUN = MeteredRun("t", 7, 2, "default", "review", "claude", "max", "2-7.log", 0)


def answer(name: str, tokens: int) -> str:
    usage = {"input_tokens": tokens, "output_tokens": 1}
    return json.dumps({"type": "assistant", "message": {"id": name, "model": "m", "usage": usage}}) + "\n"


def entry(run: MeteredRun | None) -> Entry:
    return Entry(new_cookie(), 0, 0, "another boot", "/bin/claude", "t", metered=run)


class Ledger:
    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, int, int]] = []

    async def record_usage(self, used: object) -> None:
        self.rows += [(r.task_id, r.account, r.model, r.attempt, r.input_tokens) for r in used]  # type: ignore[attr-defined]


@pytest.fixture
def home(tmp_path: Path) -> WorkerHome:
    return StateDir(tmp_path / "state").open_worker("alpha-1-abcdef")


def test_reaper_keeps_what_is_to_be_counted_and_no_more(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(entry(None))
    journal.add(entry(RUN))
    assert journal.uncounted() == [], "it may still run"
    assert end_leftovers(tmp_path, 0) == []
    assert (journal.entries(), journal.uncounted()) == ([], [RUN])
    assert end_leftovers(tmp_path, 0) == [], "a second reaper"
    assert journal.uncounted() == [RUN]


@pytest.mark.parametrize("damage", [{"begin": -1}, {"attempt": "2"}, {"log": None}])
def test_damaged_note_does_not_keep_an_entry_from_its_reaper(tmp_path: Path, damage: dict[str, object]) -> None:
    journal = Journal(tmp_path)
    journal.add(entry(RUN))
    (path,) = tmp_path.iterdir()
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "metered": {**fields["metered"], **damage}}))
    (found,) = journal.entries()
    assert (found.boot, found.metered) == ("another boot", None)
    end_leftovers(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


def test_only_a_task_with_names_of_usual_length_is_noted() -> None:
    assert MeteredRun.of(TASK, "claude", "max", "2-7.log", 0) == RUN
    assert MeteredRun.of(NO_TASK, "claude", "max", "2-7.log", 0) is None
    assert MeteredRun.of(replace(TASK, task_type="x" * 10_000), "claude", "max", "2-7.log", 0) is None
    assert usage_rows(RUN, "claude", "max", [ModelUsage("m", 1)]) == usage_rows(
        TASK, "claude", "max", [ModelUsage("m", 1)]
    )


def test_log_counts_from_where_the_program_began(tmp_path: Path) -> None:
    log = tmp_path / "2-7.log"
    before = answer("earlier turn", 1000)
    after = answer("a", 10) + "[stderr] " + answer("b", 500) + "no JSON\n" + answer("c", 20) + answer("torn", 77)[:-5]
    log.write_text(before + after)
    assert used_in(log, len(before)) == (ModelUsage("m", 30, 2),)
    assert used_in(log, 10**9) == ()


async def test_logs_of_the_run_are_counted_and_no_others(home: WorkerHome) -> None:
    own = home.log_path("t", 2, 7)
    own.parent.mkdir(parents=True)
    own.write_text(answer("a", 10))
    own.with_name("2-7.check1.log").write_text(answer("a", 20))
    own.with_name("2-78.log").write_text(answer("a", 3000))
    own.with_name("2-7.log.link").symlink_to(own)
    journal, ledger = Journal(home.journal), Ledger()
    reviewer = replace(RUN, executor="reviewer", account="api", log="2-7.check1.log")
    foreign = [
        replace(RUN, log=log) for log in ("2-78.log", "../t/2-7.log", "/etc/passwd", "2-7.log.link", "2-7.log-gone")
    ]
    for run in (RUN, reviewer, *foreign):
        journal.add(entry(run))
    end_leftovers(home.journal, 0)
    await KilledRuns(ledger, Prices()).count(home)  # type: ignore[arg-type]
    assert sorted(ledger.rows) == [("t", "api", "m", 2, 20), ("t", "max", "m", 2, 10)]


def test_row_of_the_ledger_holds_what_it_can():
    """Sums of what an agent claims may be too large for it; the database would refuse the result with it."""
    much = ModelUsage("m", 10**12, 10**12, 10**12, 10**12, 1e300)
    (row,) = usage_rows(RUN, "claude", "max", [much, much])
    assert (row.input_tokens, row.output_tokens, row.cache_read_tokens, row.cache_write_tokens) == (MOST_TOKENS,) * 4
    assert row.cost_usd == MOST_USD
