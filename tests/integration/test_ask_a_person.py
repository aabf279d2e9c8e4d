"""docs/how-to/ask-a-person.md, followed literally."""

from pathlib import Path

from tests.support.pages import follow_page
from tests.support.workers import Bench


def test_page_works_as_written(bench: Bench, tmp_path: Path) -> None:
    assert follow_page("ask-a-person.md", bench, tmp_path / "reader", leave_out=("claude", "roles")) > 12
    found = dict(
        bench.sql(
            "select task_id::text, rtrim(output_data ->> 'output', E'\\n') from agent_tasks where status = 'completed'"
        )
    )
    assert found == {"release_7": "deployed now", "release_8": "deployed tonight", "release_9": "deployed tonight"}
    assert bench.row("rename")["status"] == "waiting", "released, it asks"
