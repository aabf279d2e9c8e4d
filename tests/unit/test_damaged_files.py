"""Files on the host's disk with any content: each is set aside or ignored, and nobody who reads one ends by it."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from turbo.domain.result import RunResult
from turbo.domain.usage import UsageRow
from turbo.host.spool import QUESTION_ON_DISK, USAGE_ON_DISK, Spool
from turbo.process.journal import Entry, Journal
from turbo.workspaces.names import home_of
from turbo.workspaces.record import FILE, Policy, Record, Stage, WrongRecord, load

ODD = [
    "Infinity",
    "-Infinity",
    "NaN",
    "1e999",
    "9" * 5000,
    "-1",
    "true",
    '"x"',
    "null",
    "[]",
    "{}",
    "[" * 3000 + "]" * 3000,
]
WHOLE = [
    "",
    "[]",
    "7",
    '"x"',
    "[" * 100_000,
    "{",
    "\x00",
    '{"a": ' * 3000,
    "9" * 5000,
    '{"format": "x"}',
    '{"result": 7}',
]


def spooled(fields: str) -> str:
    return json.dumps({"format": 1, "sha256": hashlib.sha256(fields.encode()).hexdigest(), "result": fields})


def with_field(fields: dict[str, Any], name: str, value: str) -> str:
    marked = json.dumps(fields | {name: "@@"})
    return marked.replace('"@@"', value)


RESULT = asdict(RunResult("t", 7, "succeeded", worker_id="w"))
ASKED = RESULT | {"outcome": "asked"}
QUESTION = {"question": {"kind": "question", "text": "Which?"}, "within": 60.0}
USED = UsageRow("t", 7, "claude", "max", "sonnet", 1, "default", "review", 10, 20, 30, 40, 0.5)
ENTRY = asdict(Entry("c", 5, 7, "b"))


def record_in(home: Path) -> dict[str, Any]:
    git_dir = "/r/.git/worktrees/r"
    return asdict(
        Record("t", "e", "h", "/r", "HEAD", "b" * 40, "br", str(home / "r"), git_dir, Stage.READY, Policy(), 1.0, 2.0)
    )


def test_spool_sets_every_odd_file_aside(tmp_path: Path) -> None:
    texts = [*WHOLE, *(spooled(text) for text in WHOLE)]
    texts += [spooled(with_field(RESULT, name, value)) for name in RESULT for value in ODD]
    texts += [spooled(with_field(ASKED, "detail", f'{{"{QUESTION_ON_DISK}": {value}}}')) for value in ODD]
    for name in ("question", "within"):
        odd = [f'{{"{QUESTION_ON_DISK}": {with_field(QUESTION, name, value)}}}' for value in ODD]
        texts += [spooled(with_field(ASKED, "detail", value)) for value in odd]
    texts += [spooled(with_field(RESULT, "detail", f'{{"{USAGE_ON_DISK}": {value}}}')) for value in ODD]
    for name in asdict(USED):
        odd = [f'{{"{USAGE_ON_DISK}": [{with_field(asdict(USED), name, value)}]}}' for value in ODD]
        texts += [spooled(with_field(RESULT, "detail", value)) for value in odd]
    for number, text in enumerate(texts):
        (tmp_path / f"{number:05}.json").write_text(text)
    spool = Spool(tmp_path)
    good = spool.put(RunResult("t", 7, "succeeded", worker_id="w", usage=(USED,)))
    found = spool.pending()
    assert [entry.result.usage for entry in found if entry.path == good.path] == [(USED,)]
    for entry in found:
        result = entry.result
        assert 0 <= result.execution_ms < 2**63
        assert 0.0 <= result.retry_delay_seconds <= 1e9
        assert result.answer_within is None or 0.0 <= result.answer_within <= 1e9
        assert (result.outcome == "asked") == isinstance(result.question, dict)
        assert -(2**63) <= result.fencing_token < 2**63
        assert isinstance(result.task_id, str)
        for row in result.usage:
            assert (row.task_id, row.fencing_token) == (result.task_id, result.fencing_token)
            assert all(
                isinstance(text, str) for text in (row.executor, row.account, row.model, row.queue, row.task_type)
            )
            assert 0 <= row.attempt < 2**31
            tokens = (row.input_tokens, row.output_tokens, row.cache_read_tokens, row.cache_write_tokens)
            assert all(0 <= count <= 10**15 for count in tokens)
            assert row.cost_usd is None or 0 <= row.cost_usd <= 1e12
        json.dumps(asdict(result), allow_nan=False)


def test_journal_yields_the_cookie_of_every_odd_file(tmp_path: Path) -> None:
    texts = [*WHOLE, *(with_field(ENTRY, name, value) for name in ENTRY for value in ODD)]
    for number, text in enumerate(texts):
        (tmp_path / f"{number:05}.json").write_text(text)
    entries = Journal(tmp_path).entries()
    assert [entry.cookie for entry in entries] == [f"{number:05}" for number in range(len(texts))]
    assert all(0 <= entry.pid < 2**31 and entry.start >= 0 for entry in entries)


@pytest.mark.parametrize("name", ["created_at", "used_at", "policy", "stage"])
def test_record_with_an_odd_field_is_wrong(tmp_path: Path, name: str) -> None:
    home = home_of(tmp_path, Path("/r"), "t")
    home.mkdir(parents=True)
    record = record_in(home)
    (home / FILE).write_text(json.dumps(record))
    assert load(home) is not None
    for value in (*(with_field(record, name, odd) for odd in ODD), *WHOLE):
        (home / FILE).write_text(value)
        if name == "policy" and "{}" in value:
            assert load(home) is not None, "all of it has defaults"
        else:
            with pytest.raises(WrongRecord):
                load(home)
