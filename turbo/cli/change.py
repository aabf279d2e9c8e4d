"""`turbo cancel` and `turbo retry`: by ids and prefixes of ids, or by filter after a confirmation."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import output
from turbo.cli.options import (
    Dsn,
    Json,
    KindOption,
    QueueOption,
    SinceOption,
    Status,
    TaskIds,
    TextOption,
    TypeOption,
    WorkerOption,
    Yes,
    connect,
)
from turbo.domain.states import TaskState

if TYPE_CHECKING:
    from turbo.client.client import Changed, Client, TaskFilter

Change = Callable[["Client", Sequence[str]], "list[Changed]"]

AT_ONCE = 500
RESTING = (TaskState.SCHEDULED, TaskState.PENDING, TaskState.BLOCKED, TaskState.WAITING)
LIVE = (*RESTING, TaskState.RUNNING)
FINISHED = (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED)


def cancel(
    task_ids: TaskIds = None,
    status: Status = None,
    queue: QueueOption = None,
    task_type: TypeOption = None,
    worker: WorkerOption = None,
    since: SinceOption = None,
    text: TextOption = None,
    yes: Yes = False,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Cancel tasks by id or by filter.

    A running task is cancelled once its agent has stopped.

    \b
    Examples:
      turbo cancel my_task_1 t_5f3
      turbo cancel --queue night --status pending,scheduled
    """
    with connect(dsn) as client:
        criteria = _filter(client, task_ids, status, queue, task_type, worker, None, since, text, LIVE)
        if criteria is not None:
            _by_filter(client, criteria, "cancel", lambda c, ids: c.cancel(ids), yes=yes, as_json=as_json)
        else:
            _by_id(client, task_ids or [], "nothing to cancel", lambda c, ids: c.cancel(ids), as_json=as_json)


def retry(
    task_ids: TaskIds = None,
    status: Status = None,
    queue: QueueOption = None,
    task_type: TypeOption = None,
    worker: WorkerOption = None,
    failure_kind: KindOption = None,
    since: SinceOption = None,
    text: TextOption = None,
    anew: Annotated[
        bool,
        typer.Option(
            "--anew", help="Forget the agent's conversation and the host that has it. Also for tasks that wait or rest."
        ),
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Run finished tasks again, by id or by filter.

    Each task starts over with its first attempt. A filter selects failed tasks only, unless --status is given.

    A task that has asked a person can go on only on the host that has its conversation. If that host is gone, --anew lets
    it begin a new conversation on any host, with its questions and answers in the prompt.

    \b
    Examples:
      turbo retry my_task_1
      turbo retry --failure-kind usage_limit --since 1d
      turbo retry --status failed,cancelled --queue night --yes
      turbo retry --anew my_task_1
    """
    possible = (*RESTING, *FINISHED) if anew else FINISHED
    with connect(dsn) as client:
        criteria = _filter(client, task_ids, status, queue, task_type, worker, failure_kind, since, text, possible)
        if criteria is not None:
            if status is None:
                criteria = replace(criteria, statuses=(TaskState.FAILED,))
            _by_filter(client, criteria, "retry", lambda c, ids: c.retry(ids, anew=anew), yes=yes, as_json=as_json)
        else:
            _by_id(
                client,
                task_ids or [],
                "a running task has its conversation" if anew else "only finished tasks can be retried",
                lambda c, ids: c.retry(ids, anew=anew),
                as_json=as_json,
            )


def _filter(
    client: "Client",
    task_ids: list[str] | None,
    status: list[str] | None,
    queue: str | None,
    task_type: str | None,
    worker: str | None,
    failure_kind: str | None,
    since: str | None,
    text: str | None,
    possible: tuple[str, ...],
) -> "TaskFilter | None":
    """The filter, or None when ids were given. Raises BadParameter for both, for neither, and for an impossible status."""
    from turbo.cli.selection import task_filter

    options = (status, queue, task_type, worker, failure_kind, since, text)
    filtered = any(option is not None for option in options)
    if filtered == bool(task_ids):
        raise typer.BadParameter("give either task ids or filter options (--queue, --since, …)")
    if not filtered:
        return None
    criteria = task_filter(client, *options)
    for word in criteria.statuses or ():
        if word not in possible:
            raise typer.BadParameter(f"--status {word}: must be one of {', '.join(possible)}")
    return replace(criteria, statuses=criteria.statuses or possible)


def _by_filter(
    client: "Client", criteria: "TaskFilter", verb: str, change: Change, *, yes: bool, as_json: bool
) -> None:
    from turbo.cli.selection import confirm

    task_ids = [task.task_id for task in client.tasks(criteria, limit=None)]
    if not task_ids:
        output.notice(f"no matching task to {verb}")
        if as_json:
            output.print_json({"changed": [], "refused": {}})
        return
    confirm(f"{verb} {output.many(len(task_ids), 'task')} ({', '.join(criteria.statuses or ())})?", yes=yes)
    changed: list[Changed] = []
    for start in range(0, len(task_ids), AT_ONCE):
        changed += change(client, task_ids[start : start + AT_ONCE])
    missed = sorted(set(task_ids) - {task.task_id for task in changed})
    if as_json:
        why = dict.fromkeys(missed, "its status changed meanwhile")
        output.print_json({"changed": [asdict(task) for task in changed], "refused": why})
        return
    stopping = sum(task.status == TaskState.RUNNING for task in changed)
    more = f", {stopping} of them once their agents have stopped" if stopping else ""
    late = f"; {len(missed)} had changed meanwhile" if missed else ""
    output.echo(f"{'cancelled' if verb == 'cancel' else 'retried'} {len(changed)}{more}{late}")


def _by_id(client: "Client", given: Sequence[str], otherwise: str, change: Change, *, as_json: bool) -> None:
    """One line per id; exit 1 if any could not be changed."""
    from turbo.cli.selection import resolved
    from turbo.client.client import UnknownTask

    task_ids, refused = resolved(client, given)
    changed = change(client, task_ids) if task_ids else []
    done = {task.task_id for task in changed}
    for task_id in task_ids:
        if task_id not in done:
            try:
                refused[task_id] = f"it is {client.get(task_id).status}: {otherwise}"
            except UnknownTask:
                refused[task_id] = "no such task"
    if as_json:
        output.print_json({"changed": [asdict(task) for task in changed], "refused": refused})
    else:
        for task in changed:
            state = "its agent is being stopped" if task.status == TaskState.RUNNING else task.status
            output.echo(f"{task.task_id}: {state}")
        for task_id, why in refused.items():
            output.notice(f"{task_id}: {why}")
    if refused:
        raise typer.Exit(1)
