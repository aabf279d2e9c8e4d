"""`turbo questions`: who waits for a person."""

from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import asked, output, timestamps
from turbo.cli.options import (
    Dsn,
    Json,
    QuestionKinds,
    QueueOption,
    SinceAskedOption,
    TextOption,
    TypeOption,
    WorkerOption,
    connect,
)
from turbo.cli.output import Column

if TYPE_CHECKING:
    from turbo.client.client import OpenQuestion

COLUMNS = (
    Column("TASK"),
    Column("KIND", drop=2),
    Column("SINCE", right=True),
    Column("ANSWER BY", drop=3, right=True),
    Column("QUEUE", drop=5),
    Column("HOST", drop=4, flexible=True),
    Column("ASKS", drop=1, flexible=True),
)


def questions(
    queue: QueueOption = None,
    task_type: TypeOption = None,
    kind: QuestionKinds = None,
    worker: WorkerOption = None,
    since: SinceAskedOption = None,
    text: TextOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="Show at most this many.")] = 50,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """List the tasks that wait for a person, the longest first.

    \b
    Examples:
      turbo questions
      turbo questions --kind approval --queue deploy
      turbo questions --json | jq -r '.[] | [.task_id, .text] | @tsv'
    """
    from turbo.cli.selection import kinds, task_filter

    with connect(dsn) as client:
        criteria = task_filter(client, None, queue, task_type, worker, None, since, text)
        found = client.questions(criteria, kinds=kinds(kind), limit=limit, whole=as_json)
    if as_json:
        output.print_json([output.columns(one) for one in found])
        return
    if not found:
        output.notice(
            "nobody waits for you" if kind is None and criteria == type(criteria)() else "no matching questions"
        )
        return
    output.table(COLUMNS, [_row(one) for one in found])
    if len(found) == limit:
        output.notice(f"showing the {limit} that have waited the longest; use --limit for more")
    output.notice("see one whole with turbo show ID; then turbo answer ID, turbo approve ID or turbo deny ID")


def _row(one: "OpenQuestion") -> tuple[object, ...]:
    left = timestamps.seconds_between(one.asked_at, one.answer_by)
    left = None if left is None or one.age is None else left - one.age
    return (
        one.task_id,
        one.kind,
        timestamps.duration(one.age),
        "" if left is None else f"in {timestamps.duration(left)}" if left > 0 else "now",
        one.queue,
        "" if one.host is None else f"{one.host} (no worker)" if one.host_live is False else one.host,
        asked.summary(one),
    )
