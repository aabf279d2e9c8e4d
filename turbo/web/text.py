"""How values become text on the page. All of it was written by others: no template can print a value unescaped.

{{ value }}            HTML-escaped, and what leaves no mark or changes the direction of text is shown as an escape: \\u202e
{{ value | exact }}    HTML-escaped only: for a hidden field that goes back to the server as it is
"""

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from turbo.client.fleet_status import COUNTED
from turbo.domain.visible import visible
from turbo.web.svg import meter

_AWKWARD = {"", ".", ".."}
"""Parts of a path that a browser takes out or joins."""


def environment() -> Environment:
    """The templates of turbo/web/templates."""
    made = Environment(
        loader=PackageLoader("turbo.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    made.filters |= {"exact": exact, "age": age, "moment": moment, "plain_json": plain_json, "count": count}
    made.filters |= {"tojson_text": tojson_text, "without": without, "fields": pairs, "counted": counted}
    made.globals |= {"task_url": task_url, "meter": meter}
    return made


def _shown(value: object) -> object:
    """Every printed expression passes here, before it is escaped. None is nothing."""
    if value is None:
        return ""
    if isinstance(value, Markup):
        return value
    return visible(value, lines=True) if isinstance(value, str) else value


def exact(value: object) -> Markup:
    return escape("" if value is None else value)


def task_url(task_id: str, under: str = "tasks") -> str:
    """The path of a task's page, or of another page about a task: `/{under}/ID`. The id is the end of the path, whatever it holds.

    Ids that browsers would change in a path are given as `?id=`."""
    if _AWKWARD & set(task_id.split("/")):
        return f"/{under}/?id={quote(task_id, safe='')}"
    return f"/{under}/{quote(task_id, safe='/')}"


def age(seconds: float | None) -> str:
    """3s, 5m12s, 2h05m, 3d04h. '' for None."""
    if seconds is None:
        return ""
    whole = int(abs(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def moment(value: datetime | None) -> Markup:
    """A moment for the script to show in the reader's time zone; without it, UTC. '' for None."""
    if value is None:
        return Markup("")
    text = value.isoformat(timespec="seconds").replace("+00:00", "Z")
    return Markup('<time datetime="{}">{}</time>').format(text, value.strftime("%Y-%m-%d %H:%M UTC"))


def plain_json(value: Any) -> str:
    """JSON to read: a text stays as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2, default=str)


def count(value: int, one: str, several: str | None = None) -> str:
    """1 task, 1,200 tasks."""
    return f"{value:,} {one if value == 1 else several or one + 's'}"


def counted(value: int) -> str:
    """A count of status or top: past what is counted, 10,000+; '' for none."""
    return "" if not value else f"{value:,}" if value <= COUNTED else f"{COUNTED:,}+"


def tojson_text(value: Any) -> str:
    """JSON on one line, for a field that comes back."""
    return json.dumps(value)


def without(text: str, end: str) -> str:
    """`text` without its end, which is shown elsewhere; all of it if it is nothing else."""
    return text.removesuffix(end).strip() or text


def pairs(value: Any) -> list[tuple[str, Any]]:
    """The fields of a dataclass."""
    return list(asdict(value).items())
