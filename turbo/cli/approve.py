"""`turbo approve` and `turbo deny`: calls that wait for an approval, and tasks that are held.

What is approved is shown whole first, and only what was shown is approved: a task that asks something else by then is left out.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import asked, output
from turbo.cli.options import (
    Dsn,
    Json,
    QuestionKinds,
    QueueOption,
    SinceAskedOption,
    TextOption,
    TypeOption,
    WaitingIds,
    WorkerOption,
    Yes,
    connect,
)
from turbo.domain.question import QuestionKind
from turbo.domain.states import TaskState

if TYPE_CHECKING:
    from turbo.client.client import Changed, Client, OpenQuestion

Answering = Callable[["Client", "Sequence[OpenQuestion]"], "list[Changed]"]

AT_ONCE = 500
MEANWHILE = "it was answered meanwhile, or asks something else"
ANSWERED = (QuestionKind.APPROVAL.value, QuestionKind.HOLD.value)


def approve(
    task_ids: WaitingIds = None,
    queue: QueueOption = None,
    task_type: TypeOption = None,
    kind: QuestionKinds = None,
    worker: WorkerOption = None,
    since: SinceAskedOption = None,
    text: TextOption = None,
    always: Annotated[
        bool, typer.Option("--always", help="Approve every call of this task that the same rule holds.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Approve a call that a task waits for, or release a hold.

    The call is shown whole first. At a terminal, a confirmation is asked for.

    \b
    Examples:
      turbo approve my_task_1
      turbo approve my_task_1 --always
      turbo approve --kind hold --queue night --yes
    """
    with connect(dsn) as client:
        shown, refused, by_filter = _selected(client, task_ids, queue, task_type, kind, worker, since, text)
        if always:
            shown, refused = _without_holds(shown, refused)
        if not _at_a_terminal():  # nothing is shown to nobody
            _confirm(f"approve {_what(shown)}?", len(shown), by_filter, yes)
        shown = _shown_whole(client, shown, refused)
        _confirm(f"approve {_what(shown)}?", len(shown), by_filter, yes)
        _answer(client, shown, refused, "approved", lambda c, some: c.approve(some, always=always), as_json=as_json)


def deny(
    task_ids: WaitingIds = None,
    queue: QueueOption = None,
    task_type: TypeOption = None,
    kind: QuestionKinds = None,
    worker: WorkerOption = None,
    since: SinceAskedOption = None,
    text: TextOption = None,
    because: Annotated[str | None, typer.Option("--because", "-b", help="The reason; the agent gets it.")] = None,
    yes: Yes = False,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Deny a call that a task waits for, or cancel a held task.

    After a denial the agent goes on without the call, and is told the reason.

    \b
    Examples:
      turbo deny my_task_1 --because "the branch is protected"
      turbo deny --kind approval --text "git push --force" --yes
    """
    with connect(dsn) as client:
        shown, refused, by_filter = _selected(client, task_ids, queue, task_type, kind, worker, since, text)
        if by_filter:
            _confirm(f"deny {_what(shown)}?", len(shown), by_filter, yes)
        _answer(client, shown, refused, "denied", lambda c, some: c.deny(some, because), as_json=as_json)


def _selected(
    client: "Client",
    task_ids: list[str] | None,
    queue: str | None,
    task_type: str | None,
    kind: list[str] | None,
    worker: str | None,
    since: str | None,
    text: str | None,
) -> "tuple[list[OpenQuestion], dict[str, str], bool]":
    """What is to be answered, why some ids are not, and whether a filter chose them. Raises BadParameter."""
    from turbo.cli.selection import kinds, resolved, task_filter

    filtered = any(option is not None for option in (queue, task_type, kind, worker, since, text))
    if filtered == bool(task_ids):
        raise typer.BadParameter("give either task ids or filter options (--kind, --queue, ...)")
    wanted = kinds(kind) or ANSWERED
    if QuestionKind.QUESTION.value in wanted:
        raise typer.BadParameter("--kind question: must be approval or hold; a question takes turbo answer ID")
    if filtered:
        criteria = task_filter(client, None, queue, task_type, worker, None, since, text)
        return client.questions(criteria, kinds=wanted, limit=None, whole=False), {}, True
    whole, refused = resolved(client, task_ids or [])
    found = {one.task_id: one for one in client.questions(task_ids=whole, limit=None, whole=False)} if whole else {}
    for task_id in whole:
        if task_id not in found:
            refused[task_id] = f"it is {client.get(task_id).status}: only waiting tasks can be answered"
        elif found[task_id].kind not in wanted:
            refused[task_id] = f"it asks a question: {asked.command(task_id, QuestionKind.QUESTION)}"
    return [found[task_id] for task_id in whole if task_id in found and task_id not in refused], refused, False


def _shown_whole(client: "Client", selected: "Sequence[OpenQuestion]", refused: dict[str, str]) -> "list[OpenQuestion]":
    """Print them, and return what was printed. One hold is read at a time, and let go of: it may be large."""
    shown = []
    for number, one in enumerate(selected):
        if one.kind == QuestionKind.HOLD:
            (whole,) = client.questions(task_ids=[one.task_id], limit=1) or (None,)
            if whole is None or whole.kind != one.kind:
                refused[one.task_id] = MEANWHILE
                continue
        else:
            whole = one
        if number:
            output.notice("")
        asked.print_whole(whole)
        shown.append(replace(one, key=whole.key))
    return shown


def _without_holds(shown: "list[OpenQuestion]", refused: dict[str, str]) -> "tuple[list[OpenQuestion], dict[str, str]]":
    why = "it is held: release it without --always"
    held = {one.task_id: why for one in shown if one.kind == QuestionKind.HOLD}
    return [one for one in shown if one.task_id not in held], {**refused, **held}


def _what(shown: "Sequence[OpenQuestion]") -> str:
    calls = sum(one.kind == QuestionKind.APPROVAL for one in shown)
    held = len(shown) - calls
    parts = [output.many(calls, "call")] if calls else []
    parts += [output.many(held, "held task")] if held else []
    return " and ".join(parts)


def _confirm(question: str, count: int, by_filter: bool, yes: bool) -> None:
    """By ids: only at a terminal, where somebody reads what is shown. By a filter: as every command that changes many."""
    from turbo.cli.selection import confirm

    if count and (by_filter or _at_a_terminal()):
        confirm(question, yes=yes)


def _at_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _answer(
    client: "Client",
    shown: "Sequence[OpenQuestion]",
    refused: dict[str, str],
    done: str,
    answering: Answering,
    *,
    as_json: bool,
) -> None:
    """One line per task; exit 1 if any could not be answered."""
    changed: list[Changed] = []
    for start in range(0, len(shown), AT_ONCE):
        changed += answering(client, shown[start : start + AT_ONCE])
    answered = {task.task_id for task in changed}
    refused |= {one.task_id: MEANWHILE for one in shown if one.task_id not in answered}
    if as_json:
        output.print_json({"changed": [asdict(task) for task in changed], "refused": refused})
    else:
        held = {one.task_id for one in shown if one.kind == QuestionKind.HOLD}
        for task in changed:
            what = (
                done if task.task_id not in held else "cancelled" if task.status == TaskState.CANCELLED else "released"
            )
            output.echo(f"{task.task_id}: {what}")
        for task_id, why in refused.items():
            output.notice(f"{task_id}: {why}")
        if not shown and not refused:
            output.notice("no matching task waits for this")
    if refused:
        raise typer.Exit(1)
