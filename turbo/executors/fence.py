"""A fence for text in a prompt that others wrote: two lines of random characters, which nothing between them can contain. A fixed
line before it names the fence and says what is inside."""

import json
import secrets
from collections.abc import Iterable


def fenced(line: str, documents: Iterable[object]) -> list[str]:
    """Two paragraphs: the fixed line, which names the fence, and the documents inside it, as JSON, one a line."""
    shown = [json.dumps(document, ensure_ascii=False) for document in documents]
    return _paragraphs(line, shown)


def fenced_text(line: str, text: str) -> list[str]:
    """The same with a text as it is."""
    return _paragraphs(line, [text])


def _paragraphs(line: str, inside: Iterable[str]) -> list[str]:
    fence = secrets.token_hex(16)
    return [line.format(fence=fence), "\n".join([fence, *inside, fence])]
