"""`turbo budget`: what runs may use."""

from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import output, timestamps
from turbo.cli.named_rows import change_each, is_served
from turbo.cli.options import BudgetName, BudgetNames, Dsn, Json, ZoneOption, connect
from turbo.cli.output import Column

if TYPE_CHECKING:
    from turbo.client.budget import BudgetLine
    from turbo.client.client import Client

app = typer.Typer(
    no_args_is_help=True, help="What runs may use: US dollars, tokens or runs, in a period.", rich_markup_mode=None
)

COLUMNS = (
    Column("BUDGET", flexible=True, least=14),
    Column("STATE"),
    Column("USED", right=True),
    Column("SPENT"),
    Column("PER", drop=1),
    Column("ENDS IN", drop=2, right=True),
    Column("COVERS", flexible=True, least=20, drop=3),
)


def _periods(incomplete: str) -> list[str]:
    from turbo.domain.budget import Period

    return [period.value for period in Period if period.value.startswith(incomplete)]


@app.command("set")
def set_(
    name: BudgetName,
    usd: Annotated[float | None, typer.Option("--usd", help="US dollars; 0 closes what the budget covers.")] = None,
    tokens: Annotated[int | None, typer.Option("--tokens", help="Tokens: input, output and cache writes.")] = None,
    runs: Annotated[int | None, typer.Option("--runs", help="Runs, also of programs and python handlers.")] = None,
    per: Annotated[
        str | None,
        typer.Option(
            "--per",
            metavar="hour|day|week|month|total",
            autocompletion=_periods,
            help="When it begins anew, on the clocks of --timezone. [default: day]",
        ),
    ] = None,
    account: Annotated[str | None, typer.Option("--account", help="Only runs with this account.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Only tasks of this queue.")] = None,
    task_type: Annotated[str | None, typer.Option("--type", "-t", help="Only tasks of this type.")] = None,
    submitter: Annotated[str | None, typer.Option("--submitter", help="Only tasks that this role submitted.")] = None,
    timezone: ZoneOption = None,
    warn_at: Annotated[
        float | None,
        typer.Option("--warn-at", help="The share of a limit from which on it is nearly spent. [default: 0.8]"),
    ] = None,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Write a budget, or change the one of this name to just this.

    \b
    Examples:
      turbo budget set daily --usd 50 --per day --account alpha-max --timezone Europe/Berlin
      turbo budget set eve --tokens 2000000 --per week --submitter eve
      turbo budget set night --runs 200 --queue night

    What a spent budget covers waits as pending, and goes on by itself when the period ends or somebody raises the budget.
    """
    from turbo.client.budget import BudgetRefused, MayNotBudget, NewBudget
    from turbo.client.client import BadField

    try:
        budget = NewBudget(
            name,
            usd=usd,
            tokens=tokens,
            runs=runs,
            period=per,
            account=account,
            queue=queue,
            task_type=task_type,
            submitted_by=submitter,
            timezone=timezone,
            warn_at=warn_at,
        )
    except BadField as error:
        raise typer.BadParameter(str(error)) from None
    with connect(dsn) as client:
        try:
            written = client.budgets.write(budget)
        except MayNotBudget:
            raise
        except BudgetRefused as error:
            raise typer.BadParameter(str(error)) from None
        served = None if queue is None else is_served(client, queue)
    output.print_json(_document(written)) if as_json else output.echo(f"{name}: {_limits(written)}, {_covers(written)}")
    if served is False:
        output.notice(f"no live worker serves queue {queue}; check the name with turbo status")


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="Show at most this many.")] = 500,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """List the budgets, with what is spent of each in its current period.

    \b
    Examples:
      turbo budget list
      turbo budget list --json | jq -r '.[] | select(.state == "spent") | [.name, .ends] | @tsv'
    """
    with connect(dsn) as client:
        found = client.budgets.list(limit)
    if as_json:
        output.print_json([_document(one) for one in found])
        return
    if not found:
        output.notice("no budgets; turbo budget set --help shows how to write one")
        return
    output.table(COLUMNS, [_row(one) for one in found])
    if len(found) == limit:
        output.notice(f"showing the first {limit}; use --limit for more")


@app.command()
def remove(names: BudgetNames, as_json: Json = False, dsn: Dsn = None) -> None:
    """Remove budgets. What they closed is open at once.

    \b
    Example:
      turbo budget remove daily
    """

    def removed(client: "Client", name: str) -> tuple[bool, str]:
        client.budgets.remove(name)
        return True, "removed"

    change_each("budget", dsn, names, removed, as_json=as_json)


def _document(one: "BudgetLine") -> dict[str, object]:
    return {"name": one.name, "state": one.state, "used": one.used, **output.columns(one)}


def _limits(one: "BudgetLine") -> str:
    """`50 USD, 100 runs a day`."""
    known = [f"{one.usd:,.2f} USD"] if one.usd is not None else []
    known += [f"{one.tokens:,} tokens"] if one.tokens is not None else []
    known += [f"{one.runs:,} runs"] if one.runs is not None else []
    return f"{', '.join(known)} {'in all' if one.period == 'total' else f'per {one.period}'}"


def _covers(one: "BudgetLine") -> str:
    scope = (("account", one.account), ("queue", one.queue), ("type", one.task_type), ("submitter", one.submitted_by))
    return ", ".join(f"{what} {value}" for what, value in scope if value is not None) or "all runs"


def _row(one: "BudgetLine") -> tuple[object, ...]:
    spent = [f"{one.spent_usd:,.2f} of {one.usd:,.2f} USD"] if one.usd is not None else []
    spent += [f"{one.spent_tokens:,} of {one.tokens:,} tokens"] if one.tokens is not None else []
    spent += [f"{one.spent_runs:,} of {one.runs:,} runs"] if one.runs is not None else []
    return (
        one.name,
        one.state,
        f"{one.used:.0%}",
        ", ".join(spent),
        one.period,
        "" if one.ends is None else timestamps.duration((one.ends - one.now).total_seconds()),
        _covers(one),
    )
