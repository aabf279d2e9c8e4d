"""`turbo schedule`: work that repeats."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import output, schedule_view
from turbo.cli.named_rows import change_each, is_served
from turbo.cli.options import Dsn, Json, ScheduleName, ScheduleNames, ZoneOption, connect

if TYPE_CHECKING:
    from turbo.client.client import Client

app = typer.Typer(
    no_args_is_help=True, help="Work that repeats: a task at each slot of a schedule.", rich_markup_mode=None
)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="A short name, as in nightly-triage.", show_default=False)],
    cron: Annotated[
        str,
        typer.Argument(
            help="When: minute hour day month weekday, in quotes; six fields begin with the second.", show_default=False
        ),
    ],
    text: Annotated[
        str | None, typer.Argument(help="What the agent should do; - reads standard input.", show_default=False)
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the text from a file.")] = None,
    timezone: ZoneOption = None,
    task_type: Annotated[
        str | None,
        typer.Option("--type", "-t", help="Task type; the worker's routes map it to an executor. [default: default]"),
    ] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="The queue. [default: default]")] = None,
    priority: Annotated[int | None, typer.Option("--priority", "-p", help="Higher runs first. [default: 5]")] = None,
    input_data: Annotated[str | None, typer.Option("--input", help="input_data, as JSON.")] = None,
    timeout: Annotated[int | None, typer.Option(help="Seconds that one run may take. [default: 300]")] = None,
    max_retries: Annotated[int | None, typer.Option(help="Retries after the first attempt. [default: 3]")] = None,
    concurrency_key: Annotated[str | None, typer.Option(help="At most one task per key runs at a time.")] = None,
    overlap: Annotated[
        str | None,
        typer.Option(
            autocompletion=lambda incomplete: _words(incomplete, "skip", "queue"),
            help="While one of its tasks is not over: skip the slot, or queue another task. [default: skip]",
        ),
    ] = None,
    catch_up: Annotated[
        str | None,
        typer.Option(
            autocompletion=lambda incomplete: _words(incomplete, "none", "one", "all"),
            help="Of the slots missed in an outage: none, one (the latest) or all (at most 100). [default: one]",
        ),
    ] = None,
    jitter: Annotated[
        int | None, typer.Option(help="Run each task after a random delay below so many seconds. [default: 0]")
    ] = None,
    max_failures: Annotated[
        int | None, typer.Option(help="Pause after so many failures in a row. [default: never]")
    ] = None,
    paused: Annotated[
        bool, typer.Option("--paused", help="Add it paused: turbo schedule resume lets it fire.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Change the schedule of this name, if there is one, to just this.")
    ] = False,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Add a schedule, and print its next slot.

    \b
    Examples:
      turbo schedule add nightly-triage "0 3 * * *" "Triage new issues" --timezone Europe/Berlin
      turbo schedule add probe "*/30 * * * * *" "Probe the site" --type probe --max-retries 0
      turbo schedule add weekly "0 9 * * MON" --file weekly.md --queue night --max-failures 3 --replace

    With --replace, options that are left out get their defaults, and a paused schedule stays paused.
    """
    from turbo.cli.submit import parsed, read_text
    from turbo.client.client import BadField
    from turbo.client.schedule import MayNotSchedule, NewSchedule, ScheduleExists, ScheduleRefused

    if (text is None) == (file is None):
        raise typer.BadParameter("give either the text or --file FILE")
    try:
        schedule = NewSchedule(
            name,
            cron,
            read_text(text, file),
            timezone=timezone,
            enabled=not paused,
            overlap=overlap,
            catch_up=catch_up,
            jitter_seconds=jitter,
            max_failures=max_failures,
            task_type=task_type,
            queue=queue,
            task_priority=priority,
            input_data=parsed(input_data),
            timeout_seconds=timeout,
            max_retries=max_retries,
            concurrency_key=concurrency_key,
        )
    except BadField as error:
        raise typer.BadParameter(str(error)) from None
    with connect(dsn) as client:
        try:
            added = client.schedules.insert(schedule, replace=replace)
        except ScheduleExists:
            said = f"there is a schedule {output.visible(name)} already: give --replace to change it to this"
            output.notice(f"turbo schedule add: {said}")
            raise typer.Exit(1) from None
        except MayNotSchedule:
            raise
        except ScheduleRefused as error:
            raise typer.BadParameter(str(error)) from None
        served = is_served(client, added.queue or "default")
    output.print_json(schedule_view.document(added)) if as_json else output.echo(
        f"{name}: {schedule_view.prospect(added)}"
    )
    for note in schedule_view.notes(added, served=served):
        output.notice(note)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="Show at most this many.")] = 500,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """List the schedules, with their next three slots.

    \b
    Examples:
      turbo schedule list
      turbo schedule list --json | jq -r '.[] | select(.state == "error") | [.name, .error] | @tsv'
    """
    with connect(dsn) as client:
        found = client.schedules.list(limit)
    if as_json:
        output.print_json([schedule_view.document(one) for one in found])
        return
    if not found:
        output.notice("no schedules; turbo schedule add --help shows how to add one")
        return
    schedule_view.print_table(found)
    if len(found) == limit:
        output.notice(f"showing the first {limit}; use --limit for more")


