"""What is stored of a run has no secrets: known values in every form, tokens by their shape, patterns of an operator's."""

import base64
import json
import time
import urllib.parse
from collections.abc import Iterable
from typing import Any

import pytest

from turbo.domain import redaction
from turbo.domain.redact_patterns import MOST_PATTERNS, PatternRefused, bounded_pattern, bounded_patterns
from turbo.domain.redaction import LEFT_OUT, MARK, Redactor, Said, ascii_json, dumped

SECRET = 'pass"word\\with/all-ü'
PLAIN = "correct-horse-battery"
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----"

TOKENS = [
    "sk-ant-api03-abcdefghij",
    "sk-proj-abcdefghijklmnop1234",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "github_pat_11ABCDEFG0abcdefghij",
    "glpat-abcdefghij0123456789",
    "AKIAIOSFODNN7EXAMPLE",
    "xoxb-123456789012-abcdefghij",
    "AIza" + "a" * 35,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN",
    KEY,
    KEY[:40],
]


def redactor(*secrets: str, patterns: tuple[str, ...] = ()) -> Redactor:
    return Redactor(frozenset(secrets), bounded_patterns(patterns))


@pytest.mark.parametrize(
    "encoded",
    [
        SECRET,
        json.dumps({"a": SECRET}),
        json.dumps({"a": SECRET}, ensure_ascii=False),
        json.dumps(json.dumps({"a": SECRET}, ensure_ascii=False), ensure_ascii=False),
        json.dumps(SECRET).replace("/", "\\/"),
        urllib.parse.quote(SECRET),
        urllib.parse.quote_plus(SECRET),
        SECRET.encode().hex(),
        *(base64.b64encode(b"x" * before + SECRET.encode()).decode() for before in range(4)),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
    ],
)
def test_known_value_is_found_in_every_form(encoded: str) -> None:
    assert MARK in redactor(SECRET).text(f"before {encoded} after")
    assert redactor("something-else").text(encoded) == encoded


@pytest.mark.parametrize("token", TOKENS)
def test_token_is_known_by_its_shape(token: str) -> None:
    assert redactor().text(f"a {token}") == f"a {MARK}"


@pytest.mark.parametrize("text", ["task-12345678 risk-free", "a skeleton", "https://example.org/a@b", "eyJ", "AKIA"])
def test_ordinary_words_stay(text: str) -> None:
    assert redactor("short", "").text(text) == text


def test_passwords_of_urls_and_bearers_go() -> None:
    assert redactor().text("postgresql://bob:hunter2@db/x") == f"postgresql://bob:{MARK}@db/x"
    assert redactor().text("Authorization: Bearer abcdefghijklmnop1") == f"Authorization: Bearer {MARK}"


def row(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"type": "assistant", "uuid": "1", "message": {"role": "assistant", "content": list(blocks)}}


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def test_row_without_secrets_is_the_same_object() -> None:
    whole = row(text_block("hello"), {"type": "tool_use", "input": {"n": [1, None, True, 1.5]}})
    assert redactor(PLAIN).row(whole, Said()) is whole


def test_secret_across_pieces_and_rows_is_not_whole() -> None:
    one, said = redactor(PLAIN), Said()
    first = one.row(row(text_block("a correct-"), text_block("horse-battery b")), said)
    assert first == row(text_block(f"a {MARK}"), text_block(f"{MARK} b"))
    one.row(row(text_block("it ends with correct-ho")), said)
    assert one.row(row(text_block("rse-battery.")), said) == row(text_block(f"{MARK}."))
    assert one.row(row(text_block("rse-battery.")), said) == row(text_block("rse-battery."))


def test_signed_thinking_is_dropped_whole() -> None:
    thought = {"type": "thinking", "thinking": f"it is {PLAIN}", "signature": "c2lnbmVk"}
    harmless = {"type": "thinking", "thinking": "hm", "signature": "c2lnbmVk"}
    assert redactor(PLAIN).row(row(thought, harmless, text_block("ok")), Said()) == row(harmless, text_block("ok"))
    assert redactor(PLAIN).row(row(thought), Said()) == row(text_block(LEFT_OUT))
    halves = row({**harmless, "thinking": "correct-horse"}, text_block("-battery"))
    assert redactor(PLAIN).row(halves, Said()) == row(text_block(MARK))


def test_structure_survives_a_secret_that_is_a_word_of_it() -> None:
    assert redactor("assistant").row(row(text_block("my assistant")), Said()) == row(text_block(f"my {MARK}"))


