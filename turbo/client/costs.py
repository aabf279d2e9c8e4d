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
    """The lines, the costliest first; days in their order. `cut`: there are more than were asked for. `total` is of all of them."""

    by: CostsBy
    since: datetime | None
    lines: tuple[CostLine, ...]
    total: CostLine
    cut: bool = False


def costs(by: CostsBy, since: datetime | None, timezone: str, lines: int) -> Steps[Costs]:
    """Raises UnknownTimezone."""
    parameters = {"by": by.value, "since": since, "timezone": timezone, "limit": lines + 1}
    try:
        rows = (yield Query("client/costs", parameters)).rows
    except psycopg.errors.InvalidParameterValue:
        raise UnknownTimezone(f"{timezone!r} is not a time zone: write UTC or Europe/Berlin") from None
    return _read(by, since, rows, lines)


def _read(by: CostsBy, since: datetime | None, rows: Iterable[Mapping[str, Any]], most: int) -> Costs:
    total = CostLine("")
    lines: list[CostLine] = []
    for row in rows:
        fields = dict(row)
        if fields.pop("total"):
            total = CostLine(**fields)
        else:
            lines.append(CostLine(**fields))
    shown = lines[:most]
    if by is CostsBy.DAY:
        shown.reverse()
    return Costs(by, since, tuple(shown), total, cut=len(lines) > most)
