"""A line of the log: no text in it can pass for a field of turbo's, or for another line."""

import logging
import re

from turbo.observability.log import LineFormatter

FIELD = re.compile(r'(?:^| )(worker|task|attempt)=("(?:[^"\\]|\\.)*"|\S+)')


def line_of(message: str, **fields: object) -> str:
    record = logging.LogRecord("x", logging.ERROR, "x.py", 1, message, (), None)
    record.__dict__.update(fields)
    return LineFormatter("w-1").format(record)


def test_quote_in_an_id_forges_no_field() -> None:
    for task_id in (
        't" attempt=9 worker="evil',
        't\\" attempt=9',
        "t attempt=9",
        't"',
        "t\\",
        "a=b",
        "t\u2028x attempt=9",
        "t\tattempt=9",
    ):
        line = line_of("it ended", task=task_id, attempt=1)
        assert [name for name, _ in FIELD.findall(line)] == ["worker", "task", "attempt"], line
        assert line.endswith(" attempt=1")
        assert line.isprintable()


def test_message_forges_no_field_and_no_line() -> None:
    line = line_of('failed: x worker=evil task=t_9 attempt=9 "\n2026-01-01 ERROR \x1b[2J\u202e', task="t_1")
    assert FIELD.findall(line) == [("worker", "w-1"), ("task", "t_1")]
    assert "task=t_9" not in line
    assert line.isprintable()
