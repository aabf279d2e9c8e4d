"""Transcripts at work: real workers that run the real Claude CLI, and what of it is in `agent_transcripts`."""

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import messages_api, prefork
from tests.support.accounts import GOOD, AccountsBench, accounts_bench
from tests.support.claude import bash, the_cli
from tests.support.prefork import TURBO

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
    assert not [place for secret in secrets for place in everywhere(bench, secret)]
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


def logs(bench: AccountsBench, *arguments: str, out: Path) -> Any:
    """`turbo logs` on another host: with another state directory."""
    with out.open("wb") as file:
        return prefork.popen(
            [TURBO, "logs", *arguments, "--state-dir", bench.path / "elsewhere"],
            env={**os.environ, "TURBO_DSN": bench.dsn},
            stdout=file,
            stderr=file,
        )


def test_words_are_read_on_another_host_at_once(bench: AccountsBench) -> None:
    gate, out = bench.path / "gate", bench.path / "out"
    bench.worker("alpha", allowed_tools=["Bash"])
    bench.api.answer(
        bash(f"while [ ! -e {gate} ]; do sleep 0.05; done; seq 1 20"), messages_api.text("it \x1b[31m counts")
    )
    bench.task("t", "look")
    bench.until(lambda: bench.sql("select true from agent_tasks where status = 'running'") != [])
    reader = logs(bench, "t", "-f", out=out)
    bench.until(lambda: "I will look." in out.read_text())
    seen = time.time()
    (said,) = [r for r in rows(bench, "t") if r["type"] == "assistant" and "I will look." in json.dumps(r)]
    ((late,),) = bench.sql("select extract(epoch from %s::timestamptz)::float", said["timestamp"])
    assert seen - late < 8, "2 s where the machine is idle and the reader was there first"
    gate.touch()
    bench.until(lambda: "counts" in out.read_text())
    assert reader.wait(30) == 0
    text = out.read_text()
    assert "> look" in text
    assert "* Bash  while" in text
    assert "  | 3\n  | … 17 more lines" in text
    assert "it \\x1b[31m counts" in text
    assert "-- success, 2 turns, $" in text
    assert "t is completed" in text


def test_raw_transcript_is_what_is_stored(bench: AccountsBench) -> None:
    out = bench.path / "out"
    bench.worker("alpha")
    bench.task("t", "look")
    bench.wait("t")
    bench.until(lambda: complete(bench, "t"))
    assert logs(bench, "t", "--raw", out=out).wait(30) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines() if line.startswith("{")]
    assert [one for one in lines if one in rows(bench, "t")] == rows(bench, "t")
    assert lines[-1] == {"type": "turbo_end", "complete": True}


def test_follower_opens_the_gate_while_it_follows(bench: AccountsBench) -> None:
    """Notifications are sent to whoever follows, and to nobody else."""
    holds = (
        "select count(*) from pg_locks l join pg_database d on d.oid = l.database and d.datname = current_database()"
        " where l.locktype = 'advisory' and l.classid = 1953854050"
    )
    bench.worker("alpha")
    bench.task("t", "look", queue="nobodys")
    assert bench.sql(holds) == [(0,)]
    reader = logs(bench, "t", "-f", out=bench.path / "out")
    bench.until(lambda: bench.sql(holds) == [(1,)])
    reader.send_signal(signal.SIGINT)
    reader.wait(30)
    bench.until(lambda: bench.sql(holds) == [(0,)])


def test_redacted_session_is_resumed_elsewhere(bench: AccountsBench) -> None:
    """By the CLI itself, in another home and directory, from what the table has."""
    bench.worker("alpha", allowed_tools=["Bash"], login={"ANTHROPIC_API_KEY": GOOD, "DEPLOY": PLANTED})
    bench.api.answer(bash(f"echo $DEPLOY {PLANTED}"), messages_api.text(f"it is {PLANTED}"))
    bench.task("t", "look")
    bench.wait("t")
    bench.until(lambda: complete(bench, "t"))
    found = bench.sql("select path, lines from agent_transcripts where kind = 'session' order by batch")
    home = bench.path / "elsewhere"
    home.mkdir()
    (path,) = {path for path, _ in found}
    (home / path).write_text("".join(lines for _, lines in found))
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "TMPDIR": str(home),
        "ANTHROPIC_BASE_URL": bench.api.url,
        "ANTHROPIC_API_KEY": GOOD,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    before = len(bench.api.requests)
    done = subprocess.run(
        [the_cli(), "-p", "--resume", str(home / path), "--model", "sonnet", "--output-format", "json"],
        input=b"and now?",
        env=env,
        cwd=home,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout)["session_id"] == path.removesuffix(".jsonl")
    asked = bench.api.requests[before].everything
    assert "it is [redacted]" in asked
    assert "and now?" in asked
    assert PLANTED not in asked
