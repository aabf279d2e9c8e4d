"""What a task's page makes of transcripts, diffs and names of files, without a server."""

from datetime import UTC, datetime
from urllib.parse import unquote

import pytest

from turbo.client.transcript import TranscriptLine
from turbo.client.transcript_page import ShownBatch
from turbo.web.diff_html import diff_part
from turbo.web.task_page import attachment
from turbo.web.transcript_html import CALL_CHARACTERS, WHOLE_CHARACTERS, ShownEntry, place_of, shown_batch


def shown(text: str, kind: str = "event", *, cut: bool = False, size: int = 10) -> list[ShownEntry]:
    line = TranscriptLine(7, 1, datetime.now(UTC), None, kind, "s.jsonl", text)
    return list(shown_batch(ShownBatch((7, 1), None, (line,), size, cut)).entries)


def said(block: str) -> str:
    return '{"type": "user", "message": {"content": [' + block + "]}}"


def test_short_result_is_shown_whole_and_a_long_one_folded():
    (short,) = shown(said('{"type": "tool_result", "content": "one\\ntwo"}'))
    assert (short.kind, short.text, short.summary) == ("result", "one\ntwo", None)
    (long,) = shown(said('{"type": "tool_result", "content": "' + "line\\n" * 40 + '"}'))
    assert long.summary is not None
    assert long.summary.count("\n") == 5
    assert long.text.count("\n") == 39


def test_what_is_too_long_is_cut_and_says_by_how_much():
    (result,) = shown(said('{"type": "tool_result", "content": "' + "x" * 30_000 + '"}'))
    assert (len(result.text), result.cut) == (WHOLE_CHARACTERS, 30_000 - WHOLE_CHARACTERS)
    (call,) = shown(
        '{"type": "assistant", "message": {"content": [{"type": "tool_use", "name": "Bash", "input": {"command": "'
        + "y" * 3000
        + '"}}]}}'
    )
    assert (call.name, call.cut) == ("Bash", 3000 - CALL_CHARACTERS)


def test_line_that_was_read_in_part_shows_its_beginning():
    (raw,) = shown("z" * 1000, cut=True, size=10_000_000)
    assert (raw.kind, len(raw.text), raw.cut) == ("raw", 600, 10_000_000 - 600)


@pytest.mark.parametrize("text", ["not json", "[1]", '{"type": "new_kind"}'])
def test_line_that_is_not_known_is_shown_as_it_is(text: str):
    assert [(one.kind, one.text) for one in shown(text)] == [("raw", text)]


@pytest.mark.parametrize("name", ["", "7", "7-", "-7", "7-x", "1-2-3", "9" * 40 + "-1", "٣-١"])
def test_place_that_is_none_is_refused(name: str):
    with pytest.raises(ValueError, match="two numbers"):
        place_of(name)
    assert place_of("7-12") == (7, 12)


def test_lines_of_a_diff_have_their_kinds():
    text = b"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n same\n--- gone\n+++ come\n\\ No newline"
    part = diff_part(text, 100)
    assert [kind for kind, _ in part.lines] == ["file", "file", "file", "hunk", "same", "minus", "plus", "same"]
    assert diff_part(text, 3).left == 5


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("index.html", "index.html"),
        ('ev"il\r\nX: y.html', "evilX: y.html"),
        ("..", "file"),
        ("bericht ü.html", "bericht ü.html"),
        ("\u202egnp.exe", "gnp.exe"),
    ],
)
def test_file_is_saved_under_a_harmless_name(path: str, name: str):
    answer = attachment(b"x", path)
    disposition = answer.headers["content-disposition"]
    assert disposition.startswith("attachment; ")
    assert unquote(disposition.partition("filename*=UTF-8''")[2]) == name
    assert answer.media_type == "application/octet-stream"
