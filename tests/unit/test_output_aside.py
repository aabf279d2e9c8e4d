"""Lines that are set aside: they reach nobody else, however the stream is cut into chunks."""

import pytest

from turbo.process.output import Aside

PREFIX = b'{"type":"x"'
STREAM = b'one\n{"type":"x",1}\n{"type":"xy"}\n\n{"ty\n{"type":"x"}\ntwo\r\n{"type":"x"'


def split(chunks: list[bytes], limit: int = 100) -> tuple[bytes, list[tuple[bytes, bool]]]:
    aside: list[tuple[bytes, bool]] = []
    one = Aside(PREFIX, lambda line, cut: aside.append((line, cut)), limit)
    rest = b"".join([one.feed(chunk) for chunk in chunks])
    return rest + one.close(), aside


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 12, 1000])
def test_lines_are_split_whatever_the_chunks(size: int) -> None:
    rest, aside = split([STREAM[at : at + size] for at in range(0, len(STREAM), size)])
    assert rest == b'one\n{"type":"xy"}\n\n{"ty\ntwo\r\n'
    assert aside == [(b'{"type":"x",1}', False), (b'{"type":"x"}', False), (b'{"type":"x"', False)]


def test_long_line_is_cut_and_the_rest_stays_aside() -> None:
    rest, aside = split([PREFIX + b"a" * 500, b"b" * 500 + b"\nend\n"])
    assert rest == b"end\n"
    assert aside == [(PREFIX + b"a" * (100 - len(PREFIX)), True)]


def test_unfinished_line_is_given_at_the_end() -> None:
    assert split([b'{"type"']) == (b'{"type"', [])
