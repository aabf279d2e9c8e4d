"""What a Codex agent says and does, stored without secrets, and shown by `turbo logs`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import workers
from tests.support.codex import CODEX_KEY, CodexBench, a_codex_bench
from tests.support.prefork import TURBO
from tests.support.responses_api import shell, text
from tests.support.waiting import until

(SECRET,) = CODEX_KEY.values()


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodexBench]:
    with a_codex_bench(tmp_path_factory) as agent:
        yield agent


def test_conversation_is_stored_without_secrets_and_shown(dsn: str, tmp_path: Path, agent: CodexBench) -> None:
    with workers.bench(dsn, tmp_path) as bench:
        agent.api.answer(shell(f"echo {SECRET}; false"), text(f"all done, and {SECRET}"))
        bench.start(agent.config(bench, poll_seconds=0.5)).listening()
        bench.sql("insert into agent_tasks (task_id, task_description) values ('t', 'count the sheep')")
        bench.wait("t", seconds=90)
        end = "select 1 from agent_transcripts where lines like '%%turbo_end%%'"
        until(lambda: bench.sql(end) == [(1,)], 20, what="the end of the transcript")
        stored = "".join(lines for (lines,) in bench.sql("select lines from agent_transcripts order by batch"))
        assert SECRET not in stored
        kinds = [
            row.get("type") for row in map(json.loads, stored.splitlines()) if not row["type"].startswith("turbo_")
        ]
        assert kinds[:3] == ["turbo.prompt", "thread.started", "turn.started"]
        assert kinds[-1] == "turn.completed"
        assert bench.sql(
            "select distinct session_id is not null from agent_transcripts where lines like '%%turn.completed%%'"
        ) == [(True,)]

        shown = subprocess.run(
            [sys.executable, str(TURBO), "logs", "t", "--dsn", dsn], check=True, capture_output=True, text=True
        ).stdout
        assert "count the sheep" in shown
        assert "* shell  " in shown
        assert "all done, and" in shown
        assert "-- turn completed" in shown
        assert "thread.started" not in shown
