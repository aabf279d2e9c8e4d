"""output_schema: which files are refused, and which answers fit, whatever either of them holds."""

import asyncio
import json
import os
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.support.configs import config_of
from tests.support.schemas import VERDICT, fit_of, schema_file
from tests.support.waiting import until_async
from turbo.cli.main import _build
from turbo.config.loader import ConfigError
from turbo.config.worker import load_worker_config
from turbo.domain.run import StopSignal
from turbo.domain.states import StopCause
from turbo.executors.registry import build_executors
from turbo.executors.schemas.answer_schema import FILE_BYTES, SchemaRefused, read_schema
from turbo.executors.schemas.fit import ComparisonStopped, Fit, Judged
from turbo.process.journal import Journal

BACKTRACKS = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
FOREVER = json.dumps({"a": "a" * 60 + "b"})


async def judged(fit: Fit, answer: str) -> Judged:
    return await fit.text(answer, StopSignal(), "t")


# ── the file ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("", "is not JSON"),
        ("{nope", "is not JSON"),
        ('{"minimum": NaN}', "NaN is not JSON"),
        ("[1]", "must be an object"),
        ("true", "must be an object"),
        ({"type": "nonsense"}, r"\$.type: 'nonsense'"),
        ({"properties": {"a": {"type": 7}}}, r"\$.properties.a.type"),
        ({"$schema": "http://example.org/mine"}, "known: https://json-schema.org/draft/2020-12/schema"),
        ({"$ref": "https://example.org/remote.json"}, "another file, and nothing is fetched"),
        ({"properties": {"a": {"$ref": "other.json#/a"}}}, "another file, and nothing is fetched"),
        ({"$ref": "file:///etc/passwd"}, "another file, and nothing is fetched"),
        ({"$ref": "#/$defs/none"}, "leads to nothing in the file"),
        ({"$ref": "#"}, "refers to itself without end"),
        ({"properties": {"a": {"pattern": "("}}}, "pattern"),
        ({"type": "object", "patternProperties": {"[": {}}}, "regular expression '\\['|is not a 'regex'"),
        ({"description": "x" * 10_000_000}, f"larger than {FILE_BYTES} bytes"),
        ("[" * 10_000, "nested deeper"),
        ({"enum": list(range(30_000))}, "30002 values; at most 20000"),
        ({"const": "a\0b"}, "NUL"),
    ],
)
def test_file_that_is_no_schema_is_refused(tmp_path: Path, schema: object, why: str) -> None:
    path = schema_file(tmp_path, schema)
    with pytest.raises(SchemaRefused, match=why) as raised:
        read_schema(path)
    assert str(raised.value).startswith(f"output_schema {path}: ")
    assert len(str(raised.value)) < 2000


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaRefused, match="No such file"):
        read_schema(tmp_path / "none.json")
    with pytest.raises(SchemaRefused, match=r"Is a directory|not a regular file"):
        read_schema(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SchemaRefused, match="not a regular file"):
        read_schema(tmp_path / "fifo")
    (tmp_path / "latin").write_bytes(b'{"title": "\xe9"}')
    with pytest.raises(SchemaRefused, match="UTF-8"):
        read_schema(tmp_path / "latin")


async def test_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbf" + json.dumps(BACKTRACKS).encode())
    fit = Fit(read_schema(tmp_path / "marked"), Journal(tmp_path / "journal"))
    long = json.dumps({"a": "a", "b": ["x"] * 30_000})
    assert (await judged(fit, f"\ufeff{long}")).why is None, "in a process of its own, too"
    assert "does not match" in str((await judged(fit, long.replace('"a"', '"c"', 2).replace('"c":', '"a":', 1))).why)


def test_names_of_properties_are_no_keywords(tmp_path: Path) -> None:
    names = {name: {"type": "string"} for name in ("pattern", "$ref", "enum", "uniqueItems", "$id")}
    schema = read_schema(
        schema_file(tmp_path, {"properties": names, "examples": [{"pattern": "("}], "const": {"$ref": "x"}})
    )
    assert not schema.costly


@pytest.mark.parametrize("draft", ["draft-04/schema#", "draft-06/schema#", "draft-07/schema#", "draft-07/schema"])
async def test_draft_decides_what_a_keyword_means(tmp_path: Path, draft: str) -> None:
    older = {"$schema": f"http://json-schema.org/{draft}", "maximum": 3, "exclusiveMaximum": True}
    if "04" in draft:
        fit = fit_of(tmp_path, older)
        assert (await judged(fit, "3")).why
        assert (await judged(fit, "2")).why is None
    else:
        with pytest.raises(SchemaRefused, match="exclusiveMaximum"):
            fit_of(tmp_path, older)


