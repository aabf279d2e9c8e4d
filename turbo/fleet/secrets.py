"""Finds secrets in a fleet file. They must not be there: its values end up in plists and process lists that every user can read."""

import re
from collections.abc import Iterator
from typing import Any

from turbo.config.loader import Tree, has_password
from turbo.domain.finding import Finding, fail

_KEY = re.compile(r"passw(or)?d|secret|token|api_?key|credential|^dsn$|^turbo_dsn$|^pg[a-z]+$", re.IGNORECASE)
_VALUE = re.compile(r"\b(sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})\b")
_URI = re.compile(r"^\w+://[^/\s:]*+:[^/\s]*@")
_KEYWORD = re.compile(r"\bpassword\s*=", re.IGNORECASE)

WHERE_TO = "put it in the env_file (KEY=VALUE lines, mode 0600) that `turbo worker --env-file` reads"


def secrets(tree: Tree) -> Iterator[Finding]:
    """Every key with a password, a token or a database connection. No message shows a value."""
    yield from _search(tree, "", "")


def _search(value: Any, where: str, key: str) -> Iterator[Finding]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _search(inner, f"{where}.{name}" if where else str(name), str(name))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _search(inner, f"{where}.{i}", key)
    elif value is not None and _KEY.search(key):
        yield fail(f"a fleet file must not contain secrets or database connections; {WHERE_TO}", subject=where)
    elif isinstance(value, str) and (_holds_password(value) or _VALUE.search(value)):
        yield fail(f"contains a password or a key; {WHERE_TO}", subject=where)


def _holds_password(text: str) -> bool:
    return bool(_URI.match(text) or (_KEYWORD.search(text) and has_password(text)) or _keyword_in_uri(text))


def _keyword_in_uri(text: str) -> bool:
    return "://" in text and has_password(text)