def test_key_over_several_lines_of_output_goes() -> None:
    said, one = Said(), redactor()
    lines = [one.event(line.encode(), said) for line in f"a\n{KEY}\nb".splitlines()]
    assert lines == ["a", *[MARK] * 4, "b"]


def test_value_of_several_lines_goes_line_by_line() -> None:
    said, one = Said(), redactor("first-line-of-it\nsecond-line-of-it")
    assert [one.event(line, said) for line in (b"x first-line-of-it", b"second-line-of-it")] == [f"x {MARK}", MARK]


def test_row_nested_too_deep_raises_and_value_is_marked() -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecursionError):
        redactor(PLAIN).row({"message": deep}, Said())
    assert redactor(PLAIN).value(deep) == MARK
    while isinstance(deep, list):  # freeing it level by level: a deep tuple of lists would overflow otherwise
        deep = deep[0]


def test_dumped_rows_can_always_be_stored() -> None:
    for odd in ("\0", "\ud800", "\u2028", "ü", "\x7f"):
        line = dumped({"a": odd})
        line.encode()
        assert "\0" not in line
        assert json.loads(line) == {"a": odd}
    assert json.loads(ascii_json(dumped({"a": "ü😀"}))) == {"a": "ü😀"}


def test_pattern_is_taken_out_of_long_texts() -> None:
    one = redactor(patterns=(r"(?:acme|corp)-[A-Za-z0-9]{20,64}",))
    token = "acme-" + "a1" * 20
    for before in (0, 8190, 8192, 16_400):
        assert one.text("-" * before + token + "-") == "-" * before + MARK + "-"


def test_costly_text_takes_bounded_time() -> None:
    one = redactor(patterns=(r"[a-z]{1,40}[a-z]{1,40}X",))
    begun = time.monotonic()
    one.text("a" * 20_000)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "is not a regular expression"),
        ("acme-.*", "any number of them: write {1,200} in place of +"),
        ("a+", "any number of them"),
        ("(?:a{1,30}){1,30}", "more than 2000 ways"),
        ("[a-z]{1,60}[a-z]{1,60}X", "more than 2000 ways"),
        (r"(a{1,3})\1", "more than 2000 ways"),
        ("x{0,5}", "takes an empty text"),
        ("a" * 501, "more than 500"),
    ],
)
def test_pattern_that_could_take_hours_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(PatternRefused) as refused:
        bounded_pattern(pattern)
    assert why in str(refused.value)


def test_too_many_patterns_are_refused() -> None:
    with pytest.raises(PatternRefused, match="more than 100"):
        bounded_patterns(["abc"] * (MOST_PATTERNS + 1))


def test_secret_in_many_pieces_costs_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[int] = []
    real = redaction._cut_out

    def counted(text: str, spans: Iterable[tuple[int, int]]) -> str:
        found = list(spans)
        cut.append(len(found))
        return real(text, found)

    monkeypatch.setattr(redaction, "_cut_out", counted)
    pieces = [{"type": "text", "text": half} for _ in range(500) for half in (PLAIN[:9], PLAIN[9:])]
    said = Said()
    cleaned = redactor(PLAIN, PLAIN[4:18]).row({"message": {"content": pieces}}, said)
    assert PLAIN[4:18] not in "".join(piece["text"] for piece in cleaned["message"]["content"])  # type: ignore[index]
    assert sum(cut) <= 2 * len(pieces), "each piece is compared with what lies across it, not with all"


def test_pieces_around_and_within_a_secret_are_cut() -> None:
    texts = ["a ", PLAIN[:2], PLAIN[2:4], "", PLAIN[4:] + PLAIN[:3], PLAIN[3:] + " z"]
    row = {"message": {"content": [{"type": "text", "text": text} for text in texts]}}
    cleaned = redactor(PLAIN).row(row, Said())
    assert [piece["text"] for piece in cleaned["message"]["content"]] == [  # type: ignore[index]
        "a ", MARK, MARK, "", MARK + MARK, MARK + " z",
    ]  # fmt: skip


def test_web_token_is_found_once_in_a_run_of_letters() -> None:
    token = TOKENS[8]
    assert redactor().text(f"x.{token} (id_{token})") == f"x.{MARK} (id_{MARK})"
    assert redactor().text(f"eyJ{token}!") == f"{MARK}!"
    begun = time.process_time()
    redactor().text("eyJ" * 300_000 + ".eyJ")
    assert time.process_time() - begun < 1, "a second in all, not for each of its beginnings"