@app.command()
def show(name: ScheduleName, as_json: Json = False, dsn: Dsn = None) -> None:
    """Show one schedule in full, with its latest tasks.

    \b
    Example:
      turbo schedule show nightly-triage
    """
    with connect(dsn) as client:
        found = client.schedules.get(name)
        tasks = client.schedules.tasks(name)
    if as_json:
        output.print_json({**schedule_view.document(found), "tasks": [output.columns(task) for task in tasks]})
    else:
        schedule_view.print_whole(found, tasks)
        if found.error is not None:
            output.notice(schedule_view.remedy(found))


@app.command()
def pause(names: ScheduleNames, as_json: Json = False, dsn: Dsn = None) -> None:
    """Fire no slot any more; its tasks go on.

    \b
    Example:
      turbo schedule pause nightly-triage
    """

    def paused(client: "Client", name: str) -> tuple[bool, str]:
        changed = client.schedules.pause(name)
        return changed, "paused" if changed else "it was already paused"

    change_each("schedule", dsn, names, paused, as_json=as_json)


@app.command()
def resume(names: ScheduleNames, as_json: Json = False, dsn: Dsn = None) -> None:
    """Fire again, from the next slot on. Clears the error, and the count of failures.

    \b
    Example:
      turbo schedule resume nightly-triage
    """

    def resumed(client: "Client", name: str) -> tuple[bool, str]:
        if not client.schedules.resume(name):
            return False, "it was not paused"
        return True, f"resumed; {schedule_view.prospect(client.schedules.get(name))}"

    change_each("schedule", dsn, names, resumed, as_json=as_json)


@app.command()
def run(
    name: ScheduleName,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait for the task to end and print its result; exit 1 unless it completed."),
    ] = False,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Insert its task now, and print the id. Its slots stay as they are. Works for a paused schedule, too.

    \b
    Example:
      turbo schedule run nightly-triage --wait
    """
    from turbo.cli.submit import hand_over

    with connect(dsn) as client:
        hand_over(client, client.schedules.run(name), True, wait=wait, as_json=as_json)


@app.command()
def remove(names: ScheduleNames, as_json: Json = False, dsn: Dsn = None) -> None:
    """Remove schedules. Their tasks stay, and go on.

    \b
    Example:
      turbo schedule remove nightly-triage
    """

    def removed(client: "Client", name: str) -> tuple[bool, str]:
        client.schedules.remove(name)
        return True, "removed"

    change_each("schedule", dsn, names, removed, as_json=as_json)


def _words(incomplete: str, *known: str) -> list[str]:
    return [word for word in known if word.startswith(incomplete)]
