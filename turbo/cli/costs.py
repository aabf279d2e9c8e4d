"""`turbo costs`: what runs used and cost, as a table with a plot."""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import output, timestamps
from turbo.cli.options import Dsn, Json, connect, zones
from turbo.cli.output import Column
from turbo.client.timestamps import TimestampReader, ZoneClock

if TYPE_CHECKING:
    from turbo.client.client import Client
    from turbo.client.costs import CostLine, Costs

BAR_CELLS = 24
LONGEST_GAP = 366
"""Days without a run that get an empty line each."""


def _by(incomplete: str) -> list[str]:
    from turbo.client.costs import CostsBy

    return [by.value for by in CostsBy if by.value.startswith(incomplete)]


def costs(
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="type|account|queue|model|day|submitter",
            autocompletion=_by,
            help="What each line is for.",
        ),
    ] = "day",
    since: Annotated[
        str,
        typer.Option(
            "--since", help="Only runs that were recorded since: 1h, 2026-12-01, or 7d: seven days and today."
        ),
    ] = "7d",
    timezone: Annotated[
        str,
        typer.Option(
            "--timezone",
            "-z",
            autocompletion=zones,
            help="Whose days count, also those of --since: Europe/Berlin, for example.",
        ),
    ] = "UTC",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="Show at most this many lines.")] = 50,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Show what agents used, and what it cost.

    Tokens and US dollars of all runs, also of those that failed or were cancelled.

    \b
    Examples:
      turbo costs
      turbo costs --by model --since 30d
      turbo costs --by submitter --json | jq -r '.lines[] | [.name, .cost_usd] | @tsv'
    """
    from turbo.client.costs import CostsBy

    if by not in list(CostsBy):
        raise typer.BadParameter(f"--by {by!r}: write {', '.join(CostsBy)}")
    with connect(dsn) as client:
        begin = timestamps.option(_reader(client, timezone), "--since", since)
        found = client.costs(CostsBy(by), begin, timezone=timezone, lines=limit)
    if as_json:
        output.print_json(output.columns(found))
        return
    if not found.lines:
        output.notice(f"no run has used anything since {timestamps.local_time(found.since)}")
        return
    _print(found)
    if found.cut:
        shown = f"the latest {len(found.lines)}" if found.by == "day" else len(found.lines)
        output.notice(f"showing {shown} of {found.count} lines; the total is of all of them; use --limit for more")
    if found.total.unpriced:
        what = output.many(found.total.unpriced, "run")
        output.notice(f"the cost of {what} is not known, or not all of it: see prices in docs/how-to/costs.md")


def _reader(client: "Client", timezone: str) -> TimestampReader:
    """Reads dates and days by this zone's clock. Raises BadParameter for a zone that the database does not know."""
    import psycopg

    try:
        return TimestampReader(client, ZoneClock(client, timezone), whole_days=True)
    except psycopg.errors.InvalidParameterValue:
        said = f"--timezone {timezone!r} is not a time zone: write UTC or Europe/Berlin"
        raise typer.BadParameter(said) from None


def _print(found: "Costs") -> None:
    lines = list(_with_days_between(found.lines) if found.by == "day" else found.lines)
    in_dollars = any(line.cost_usd for line in lines)
    most = max(_height(line, in_dollars) for line in lines)
    plot = output.at_terminal()
    columns = (
        Column(found.by.value.upper(), flexible=True),
        Column("RUNS", right=True, drop=3),
        Column("INPUT", right=True, drop=4),
        Column("OUTPUT", right=True, drop=4),
        Column("CACHE READ", right=True, drop=6),
        Column("CACHE WRITE", right=True, drop=6),
        Column("USD", right=True),
        *((Column("", drop=2),) if plot else ()),
    )
    rows = [(*_row(line), *((bar(_height(line, in_dollars), most),) if plot else ())) for line in lines]
    total = _row(found.total, "total")
    output.table(columns, [*rows, (*total, *(("",) if plot else ()))])


def _row(line: "CostLine", name: str = "") -> Sequence[object]:
    return (
        name or line.name or "(none)",
        line.runs,
        output.short(line.input_tokens),
        output.short(line.output_tokens),
        output.short(line.cache_read_tokens),
        output.short(line.cache_write_tokens),
        dollars(line.cost_usd),
    )


def dollars(cost: float | None) -> str:
    """12.35, 0.0042; `?` where nothing is known."""
    if cost is None:
        return "?"
    return f"{cost:.2f}" if cost >= 1 or cost == 0 else f"{cost:.4f}"


def _height(line: "CostLine", in_dollars: bool) -> float:
    return (
        line.cost_usd or 0.0 if in_dollars else float(line.input_tokens + line.output_tokens + line.cache_write_tokens)
    )


def bar(height: float, most: float, cells: int = BAR_CELLS) -> str:
    """A bar of at most `cells` cells, in halves of a cell; anything above zero can be seen."""
    if height <= 0 or most <= 0:
        return ""
    full, half = divmod(max(1, round(2 * cells * height / most)), 2)
    return "█" * full + "▌" * half


def _with_days_between(lines: "Sequence[CostLine]") -> "Iterator[CostLine]":
    """The days, and between them those without a run: a plot over time must not hide them."""
    from turbo.client.costs import CostLine

    before: date | None = None
    for line in lines:
        day = date.fromisoformat(line.name)
        if before is not None and (day - before).days <= LONGEST_GAP:
            for gap in range(1, (day - before).days):
                yield CostLine((before + timedelta(days=gap)).isoformat(), cost_usd=0.0)
        before = day
        yield line