def test_config_check_names_the_executor_and_the_file(tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    executors = {
        "x": {"kind": "command", "command": ["true"], "output_schema": "schemas/none.json"},
        "y": {"kind": "python", "handler": "turbo.testing:noop", "output_schema": "good.json"},
    }
    file.write_text(yaml.safe_dump({"executors": executors, "routes": {"default": "x"}}))
    (tmp_path / "good.json").write_text(json.dumps(VERDICT))
    config = load_worker_config(file)
    assert config.executors["y"].output_schema == str(tmp_path / "good.json"), "relative to the file"
    said = CliRunner().invoke(_build(["config"]), ["config", "check", str(file)])
    where = tmp_path / "schemas" / "none.json"
    assert (
        str(said.exception) == f"{file}: executors.x: output_schema {where}: cannot be read: No such file or directory"
    )
    with pytest.raises(ConfigError, match=r"executors.x: output_schema .* cannot be read: No such file"):
        build_executors(config, Journal(tmp_path / "journal"))  # a worker does not start either
    (tmp_path / "schemas").mkdir()
    where.write_text("{}")
    assert CliRunner().invoke(_build(["config"]), ["config", "check", str(file)]).exit_code == 0
    plain = config_of(tmp_path, executors={"x": {"kind": "command", "command": ["true"]}}, routes={})
    assert plain.executors["x"].output_schema is None


# ── an answer ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "it is empty"),
        ("all is well", "is not JSON .* it begins: 'all is well'"),
        ('```json\n{"pass": true, "why": ""}\n```', "is not JSON"),
        ('{"pass": true, "why": NaN}', "NaN is not JSON"),
        ('{"pass": true, "why": 1e999}', "Infinity"),
        ('{"pass": true}', '"why" is a required property'),
        ('{"pass": "yes", "why": ""}', r'\$.pass: "yes" is not of type "boolean"'),
        ('{"pass": true, "why": "", "more": 1}', '"more" was unexpected'),
        ("null", r'\$: null is not of type "object"'),
        ('[true, null, "it\'s", "a \\"b\\" \'c\'"]', r"""\[true, null, "it's", "a \\\"b\\\" 'c'"\] is not of type"""),
        ('{"pass": true, "pass": false, "why": ""}', 'has an object with the key "pass" twice'),
        ('{"pass": true, "why": [{"a": 1, "b": {"é": 1, "é": 1}}]}', 'the key "é" twice'),
        ('"' + "x" * 5_000_000 + '"', "5,000,002 bytes long; at most 1,048,576"),
        ("[" * 10_000, "nested deeper than 100 levels"),
        ("[" * 10_000 + "]" * 10_000, "nested deeper than 100 levels"),
        ("[" + "[]," * 300_000 + "1]", "values; at most 500,000"),
        ('{"pass": true, "why": "a\\u0000b"}', "NUL"),
        ('{"pass": true, "why": "\\ud800"}', "surrogates"),
        ("9" * 6_000, "the answer has a number of too many digits; at most 4,300"),
        (json.dumps({"pass": "x" * 900_000, "why": 7}), 'is not of type "boolean"'),
    ],
)
async def test_answer_that_does_not_fit_is_told_why(tmp_path: Path, answer: str, why: str) -> None:
    found = await judged(fit_of(tmp_path, VERDICT), answer)
    assert found.why is not None
    assert re.search(why, found.why), found.why
    assert len(found.why) < 2500
    assert not list(tmp_path.glob("journal/*")), "no process was needed"


async def test_answer_that_fits_is_its_value(tmp_path: Path) -> None:
    fit = fit_of(tmp_path, VERDICT)
    assert await judged(fit, ' {"pass": true, "why": "é"}\n') == Judged({"pass": True, "why": "é"})
    assert await fit.value({"pass": True, "why": "é"}, StopSignal(), "t") == Judged({"pass": True, "why": "é"})
    assert await judged(fit, '\ufeff{"pass": true, "why": "é"}') == Judged({"pass": True, "why": "é"}), "PowerShell's"
    rows = fit_of(tmp_path, {"type": "array", "items": {"type": "array"}})
    assert (await rows.value([(1, 2)], StopSignal(), "t")).value == [[1, 2]], "as it will be stored"
    assert (await rows.value([{1, 2}], StopSignal(), "t")).why == (
        "the answer is not JSON (Object of type set is not JSON serializable)"
    )
    assert "not JSON" in str((await rows.value([float("nan")], StopSignal(), "t")).why)


