"""Finds secrets in a fleet file. They must not be there: its values end up in plists and process lists that every user can read."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from turbo.config.loader import VARIABLE, Tree, has_password
from turbo.domain.finding import Finding, fail

_KEY = re.compile(r"passw(or)?d|secret|token|api_?key|credential|^dsn$|^turbo_dsn$|^pg[a-z]+$", re.IGNORECASE)
_VALUE = re.compile(r"\b(sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})\b")
_URI = re.compile(r"://[^/\s:@]*:[^/\s]*@")
_LOGIN = re.compile(r"[^/\s:@'\"]:[^/\s:@]+@[^\s@]")
"""user:password@host, without a scheme."""

_KEYWORD = re.compile(r"(passw(or)?d|oauth_client_secret|scram_(client|server)_key)\s*=\s*[^\s&]", re.IGNORECASE)
"""Of a connection string or an environment, wherever it stands in a text."""

WHERE_TO = "put it in the env_file (KEY=VALUE lines, mode 0600) that `turbo worker --env-file` reads"


def secrets(tree: Tree) -> Iterator[Finding]:
    """Every key with a password, a token or a database connection. No message shows a value, or a key that is one."""
    yield from _search(tree, "", "")


def _search(value: Any, where: str, key: str) -> Iterator[Finding]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if _holds_secret(str(name), key):
                yield fail(f"the name of a key contains a password or a key; {WHERE_TO}", subject=where)
            else:
                yield from _search(inner, f"{where}.{name}" if where else str(name), str(name))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _search(inner, f"{where}.{i}", key)
    elif value is not None and _KEY.search(key):
        yield fail(f"a fleet file must not contain secrets or database connections; {WHERE_TO}", subject=where)
    elif isinstance(value, str) and _holds_secret(value, key):
        yield fail(f"contains a password or a key; {WHERE_TO}", subject=where)


def _holds_secret(text: str, key: str) -> bool:
    parts = [VARIABLE.sub("", text), *(match["default"] or "" for match in VARIABLE.finditer(text))]
    return any(_part_holds_secret(part, key) for part in parts)


def _part_holds_secret(text: str, key: str) -> bool:
    patterns = [_VALUE, _URI, _KEYWORD]
    if key != "ssh":  # its own check says what is allowed there, and repeats nothing
        patterns.append(_LOGIN)
    return has_password(text) or any(pattern.search(form) for form in (text, unquote(text)) for pattern in patterns)
