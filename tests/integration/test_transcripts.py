"""Transcripts at work: real workers that run the real Claude CLI, and what of it is in `agent_transcripts`."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import messages_api
from tests.support.accounts import GOOD, AccountsBench, accounts_bench
from tests.support.claude import bash

PLANTED = "plantedsecret-4f1c99"
GITHUB = "ghp_" + "a1B2" * 9


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator[AccountsBench]:
    with accounts_bench(dsn, tmp_path) as one:
        yield one


def rows(bench: AccountsBench, task_id: str, kind: str = "session") -> list[dict[str, Any]]:
    found = bench.sql(
        "select lines from agent_transcripts where task_id = %s and kind = %s order by fencing_token, batch",
        task_id,
        kind,
    )
    return [json.loads(line) for (lines,) in found for line in lines.splitlines()]


def complete(bench: AccountsBench, task_id: str) -> bool:
    return bool(rows(bench, task_id, "event")) and rows(bench, task_id, "event")[-1] == {
        "type": "turbo_end",
        "complete": True,
    }


def everywhere(bench: AccountsBench, text: str) -> list[str]:
    """Columns of all tables that hold a text."""
    columns = bench.sql(
        "select table_name::text, column_name::text from information_schema.columns where table_schema = 'public'"
    )
    return [
        f"{table}.{column}"
        for table, column in columns
        if bench.sql(f"select exists (select from {table} where strpos({column}::text, %s) > 0)", text) == [(True,)]
    ]


def session_file(bench: AccountsBench, host: str) -> list[dict[str, Any]]:
    (path,) = (bench.path / host).glob(".claude/projects/*/*.jsonl")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in found if not str(row["type"]).startswith("api-request")]


def test_transcript_is_what_the_session_file_has(bench: AccountsBench) -> None:
    bench.worker("alpha", allowed_tools=["Bash"])
    bench.api.answer(bash("echo hi; echo ü"), messages_api.text("it says hi"))
    bench.task("t", "look")
    bench.wait("t")
    bench.until(lambda: complete(bench, "t"))
    stored = rows(bench, "t")
    wanted = session_file(bench, "alpha")
    assert sorted(json.dumps(row, sort_keys=True) for row in stored) == sorted(
        json.dumps(row, sort_keys=True) for row in wanted
    )
    assert [r["uuid"] for r in stored if "uuid" in r] == [r["uuid"] for r in wanted if "uuid" in r]
    assert [row["type"] for row in rows(bench, "t", "event")] == ["turbo_begin", "system", "result", "turbo_end"]
    digests: dict[str, Any] = {}
    query = "select path, lines, sha256, session_id from agent_transcripts where task_id = 't' order by batch"
    for path, lines, sha256, session in bench.sql(query):
        digest = digests.setdefault(path, hashlib.sha256())
        digest.update(lines.encode())
        assert digest.digest() == bytes(sha256)
        assert path in ("", "turbo") or path == f"{session}.jsonl"
    assert '"transcript_mirror"' not in Path(bench.row("t")["output_data"]["log"]).read_text()


def test_planted_secrets_are_nowhere(bench: AccountsBench) -> None:
    """From the account's env file, the worker's environment, and by shape; whole, encoded, and in two pieces."""
    bench.worker("alpha", allowed_tools=["Bash"], login={"ANTHROPIC_API_KEY": GOOD, "DEPLOY": PLANTED})
    bench.api.answer(
        bash(f"echo $DEPLOY; echo $DEPLOY | base64; printf '%s' '{GITHUB}' | cut -c1-40"),
        messages_api.text(f'I saw {PLANTED[:10]} and "{GITHUB}"'),
    )
    bench.task("t", "look")
    bench.wait("t")
    bench.until(lambda: complete(bench, "t"))
    text = json.dumps(rows(bench, "t"))
    assert "[redacted]" in text
    secrets = {PLANTED, GOOD, "cGxhbnRlZHNlY3JldC00ZjFjOT", GITHUB}
    assert {place for secret in secrets for place in everywhere(bench, secret)} <= {"agent_tasks.output_data"}
    assert everywhere(bench, "I saw "), "the search finds what is there"


def test_killed_worker_leaves_what_was_said(bench: AccountsBench) -> None:
    worker = bench.worker("alpha", allowed_tools=["Bash"])
    bench.api.answer(bash("sleep 300"))
    bench.task("t", "look")
    bench.until(lambda: any(row["type"] == "assistant" for row in rows(bench, "t")))
    worker.kill()
    worker.process.wait(30)
    assert any(row["type"] == "assistant" for row in rows(bench, "t"))
    assert not complete(bench, "t"), "nobody could say that it was complete"


def test_executor_without_transcripts_stores_none(bench: AccountsBench) -> None:
    bench.worker("alpha", transcripts=False)
    bench.task("t", "look")
    bench.wait("t")
    assert bench.sql("select * from agent_transcripts") == []
