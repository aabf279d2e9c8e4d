"""The user's side of the queue, blocking: submit, read, wait, cancel, retry, pause. `AsyncClient` is the asynchronous version.

Everything here could be done in psql: `agent_tasks` is the API, and cancel and retry are the documented hand edits. The client
adds types, waiting and error messages. Its queries are in turbo.client.operations. It uses one connection: its own, or the
caller's (a submit inside the caller's transaction is then part of it).
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString

import psycopg

from turbo.client import (
    answering,
    files,
    operations,
    paging,
    placement,
    snapshot,
    task_version,
    transcript,
    transcript_page,
    usage,
    waiting,
    work,
)
from turbo.client.answering import Answer, Waiting
from turbo.client.budgets import Budgets
from turbo.client.costs import LINES, CostLine, Costs, CostsBy, UnknownTimezone, costs
from turbo.client.driver import Driver
from turbo.client.files import StoredFile
from turbo.client.fleet_status import FleetStatus, RunningLine
from turbo.client.graph import (
    EDGES,
    NODES,
    Blocked,
    Dependents,
    Graph,
    GraphEdge,
    GraphNode,
    MessageLine,
    Refused,
    Related,
    Relations,
    Told,
)
from turbo.client.limits import KeyLimits
from turbo.client.models import (
    Action,
    AmbiguousTask,
    Changed,
    RunView,
    Submitted,
    TaskFilter,
    TaskLine,
    TaskRow,
    TaskStatus,
    UnknownTask,
)
from turbo.client.new_task import BadField, NewTask
from turbo.client.operations import Away
from turbo.client.paging import START, Cursor, TaskPage
from turbo.client.placement import Place
from turbo.client.questions import AnswerRefused, MayNotAnswer, NotWaiting, OpenQuestion
from turbo.client.schedules import Schedules
from turbo.client.subscriptions import Subscriptions
from turbo.client.task_version import TaskVersion
from turbo.client.throughput import DAY, HOUR, Throughput, throughput
from turbo.client.transcript import TranscriptBell, TranscriptLine
from turbo.client.transcript_page import TranscriptPart
from turbo.client.usage import RunUsage
from turbo.domain.kept import DIFF_PATH

__all__ = [
    "Action",
    "AmbiguousTask",
    "AnswerRefused",
    "BadField",
    "Blocked",
    "Changed",
    "Client",
    "CostLine",
    "Costs",
    "CostsBy",
    "Dependents",
    "Graph",
    "GraphEdge",
    "GraphNode",
    "MayNotAnswer",
    "MessageLine",
    "NewTask",
    "NotWaiting",
    "OpenQuestion",
    "Refused",
    "Related",
    "Relations",
    "RunView",
    "StoredFile",
    "Submitted",
    "TaskFilter",
    "TaskLine",
    "TaskRow",
    "TaskStatus",
    "Told",
    "TranscriptLine",
    "UnknownTask",
    "UnknownTimezone",
]


class Client(Driver):
    """`with Client(dsn) as client: …`, or `Client(connection=…)` on a psycopg connection of yours.

    Without a DSN: TURBO_DSN, else libpq's PG* variables. If the client's own connection is lost, the next call opens another.
    Your connection is used as it is: not closed, not reconnected, not configured; every call is part of its transaction.
    One thread at a time may use a client. Raises psycopg.Error.
    """

    # ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(
        self,
        text: str,
        *,
        task_id: str | None = None,
        task_type: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        run_after: datetime | str | None = None,
        input_data: object = None,
        timeout_seconds: int | None = None,
        max_retries: int | None = None,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        hold: bool = False,
        needs: Sequence[str] | None = None,
        on_needs_failed: str | None = None,
        continues: str | None = None,
        parent_task_id: str | None = None,
        requires: Mapping[str, str | int | float | bool] | None = None,
        traceparent: str | None = None,
    ) -> Submitted:
        """Insert a task. `created` is False if the idempotency key already had one.

        `run_after` is a datetime, or text that PostgreSQL reads as a timestamp ('tomorrow 06:00'). Raises BadField for an invalid
        value, and psycopg.errors.CheckViolation for a row that the database rejects; its hint has the remedy. A task in `needs`
        or `continues` that is not there: psycopg.errors.ForeignKeyViolation. Labels in `requires`
        while an older worker serves the queue: psycopg.errors.ObjectNotInPrerequisiteState.
        """
        task = NewTask(
            text,
            task_id=task_id,
            task_type=task_type,
            queue=queue,
            task_priority=priority,
            run_after=run_after,
            input_data=input_data,
            timeout_seconds=timeout_seconds,
            max_retries=max_retries,
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            hold=hold or None,
            needs=needs,
            on_needs_failed=on_needs_failed,
            continues=continues,
            parent_task_id=parent_task_id,
            requires=requires,
            traceparent=traceparent,
        )
        return self._run(operations.submit(task))

    def submit_many(self, tasks: Sequence[NewTask]) -> list[Submitted]:
        """Insert tasks in one statement, all or none. The answers are in the order of the tasks. Raises psycopg.Error."""
        return self._run(operations.submit_many(tasks))

    def get(self, task_id: str) -> TaskRow:
        """One task, with every column. Raises UnknownTask."""
        return self._run(operations.get(task_id))

    def run(self, task_id: str) -> RunView:
        """The task's latest run, and its last output. Raises UnknownTask."""
        return self._run(operations.run(task_id))

    def transcript(self, task_id: str, *, after: tuple[int, int] = transcript.START) -> Iterator[TranscriptLine]:
        """What the agents of a task said and did, line by line, of all its runs in their order: what is stored now. `after`: the
        `fencing_token` and the `batch` of the last line that you have. Nothing for a task that has no transcript.
        Raises psycopg.errors.InsufficientPrivilege for a role that may not read it."""
        return self._stream(transcript.lines(task_id, after))

    def transcript_bell(self, task_id: str) -> TranscriptBell:
        """Rings when there are new lines. It opens a connection of its own."""
        return TranscriptBell(self._listen_dsn or self._dsn, task_id)

    def usage(self, task_id: str) -> list[RunUsage]:
        """What its runs used, in their order: at most 200 rows."""
        return self._run(usage.usage(task_id))

    def task_version(self, task_id: str, *, messages: bool = False) -> TaskVersion:
        """Tells whether a task has changed since, or the `messages` to it, at next to no cost. Raises UnknownTask."""
        return self._run(task_version.version(task_id, messages=messages))

    def transcript_page(
        self, task_id: str, *, since: tuple[int, int] | None = None, before: tuple[int, int] | None = None
    ) -> TranscriptPart:
        """About half a megabyte of a transcript: its end, what is `before` a batch, or what has come `since` one. A batch is named by
        its `fencing_token` and `batch`."""
        if since is not None:
            return self._run(transcript_page.since(task_id, since))
        return self._run(transcript_page.before(task_id, before))

    def transcript_batch(self, task_id: str, place: tuple[int, int]) -> str | None:
        """The lines of one batch of a transcript, whole; None: there is no such batch."""
        return self._run(transcript_page.batch(task_id, place))

    def files(self, task_id: str) -> list[StoredFile]:
        """The files of a task's last run that left any; `.turbo/diff.patch` is its diff.
        Raises psycopg.errors.InsufficientPrivilege for a role that may not read them."""
        return self._run(files.files(task_id))

    def file(self, task_id: str, path: str) -> bytes | None:
        """The content of one of `files`; None: there is no such file."""
        return self._run(files.file(task_id, path))

    def diff(self, task_id: str) -> bytes | None:
        """What the last run had changed in its workspace when it ended, as far as it was kept: at most 1 MiB."""
        return self._run(files.file(task_id, DIFF_PATH))

    def database_id(self) -> str | None:
        """The identity of the database, to which workers tie what they keep on disk; None where its schema is from before."""
        return self._run(operations.database_id())

    def trail(self, task_id: str) -> list[Action]:
        """The task's audit trail, oldest first."""
        return self._run(operations.trail(task_id))

    def resolve(self, prefix: str) -> str:
        """The full id for an id or a unique prefix. Raises UnknownTask, AmbiguousTask."""
        return self._run(operations.resolve(prefix))

    def newest_ids(self, prefix: str, limit: int = 50) -> list[str]:
        """Ids with this prefix, newest tasks first, for shell completion."""
        return self._run(operations.newest_ids(prefix, limit))

    def waiting_ids(self, prefix: str, kinds: Sequence[str] | None = None, limit: int = 50) -> list[str]:
        """Ids with this prefix of tasks that wait for a person, the longest first, for shell completion. `kinds`: question,
        approval, hold."""
        return self._run(operations.waiting_ids(prefix, kinds, limit))

    def tasks(
        self,
        criteria: TaskFilter | None = None,
        *,
        status: str | None = None,
        queue: str | None = None,
        limit: int | None = 50,
    ) -> list[TaskLine]:
        """The newest matching tasks. `limit` None: all of them."""
        chosen = criteria or TaskFilter(statuses=(status,) if status else None, queue=queue)
        return self._run(operations.tasks(chosen, limit))

    def task_page(self, criteria: TaskFilter, after: Cursor = START, limit: int = 50) -> TaskPage:
        """A page of the tasks that match: unfinished ones, then those that ended, newest first. `after`: `next` of the page before."""
        return self._run(paging.page(criteria, after, limit))

    def task_ids(
        self, criteria: TaskFilter, after: Cursor = START, limit: int = 500
    ) -> tuple[list[str], Cursor | None]:
        """The ids of a page, and where the next one begins."""
        return self._run(paging.ids(criteria, after, limit))

    def task_count(self, criteria: TaskFilter, most: int = 1_000_000) -> int:
        """How many tasks match, counted up to `most`."""
        return self._run(paging.count(criteria, most))

    def cancel(self, task_ids: str | Sequence[str], *, graph: bool = False) -> list[Changed]:
        """Cancel unfinished tasks. Unknown and finished ids are not in the answer.

        `graph`: all unfinished tasks that hang together with these (see `graph`), in one statement. Raises UnknownTask then.
        """
        steps = work.change_graph("cancel", task_ids) if graph else operations.change("cancel", task_ids)
        return self._run(steps)

    def retry(self, task_ids: str | Sequence[str], *, anew: bool = False, graph: bool = False) -> list[Changed]:
        """Run finished tasks again. Unknown and unfinished ids are not in the answer.

        `anew`: forget the agent's conversation, and the host that has it. The next run begins a new one, on any host; a task that
        waits or rests is changed, too, and keeps its status. `graph`: all tasks that hang together with these and failed or were
        cancelled, in one statement; not together with `anew`. Raises UnknownTask then.
        """
        if graph and anew:
            raise ValueError("graph and anew together: a graph keeps its conversations")
        verb = "retry_anew" if anew else "retry"
        return self._run(work.change_graph(verb, task_ids) if graph else operations.change(verb, task_ids))

    # ── graphs, follow-ups, messages ────────────────────────────────────────────────────────────────────────────────

    def graph(self, task_id: str, *, nodes: int | None = NODES, edges: int | None = EDGES) -> Graph:
        """All tasks that hang together with this one, by what they need and by their conversations, with their states.

        At most so many `nodes`, the nearest first, and `edges`; None: all. Raises UnknownTask.
        """
        return self._run(work.graph(task_id, nodes, edges))

    def dependents(self, task_ids: str | Sequence[str]) -> Dependents:
        """How many tasks would not run without these, at any depth. Counts up to 10,000."""
        return self._run(work.dependents(task_ids))

    def blocked(self, task_ids: str | Sequence[str]) -> list[Blocked]:
        """For what these tasks wait; those that are not blocked are not in the answer."""
        return self._run(work.blocked(operations.listed(task_ids)))

    def relations(self, task_id: str) -> Relations:
        """What a task needs, what needs it, and its conversation, with their states: a few of each, without what lies behind them."""
        return self._run(work.relations(task_id))

    def directory_id(self, task_id: str) -> str:
        """The task whose directory and worktree this one works in: the first of its conversation, or itself."""
        return self._run(work.directory_id(task_id))

    def reply(
        self,
        task_id: str,
        text: str,
        *,
        new_id: str | None = None,
        priority: int | None = None,
        run_after: datetime | str | None = None,
        input_data: object = None,
        idempotency_key: str | None = None,
        hold: bool = False,
    ) -> Submitted:
        """Insert a follow-up: a task that goes on with the conversation and the directory of `task_id`, once it is its turn.

        `new_id`: the follow-up's own id. Type, queue and time limit are those of `task_id`. Raises UnknownTask, Refused (that task
        never ran and never will; the text says what to do), BadField.
        """
        task = NewTask(
            text,
            task_id=new_id,
            task_priority=priority,
            run_after=run_after,
            input_data=input_data,
            idempotency_key=idempotency_key,
            hold=hold or None,
            continues=task_id,
        )
        return self._run(work.reply(task))

    def tell(self, task_id: str, text: str) -> Told:
        """Give a message to a task that is not over. A running agent gets it where its CLI takes one, at its end at the latest.

        It may be delivered twice after a crash, and is never lost. At most 256 KiB. Raises UnknownTask, Refused (the task is over:
        `reply` goes on with its conversation), BadField.
        """
        return self._run(work.tell(task_id, text))

    def messages(self, task_id: str) -> list[MessageLine]:
        """What people told this task: the newest 100, in their order."""
        return self._run(work.messages(task_id))

    # ── questions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def questions(
        self,
        criteria: TaskFilter | None = None,
        *,
        kinds: Sequence[str] | None = None,
        task_ids: Sequence[str] | None = None,
        queue: str | None = None,
        limit: int | None = 50,
        whole: bool = True,
    ) -> list[OpenQuestion]:
        """Who waits for a person, the longest first. `kinds`: only question, approval or hold. `limit` None: all of them. `whole`
        False: without all that holds release, which may be hundreds of megabytes.

        Of `criteria`, `since` is when the task asked, `text` may be in the question, and statuses and failure_kind do not count.
        """
        chosen = criteria or TaskFilter(queue=queue)
        return self._run(answering.questions(chosen, kinds, task_ids, limit, whole=whole))

    def answer(self, task: Waiting, answer: Answer) -> Changed:
        """Answer what a task asks. It goes on at once: the task is pending then.

        `answer`: text, or one of the options' labels; where several questions were asked, a mapping from their exact texts. `task`:
        its id, or its OpenQuestion: then the answer counts only if it still asks just that. Raises UnknownTask, NotWaiting (another
        answer was first), AnswerRefused (its message shows the form), MayNotAnswer, BadField.
        """
        return self._run(answering.answer(task, answer))

    def approve(self, tasks: Waiting | Sequence[Waiting], *, always: bool = False) -> list[Changed]:
        """Say yes to approvals and holds. `always`: to every call of this task that the same rule holds; not for holds.

        Several tasks are one statement, all or none; those that do not wait for this are not in the answer. One task, given
        as such: raises UnknownTask, NotWaiting. Raises AnswerRefused, MayNotAnswer.
        """
        return self._run(answering.approve(tasks, always=always))

    def deny(self, tasks: Waiting | Sequence[Waiting], because: str | None = None) -> list[Changed]:
        """Say no to approvals and holds. The agent gets the reason, and goes on; a task that was held is cancelled.

        Several tasks, and errors: as for `approve`.
        """
        return self._run(answering.deny(tasks, because))

    def wait(self, task_id: str, timeout: float | None = None) -> TaskRow:
        """Wait until the task is finished, however it ends. Raises TimeoutError after `timeout` seconds, UnknownTask.

        A task that asks a person is not finished: `wait` goes on until it has been answered and has ended. It waits through an
        outage of the database. Your own connection must be in autocommit mode and outside a transaction, because
        a task is claimed only after its commit; else RuntimeError.
        """
        for _ in self.follow(task_id, timeout):
            pass
        return self.get(task_id)

    def follow(
        self, task_ids: str | Sequence[str], timeout: float | None = None, away: Away | None = None
    ) -> Iterator[list[TaskStatus]]:
        """Until all are finished. Yields the status of those that were unfinished at the previous look.

        A status says what a task asks a person, if it does. Waits through an outage of the database, unless the connection is
        the caller's: calls `away(error)` when the outage starts and `away(None)` when it ends. Raises TimeoutError after
        `timeout` seconds, UnknownTask for a deleted task, and RuntimeError as `wait` does.
        """
        self._check_may_wait()
        return self._stream(waiting.follow(task_ids, timeout, patient=self._owns, away=away))

    def progress(self, task_id: str, timeout: float | None = None, away: Away | None = None) -> Iterator[RunView]:
        """Yield the task's run whenever its status, last line or tokens change, at most once a second.

        Ends when the task is finished; later attempts are followed too. `away` and exceptions: as for `follow`.
        """
        self._check_may_wait()
        return self._stream(waiting.progress(task_id, timeout, patient=self._owns, away=away))

    def refused(self, tasks: Sequence[NewTask]) -> tuple[int, psycopg.Error] | None:
        """The first task that the database rejects, by its position, and the error. Inserts each and rolls everything back."""
        with self._connection.transaction(force_rollback=True):
            for number, task in enumerate(tasks):
                try:
                    with self._connection.transaction():
                        self.submit_many([task])
                except psycopg.Error as error:
                    if self._connection.broken:
                        raise
                    return number, error
        return None

    @property
    def schedules(self) -> Schedules:
        """Work that repeats: add, list, get, pause, resume, run, remove."""
        return Schedules(self._run)

    @property
    def budgets(self) -> Budgets:
        """What runs may use: set, list, get, remove."""
        return Budgets(self._run)

    @property
    def limits(self) -> KeyLimits:
        """How many tasks of a concurrency_key run at a time: set, list, get, remove."""
        return KeyLimits(self._run)

    @property
    def subscriptions(self) -> Subscriptions:
        """Who is told what happened: add, list, get, pause, resume, remove."""
        return Subscriptions(self._run)

    # ── queues, accounts, the fleet ─────────────────────────────────────────────────────────────────────────────────

    def place(self, task_id: str) -> Place | None:
        """Where the task may run: which workers have the labels that it requires, and the host that it waits for. None: no such task,
        or this role may not see it."""
        return self._run(placement.place(task_id))

    def served(self, queue: str) -> tuple[bool, bool]:
        """Whether a live worker serves `queue`, and whether it is paused."""
        return self._run(operations.served(queue))

    def pause_queue(self, queue: str, reason: str | None = None) -> bool:
        """Stop claiming from `queue`; running tasks continue. Safe to repeat. False: it was already paused."""
        return self._run(operations.pause_queue(queue, reason))

    def resume_queue(self, queue: str) -> bool:
        """Start claiming from `queue` again. False: it was not paused."""
        return self._run(operations.resume_queue(queue))

    def pause_account(self, account: str, reason: str | None = None) -> None:
        """Stop claiming tasks that need the account, on every host, until it is resumed."""
        self._run(operations.pause_account(account, reason))

    def resume_account(self, account: str) -> bool:
        """Open the account on every host, whether a user or turbo paused it. False: it was open."""
        return self._run(operations.resume_account(account))

    def account_used(self, account: str) -> bool:
        """Whether a live worker uses it."""
        return self._run(operations.account_used(account))

    def fleet(self) -> FleetStatus:
        """The current workers, queues and accounts, and the tasks that ended in the last hour."""
        return self._run(snapshot.fleet())

    def throughput(self, seconds: float = DAY, bucket: float = HOUR) -> Throughput:
        """What ended in the last `seconds`, by interval of `bucket` seconds: of the newest 20,000 tasks."""
        return self._run(throughput(seconds, bucket))

    def live_fleet(self) -> FleetStatus:
        """As `fleet`, at a bounded cost whatever waits: counts stop at 10,000, and what has ended is left out. For what asks again
        and again."""
        return self._run(snapshot.live())

    def running(self, limit: int = 500) -> list[RunningLine]:
        """The running tasks, longest first, each with the last line of its agent."""
        return self._run(snapshot.running(limit))

    def costs(
        self,
        by: CostsBy | str = CostsBy.DAY,
        since: datetime | None = None,
        *,
        timezone: str = "UTC",
        lines: int = LINES,
    ) -> Costs:
        """What runs used and cost since a moment (None: ever), the costliest first; days are those of `timezone`, the latest ones.

        Raises ValueError for another `by`, UnknownTimezone."""
        return self._run(costs(CostsBy(by), since, timezone, lines))

    def read(self, query: LiteralString, parameters: Sequence[object]) -> tuple[Any, ...]:
        """One row of a read-only query, for a command's own questions, such as how the database reads a timestamp."""
        row = self._connection.execute(query, parameters).fetchone()
        return row if row is not None else ()
