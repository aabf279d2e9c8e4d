"""Which tasks: by the filter options that `tasks`, `questions`, `cancel`, `retry`, … share, or by ids and prefixes of ids."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from turbo.cli import output, timestamps
from turbo.client.timestamps import TimestampReader

if TYPE_CHECKING:
    from turbo.client.client import Client, TaskFilter


def statuses(given: Sequence[str] | None) -> tuple[str, ...] | None:
    """The statuses in --status. Raises BadParameter for an unknown one."""
    from turbo.domain.states import TaskState

    if not given:
        return None
    words = [word.strip() for part in given for word in part.split(",") if word.strip()]
    known = [state.value for state in TaskState]
    for word in words:
        if word not in known:
            raise typer.BadParameter(f"--status {word!r}: must be one of {', '.join(known)}")
    return tuple(dict.fromkeys(words))


def kinds(given: Sequence[str] | None) -> tuple[str, ...] | None:
    """The kinds in --kind. Raises BadParameter for an unknown one."""
    from turbo.domain.question import QuestionKind

    if not given:
        return None
    words = [word.strip() for part in given for word in part.split(",") if word.strip()]
    known = [kind.value for kind in QuestionKind]
    for word in words:
        if word not in known:
            raise typer.BadParameter(f"--kind {word!r}: must be one of {', '.join(known)}")
    return tuple(dict.fromkeys(words))


def task_filter(
    client: "Client",
    status: Sequence[str] | None,
    queue: str | None,
    task_type: str | None,
    worker: str | None,
    failure_kind: str | None,
    since: str | None,
    text: str | None,
) -> "TaskFilter":
    """The filter that the options give. Raises BadParameter."""
    from turbo.client.client import TaskFilter
    from turbo.domain.outcome import FailureKind

    kinds = [kind.value for kind in FailureKind]
    if failure_kind is not None and failure_kind not in kinds:
        raise typer.BadParameter(f"--failure-kind {failure_kind!r}: must be one of {', '.join(kinds)}")
    return TaskFilter(
        statuses=statuses(status),
        queue=queue,
        task_type=task_type,
        worker=worker,
        failure_kind=failure_kind,
        since=timestamps.option(TimestampReader(client), "--since", since),
        text=text,
    )


def resolved(client: "Client", given: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The full ids, each once; and the reason for each text that is not an id."""
    from turbo.client.client import AmbiguousTask, UnknownTask

    task_ids: list[str] = []
    refused: dict[str, str] = {}
    for text in given:
        try:
            task_ids.append(client.resolve(text))
        except UnknownTask:
            refused[text] = "no such task"
        except AmbiguousTask as error:
            refused[text] = str(error)
    return list(dict.fromkeys(task_ids)), refused


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation. Without a terminal to ask at, raise BadParameter."""
    import sys

    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise typer.BadParameter(f"{question} Nothing was changed: give --yes to confirm")
    if not typer.confirm(output.visible(question), err=True):
        output.notice("nothing was changed")
        raise typer.Exit(1)
