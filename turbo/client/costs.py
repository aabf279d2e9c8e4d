"""What runs used and cost, as the client returns it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import psycopg

from turbo.client.operations import Query, Steps

LINES = 1000
"""Lines that `Client.costs` reads, the costliest first."""


class CostsBy(StrEnum):
    """What the lines of `Client.costs` are for."""

    TYPE = "type"
    ACCOUNT = "account"
    QUEUE = "queue"
    MODEL = "model"
    DAY = "day"
    SUBMITTER = "submitter"


class UnknownTimezone(ValueError):
    """The server knows no time zone of this name."""


@dataclass(frozen=True, slots=True)
class CostLine:
    """What the runs of one task type, account, queue, model, submitter or day used. `name` '': none was named, or it is the total.

    `runs` counts each run once for every executor that it used. `input_tokens` are without `cache_read_tokens`. `cost_usd` is in US
    dollars; None: nothing of it is known. `unpriced`: runs of which some tokens have no cost."""

    name: str
    runs: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float | None = None
    unpriced: int = 0


@dataclass(frozen=True, slots=True)
class Costs:
    """The lines, the costliest first; days in their order. `total` is of all lines that there are, `count` how many. `cut`: these
    are more than were asked for."""

    by: CostsBy
    since: datetime | None
    lines: tuple[CostLine, ...]
    total: CostLine
    cut: bool = False
    count: int = 0


def costs(by: CostsBy, since: datetime | None, timezone: str, lines: int) -> Steps[Costs]:
    """Raises UnknownTimezone."""
    parameters = {"by": by.value, "since": since, "timezone": timezone, "limit": lines}
    try:
        rows = (yield Query("client/costs", parameters)).rows
    except psycopg.errors.InvalidParameterValue:
        raise UnknownTimezone(f"{timezone!r} is not a time zone: write UTC or Europe/Berlin") from None
    return _read(by, since, rows)


def _read(by: CostsBy, since: datetime | None, rows: Iterable[Mapping[str, Any]]) -> Costs:
    total, count = CostLine(""), 0
    lines: list[CostLine] = []
    for row in rows:
        fields = dict(row)
        of_all = fields.pop("of_all")
        if of_all is None:
            lines.append(CostLine(**fields))
        else:
            total, count = CostLine(**fields), of_all
    if by is CostsBy.DAY:
        lines.reverse()
    return Costs(by, since, tuple(lines), total, cut=count > len(lines), count=count)