async def test_numbers_that_break_the_comparison_do_not_fit(tmp_path: Path) -> None:
    found = await judged(fit_of(tmp_path, {"multipleOf": 0.1}), "1" + "0" * 400)
    assert "it cannot be compared: a number in it is too large" in str(found.why)


@pytest.mark.parametrize(
    ("pattern", "fits", "fails"),
    [
        ("^[a-z]+$", ["abc"], ["abc\n", "abc\nd", "abc1"]),
        ("^a$|b", ["a", "cbc"], ["a\n"]),
        (r"^\$[$]$", ["$$"], ["$$\n", "$"]),
        (r"^\d+$", ["12"], ["\u0663"]),
        (r"^[\w-]+$", ["a-b_1"], ["\u00e9"]),
        (r"^\W$", ["\u00e9"], ["e"]),
        (r"^a\s[\s]b$", ["a \u00a0b", "a\ufeff\tb"], ["a b"]),
        (r"^\S+$", ["ab"], ["a\u2003b"]),
        ("^a.b$", ["a b"], ["a\nb", "a\u2028b"]),
        (r"\bcat\b", ["a cat", "\u00e9cat"], ["cats"]),
        (r"^[]$.]+$", ["].$"], ["a"]),
        ("(?i)^a$", ["A"], ["b"]),
    ],
)
async def test_pattern_means_what_ecma_says(tmp_path: Path, pattern: str, fits: list[str], fails: list[str]) -> None:
    fit = fit_of(
        tmp_path, {"properties": {"a": {"pattern": pattern}}, "patternProperties": {"^\\d$": {"type": "null"}}}
    )
    for text in fits:
        assert (await judged(fit, json.dumps({"a": text}))).why is None, text
    for text in fails:
        why = str((await judged(fit, json.dumps({"a": text}))).why)
        assert f"does not match {json.dumps(pattern)}" in why, "as it was written"
    assert (await judged(fit, json.dumps({"\u0663": 1}))).why is None
    assert (await judged(fit, json.dumps({"3": 1}))).why is not None, "the control"


# ── a comparison without end ────────────────────────────────────────────────────────────────────────────────────────


async def test_endless_pattern_is_ended_by_its_computing_time(tmp_path: Path) -> None:
    fit = fit_of(tmp_path, BACKTRACKS, cpu_seconds=1)
    found = await judged(fit, FOREVER)
    assert "could not be compared within 1 s of computing" in str(found.why)
    assert (await judged(fit, '{"a": "aaa"}')).why is None, "the control: the same schema compares other answers"
    assert "does not match" in str((await judged(fit, '{"a": "b"}')).why)


async def test_stop_ends_a_comparison(tmp_path: Path) -> None:
    stop, fit = StopSignal(), fit_of(tmp_path, BACKTRACKS, cpu_seconds=60)
    comparison = asyncio.create_task(fit.text(FOREVER, stop, "t"))
    await until_async(lambda: bool(list((tmp_path / "journal").glob("*"))))
    stop.set(StopCause.CANCEL)
    with pytest.raises(ComparisonStopped):
        await comparison
    assert not list((tmp_path / "journal").glob("*.json")), "the process is gone"


async def test_branches_without_end_are_ended(tmp_path: Path) -> None:
    node = {"type": "array", "items": {"$ref": "#/$defs/n"}}
    fit = fit_of(tmp_path, {"$defs": {"n": {"anyOf": [node, node]}}, "$ref": "#/$defs/n"}, cpu_seconds=1)
    assert "could not be compared" in str((await judged(fit, "[" * 60 + "1" + "]" * 60)).why)
    assert (await judged(fit, "[[[]]]")).why is None


async def test_deep_answer_meets_a_schema_that_refers_to_itself(tmp_path: Path) -> None:
    node = {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}
    fit = fit_of(tmp_path, {"$defs": {"n": node}, "$ref": "#/$defs/n"})
    assert (await judged(fit, '{"n":' * 99 + "{}" + "}" * 99)).why is None
    assert '1 is not of type "object"' in str((await judged(fit, '{"n":' * 99 + "1" + "}" * 99)).why)
