"""docs/how-to/graphs.md and conversations.md, followed literally."""

from pathlib import Path

from tests.support.pages import follow_page
from tests.support.workers import Bench


def settled(bench: Bench) -> bool:
    """Nothing runs, and nothing that waits for others could be let go."""
    return bench.sql(
        "select not public.turbo_unsettled() and not exists (select from agent_tasks where status in ('pending', 'running'))"
    ) == [(True,)]


def test_page_on_graphs_works_as_written(bench: Bench, tmp_path: Path) -> None:
    ran = follow_page("graphs.md", bench, tmp_path / "reader", leave_out=["claude"], rests=lambda: settled(bench))
    assert ran > 12
    found = dict(bench.sql("select task_id::text, status::text from agent_tasks"))
    assert {found[name] for name in ("review", "review_2", "review_3", "review_4", "tell_4")} == {"completed"}
    assert {found[name] for name in ("plan_5", "part_5", "other_5")} == {"cancelled"}


def test_page_on_conversations_works_as_written(bench: Bench, tmp_path: Path) -> None:
    ran = follow_page(
        "conversations.md", bench, tmp_path / "reader", leave_out=["claude"], rests=lambda: settled(bench)
    )
    assert ran > 9
    assert not bench.sql("select task_id from agent_tasks where status <> 'completed'")
