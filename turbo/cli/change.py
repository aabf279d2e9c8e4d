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
    from turbo.client.client import Changed, Client, Dependents, TaskFilter

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
    graph: Annotated[
        bool, typer.Option("--graph", help="All tasks that hang together with these: turbo graph ID shows them.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Cancel tasks by id or by filter.

    A running task is cancelled once its agent has stopped. Tasks that need a cancelled one are cancelled with it, unless
    they say otherwise.

    \b
    Examples:
      turbo cancel my_task_1 t_5f3
      turbo cancel --queue night --status pending,scheduled
      turbo cancel --graph my_task_1
    """
    with connect(dsn) as client:
        criteria = _filter(client, task_ids, status, queue, task_type, worker, None, since, text, LIVE)
        if graph:
            _by_graph(client, task_ids, "cancel", lambda c, ids: c.cancel(ids, graph=True), as_json=as_json)
        elif criteria is not None:
            _by_filter(client, criteria, "cancel", lambda c, ids: c.cancel(ids), yes=yes, as_json=as_json)
        else:
            _by_id(client, task_ids or [], "cancel", "nothing to cancel", lambda c, ids: c.cancel(ids), as_json=as_json)


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
    graph: Annotated[
        bool,
        typer.Option(
            "--graph", help="All tasks that hang together with these and did not complete: turbo graph ID shows them."
        ),
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Run finished tasks again, by id or by filter.

    Each task starts over with its first attempt. A filter selects failed tasks only, unless --status is given. Tasks that
    were cancelled because of a need wait for it again once it is retried.

    A task that has asked a person can go on only on the host that has its conversation. If that host is gone, --anew lets
    it begin a new conversation on any host, with its questions and answers in the prompt.

    \b
    Examples:
      turbo retry my_task_1
      turbo retry --failure-kind usage_limit --since 1d
      turbo retry --status failed,cancelled --queue night --yes
      turbo retry --anew my_task_1
      turbo retry --graph my_task_1
    """
    if graph and anew:
        raise typer.BadParameter("give either --graph or --anew: a graph keeps its conversations")
    possible = (*RESTING, *FINISHED) if anew else FINISHED
    with connect(dsn) as client:
        criteria = _filter(client, task_ids, status, queue, task_type, worker, failure_kind, since, text, possible)
        if graph:
            _by_graph(client, task_ids, "retry", lambda c, ids: c.retry(ids, graph=True), as_json=as_json)
        elif criteria is not None:
            if status is None:
                criteria = replace(criteria, statuses=(TaskState.FAILED,))
            _by_filter(client, criteria, "retry", lambda c, ids: c.retry(ids, anew=anew), yes=yes, as_json=as_json)
        else:
            _by_id(
                client,
                task_ids or [],
                "retry",
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
    dependents = _dependents(client, task_ids)
    told = f" {_told(dependents, verb, 'them')}." if _counted(dependents, verb) else ""
    confirm(f"{verb} {output.many(len(task_ids), 'task')} ({', '.join(criteria.statuses or ())})?{told}", yes=yes)
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
    _tell(dependents, verb, "them")
    output.echo(f"{'cancelled' if verb == 'cancel' else 'retried'} {len(changed)}{more}{late}")


def _by_id(client: "Client", given: Sequence[str], verb: str, otherwise: str, change: Change, *, as_json: bool) -> None:
    """One line per id; exit 1 if any could not be changed."""
    from turbo.cli.selection import resolved
    from turbo.client.client import UnknownTask

    task_ids, refused = resolved(client, given)
    dependents = _dependents(client, task_ids)
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
        if changed:
            _tell(dependents, verb, "it" if len(changed) == 1 else "them")
        for task_id, why in refused.items():
            output.notice(f"{task_id}: {why}")
    if refused:
        raise typer.Exit(1)


def _by_graph(client: "Client", given: Sequence[str] | None, verb: str, change: Change, *, as_json: bool) -> None:
    """All tasks of the graphs of these ids; exit 1 if there is nothing to do."""
    from turbo.cli.selection import resolved

    if not given:
        raise typer.BadParameter("--graph needs task ids")
    task_ids, refused = resolved(client, given)
    changed = change(client, task_ids) if task_ids else []
    if task_ids and not changed:
        what = "is unfinished" if verb == "cancel" else "failed or was cancelled"
        refused |= dict.fromkeys(task_ids, f"no task of its graph {what}: nothing to {verb}")
    if as_json:
        output.print_json({"changed": [asdict(task) for task in changed], "refused": refused})
    else:
        stopping = sum(task.status == TaskState.RUNNING for task in changed)
        more = f", {stopping} of them once their agents have stopped" if stopping else ""
        if changed:
            output.echo(f"{'cancelled' if verb == 'cancel' else 'retried'} {output.many(len(changed), 'task')}{more}")
        for task_id, why in refused.items():
            output.notice(f"{task_id}: {why}")
    if refused:
        raise typer.Exit(1)


def _dependents(client: "Client", task_ids: Sequence[str]) -> "Dependents | None":
    """What hangs on these tasks. None: this role may not see it."""
    import psycopg

    try:
        return client.dependents(task_ids)
    except psycopg.errors.InsufficientPrivilege:
        return None


def _counted(found: "Dependents | None", verb: str) -> int:
    return 0 if found is None else found.blocked if verb == "cancel" else found.cancelled


def _told(found: "Dependents | None", verb: str, whom: str) -> str:
    count = _counted(found, verb)
    number = f"{'over ' if found is not None and found.more else ''}{output.many(count, 'task')}"
    one = count == 1
    if verb == "cancel":
        return f"{number} that {'waits' if one else 'wait'} for {whom} {'is' if one else 'are'} cancelled, too"
    return f"{number} that {'was' if one else 'were'} cancelled because of {whom} {'waits' if one else 'wait'} for {whom} again"


def _tell(found: "Dependents | None", verb: str, whom: str) -> None:
    if _counted(found, verb):
        output.notice(_told(found, verb, whom))
