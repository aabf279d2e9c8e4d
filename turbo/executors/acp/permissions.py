"""What becomes of an agent's request for permission.

    {toolCall: {kind: edit, locations: [{path}], rawInput: {…}}, options: [{kind: allow_once, optionId}, …]}

    held by a rule of ask.approve ──▶ the turn is cancelled, and a person is asked
    otherwise its kind decides ──▶ allow, deny; inside: allowed where every path that it names lies in the run's directory

Only options that count once are chosen: some agents write the others down for good. Everything in a request is the agent's word.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from turbo.config.acp import KINDS, Permissions
from turbo.executors.agent import fields

TOOLS = {
    "execute": "Bash",
    "edit": "Edit",
    "read": "Read",
    "search": "Grep",
    "fetch": "WebFetch",
    "delete": "Delete",
    "move": "Move",
    "think": "Think",
    "switch_mode": "SwitchMode",
    "other": "Other",
}
"""Kinds of calls by the names that rules of `ask.approve` have for them."""

_PATHS = ("path", "file_path", "filePath", "filepath", "absolute_path", "notebook_path", "source", "destination")
_MOST_PATHS = 1000


def kind_of_call(call: Mapping[str, Any]) -> str:
    kind = call.get("kind")
    return kind if isinstance(kind, str) and kind in KINDS else "other"


def input_of(call: Mapping[str, Any]) -> dict[str, Any]:
    """All that identifies a call, and that a person is shown: its input and its title. Without the agent's id of it."""
    raw = fields.object_of(call, "rawInput")
    paths = sorted(set(_locations(call)))
    shown: dict[str, Any] = {**raw}
    if paths and not any(key in raw for key in _PATHS):
        shown["paths"] = paths
    if not raw and (title := fields.text(call, "title")):
        shown["title"] = title
    return shown


def allowed(permissions: Permissions, call: Mapping[str, Any], directory: Path) -> bool:
    kind = kind_of_call(call)
    match getattr(permissions, kind):
        case "allow":
            return True
        case "inside" if kind != "execute":
            return _inside(call, directory)
    return False


def _inside(call: Mapping[str, Any], directory: Path) -> bool:
    """Whether it names paths, and all of them lie in the directory, whatever links there are."""
    paths = list(_named(call))
    if not paths or len(paths) > _MOST_PATHS:
        return False
    top = os.path.realpath(directory)
    try:
        return all(_below(os.path.realpath(os.path.join(top, path)), top) for path in paths)  # noqa: PTH118
    except (OSError, ValueError):  # no path at all
        return False


def _below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top.rstrip('/')}/")


def _named(call: Mapping[str, Any]) -> Iterator[str]:
    yield from _locations(call)
    raw = fields.object_of(call, "rawInput")
    for key in _PATHS:
        if isinstance(path := raw.get(key), str):
            yield path
    content = call.get("content")
    for one in content if isinstance(content, list) else ():
        if isinstance(one, dict) and one.get("type") == "diff" and isinstance(path := one.get("path"), str):
            yield path


def _locations(call: Mapping[str, Any]) -> Iterator[str]:
    locations = call.get("locations")
    for one in locations if isinstance(locations, list) else ():
        if isinstance(one, dict) and isinstance(path := one.get("path"), str):
            yield path


def option(options: object, kind: str) -> str | None:
    """The id of the first option of this kind, or None."""
    for one in options if isinstance(options, list) else ():
        if isinstance(one, dict) and one.get("kind") == kind and isinstance(number := one.get("optionId"), str):
            return number
    return None


CANCELLED: Mapping[str, Any] = {"outcome": {"outcome": "cancelled"}}


def selected(number: str) -> Mapping[str, Any]:
    return {"outcome": {"outcome": "selected", "optionId": number}}
