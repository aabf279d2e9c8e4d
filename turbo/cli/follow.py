"""Wait for tasks at a terminal: progress goes to standard error, and Ctrl-C leaves the tasks running."""

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from math import inf
from typing import TYPE_CHECKING, Any

import typer

from turbo.cli import asked, output, timestamps
from turbo.domain.states import TaskState

if TYPE_CHECKING:
    from turbo.client.client import Client, TaskStatus

LOOK_FOR_WORKERS_AFTER = 1.0
WONDER_AFTER = 10.0
QUESTIONS_SHOWN = 20
INTERRUPTED = 130


def follow(client: "Client", task_ids: Sequence[str]) -> Counter[str]:
    """Wait for all tasks and count how they ended. On Ctrl-C, print how to continue and exit 130."""
    try:
        return _followed(client, task_ids)
    except KeyboardInterrupt:
        what = task_ids[0] if len(task_ids) == 1 else "ID"
        which = f"task {what} continues" if len(task_ids) == 1 else f"{len(task_ids)} tasks continue"
        output.notice(f"stopped waiting; {which}. See it with turbo show {what}, cancel it with turbo cancel {what}")
        raise typer.Exit(INTERRUPTED) from None


def _followed(client: "Client", task_ids: Sequence[str]) -> Counter[str]:
    ended: Counter[str] = Counter()
    doubts = _Doubts(client)
    questions = _Questions(client, alone=len(task_ids) == 1)
    told = False
    live = sys.stderr.isatty()
    shown = output.console(stderr=True).status("", spinner="dots") if live else nullcontext()
    with shown as status:
        for tasks in client.follow(task_ids, away=_away):
            for task in tasks:
                if task.finished:
                    ended[task.status] += 1
                elif task.status == TaskState.WAITING:
                    questions.about(task)
                elif task.blocked is not None and not told and (task.seconds or 0.0) > LOOK_FOR_WORKERS_AFTER:
                    told = True
                    output.notice(
                        f"{task.task_id} is blocked: {task.blocked} (turbo graph {shlex.quote(task.task_id)})"
                    )
                elif (
                    task.seconds is not None
                    and task.status == TaskState.PENDING
                    and task.seconds > LOOK_FOR_WORKERS_AFTER
                ):
                    doubts.about(task.queue, task.seconds)
            if status is not None:
                status.update(_line(tasks, ended, len(task_ids)))
    return ended


def _line(tasks: "Sequence[TaskStatus]", ended: Counter[str], total: int) -> Any:
    """The state of all tasks, on one line."""
    from rich.text import Text

    room = max(20, output.console(stderr=True).width - 3)
    if total > 1:
        counts = Counter(task.status for task in tasks if not task.finished) + ended
        text = f"{sum(ended.values())} of {total} ended: " + ", ".join(
            f"{n} {state}" for state, n in sorted(counts.items())
        )
    else:
        task = tasks[0]
        text = f"{output.one_line(task.task_id)}  {'being stopped' if task.stopping else task.status}"
        if task.seconds is not None and not task.finished:
            text += (
                f" in {timestamps.duration(-task.seconds)}"
                if task.seconds < 0
                else f" {timestamps.duration(task.seconds)}"
            )
        if task.assigned_worker_id:
            text += f" on {output.one_line(task.assigned_worker_id)}"
        if task.last_line:
            text += f"  {output.one_line(task.last_line)}"
    return Text(text if len(text) <= room else text[: room - 1] + "…")


class _Doubts:
    """Explains why a task may be waiting: once for each queue, and once more if the wait continues."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._next: dict[str, float] = {}

    def about(self, queue: str, seconds: float) -> None:
        if seconds < self._next.get(queue, 0.0):
            return
        first = queue not in self._next
        self._next[queue] = WONDER_AFTER if first else inf
        served, paused = self._client.served(queue)
        if paused:
            output.notice(f"queue {queue} is paused: the task waits until `turbo resume --queue {queue}`")
        elif not served:
            output.notice(f"no live worker serves queue {queue}: the task waits until one does (see turbo status)")
        elif not first:
            output.notice(
                f"queue {queue} is served, but the task still waits: every slot may be busy, its concurrency key in use, its "
                "account paused (turbo status), or its executor's program missing (turbo doctor --config FILE)"
            )


class _Questions:
    """Shows what a task asks, once: whole if it is the only one that is waited for, else its first line."""

    def __init__(self, client: "Client", *, alone: bool) -> None:
        self._client = client
        self._alone = alone
        self._shown: set[tuple[str, datetime | None]] = set()

    def about(self, task: "TaskStatus") -> None:
        if task.question is None or (task.task_id, task.asked_at) in self._shown:
            return
        self._shown.add((task.task_id, task.asked_at))
        if self._alone and (found := self._client.questions(task_ids=[task.task_id], limit=1)):
            output.notice("the task waits for a person:")
            asked.print_whole(found[0])
        elif len(self._shown) <= QUESTIONS_SHOWN:
            what, how = output.one_line(task.question), asked.command(task.task_id, task.kind)
            output.notice(f"{task.task_id} waits for a person: {what} ({how})")
        elif len(self._shown) == QUESTIONS_SHOWN + 1:
            output.notice("more tasks wait for a person: turbo questions")


def _away(error: BaseException | None) -> None:
    from turbo import db
    from turbo.observability.log import scrub

    output.notice(
        "the database is back"
        if error is None
        else f"the database is away, waiting: {scrub(db.why_unreachable(error))}"
    )
