"""What another agent may ask of the fleet: the tools of `turbo mcp`, over the operations of the client.

    read         status, wait, result, diff, questions
    work         submit, reply, tell, cancel            not with --read-only
    answer       answer                                 questions with --allow-answer, approvals and holds with --allow-approve

Each call has a connection of its own, so a wait holds up nothing else, and an idle server holds none. What a tool may do in the
database is what the role of the connection may do.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any

import psycopg
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from turbo.client.async_client import AsyncClient
from turbo.client.client import Client
from turbo.client.failures import explained
from turbo.client.models import TaskFilter, TaskRow, TaskStatus
from turbo.client.new_task import NewTask
from turbo.client.questions import OpenQuestion, not_waiting
from turbo.client.rejection import why_rejected
from turbo.client.timestamps import BadTimestamp, TimestampReader
from turbo.domain.question import QuestionKind
from turbo.domain.states import TaskState
from turbo.domain.visible import visible, visible_json
from turbo.mcp.waits import Waits, until

Document = dict[str, Any]
"""The answer of a tool, as JSON."""

CALLS_AT_ONCE = 16
"""Each has a connection of its own."""

WAITS_AT_ONCE = 16
"""Besides the other calls. One more ends the oldest, whose client calls again if it is still there."""

WAIT_SECONDS = 50.0
"""What a client waits for an answer is often a minute."""

MOST_CHARACTERS = 40_000
"""Of an output, unless more is asked for: an agent reads every one."""

QUESTIONS_LISTED = 50

TaskId = Annotated[str, Field(description="The task's id, or the beginning of it if no other task has that.")]
After = Annotated[
    str | None, Field(description="Run no earlier than: 10m, 2h30m, 'tomorrow 06:00', 2026-12-01T09:00+01:00.")
]
Priority = Annotated[int | None, Field(description="Higher runs first. Default 5.")]
Hold = Annotated[bool, Field(description="Hold the task until a person releases it.")]


@dataclass(frozen=True, slots=True)
class Rights:
    """What the person who started the server allows."""

    write: bool = True
    answer: bool = False
    approve: bool = False

    @property
    def kinds(self) -> tuple[QuestionKind, ...]:
        """What `answer` may answer."""
        asked = (QuestionKind.QUESTION,) if self.answer else ()
        return (*asked, QuestionKind.APPROVAL, QuestionKind.HOLD) if self.approve else asked


class Tools:
    """The tools, one method each. Raises ToolError with a text that says what to do."""

    def __init__(self, dsn: str, rights: Rights) -> None:
        self._dsn = dsn
        self._rights = rights
        self._room = asyncio.Semaphore(CALLS_AT_ONCE)
        self._waits = Waits(WAITS_AT_ONCE)

    # ── work ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(
        self,
        text: Annotated[str, Field(description="What the agent of the fleet should do. It sees nothing else.")],
        type: Annotated[
            str | None, Field(description="Task type; the worker's routes map it to an executor. Default: default.")
        ] = None,
        queue: Annotated[str | None, Field(description="The queue. Default: default.")] = None,
        priority: Priority = None,
        after: After = None,
        id: Annotated[str | None, Field(description="Task id. Default: generated.")] = None,
        input: Annotated[Any, Field(description="input_data: any JSON, given to the agent with the text.")] = None,
        timeout: Annotated[int | None, Field(description="Seconds that one run may take. Default 300.")] = None,
        max_retries: Annotated[int | None, Field(description="Retries after the first attempt. Default 3.")] = None,
        idempotency_key: Annotated[
            str | None, Field(description="Submitting the same key twice creates one task.")
        ] = None,
        concurrency_key: Annotated[str | None, Field(description="At most one task per key runs at a time.")] = None,
        hold: Hold = False,
        needs: Annotated[
            list[str] | None, Field(description="Ids of tasks that must be over first; their outputs go to the agent.")
        ] = None,
        on_needs_failed: Annotated[
            str | None, Field(description="If one of them does not complete: cancel (default), run or wait.")
        ] = None,
        continues: Annotated[
            str | None, Field(description="Id of the task whose conversation and directory this one goes on with.")
        ] = None,
        parent: Annotated[str | None, Field(description="Id of the task that this one belongs to, for people.")] = None,
        requires: Annotated[
            dict[str, str | int | float | bool] | None,
            Field(description='Labels that its worker must have: {"os": "macos"}.'),
        ] = None,
    ) -> Document:
        async with self._client("submit") as client:
            task = NewTask(
                text,
                task_id=id,
                task_type=type,
                queue=queue,
                task_priority=priority,
                run_after=await self._moment(after),
                input_data=input,
                timeout_seconds=timeout,
                max_retries=max_retries,
                idempotency_key=idempotency_key,
                concurrency_key=concurrency_key,
                hold=hold or None,
                needs=needs,
                on_needs_failed=on_needs_failed,
                continues=continues,
                parent_task_id=parent,
                requires=requires,
            )
            return _document((await client.submit_many([task]))[0])

    async def reply(
        self,
        task_id: TaskId,
        text: Annotated[str, Field(description="What the agent should do next, in the same conversation.")],
        id: Annotated[str | None, Field(description="Id of the follow-up. Default: generated.")] = None,
        priority: Priority = None,
        after: After = None,
        hold: Hold = False,
    ) -> Document:
        async with self._client("reply") as client:
            whole = await client.resolve(task_id)
            moment = await self._moment(after)
            made = await client.reply(whole, text, new_id=id, priority=priority, run_after=moment, hold=hold)
            return {**_document(made), "continues": whole}

    async def tell(
        self,
        task_id: TaskId,
        text: Annotated[str, Field(description="What the running agent should know now.")],
    ) -> Document:
        async with self._client("tell") as client:
            return _document(await client.tell(await client.resolve(task_id), text))

    async def cancel(
        self,
        task_ids: Annotated[list[str], Field(description="Ids, or beginnings of ids.", min_length=1, max_length=1000)],
        graph: Annotated[
            bool, Field(description="All unfinished tasks that hang together with these as well.")
        ] = False,
    ) -> Document:
        async with self._client("cancel") as client:
            wanted = [await client.resolve(one) for one in task_ids]
            changed = await client.cancel(wanted, graph=graph)
            done = {one.task_id for one in changed}
            return _json(
                {"cancelled": [asdict(c) for c in changed], "already_over": [w for w in wanted if w not in done]}
            )

    # ── read ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def status(
        self,
        task_ids: Annotated[
            list[str] | None, Field(description="Tasks to look at. Without: the whole fleet.", max_length=1000)
        ] = None,
    ) -> Document:
        async with self._client("status") as client:
            if task_ids is not None:
                wanted = [await client.resolve(one) for one in task_ids]
                return _json({"tasks": await _statuses(client, wanted)})
            now = await client.fleet()
            return _json(
                {
                    "problems": [{"what": one.what, "do": one.do} for one in now.problems],
                    "queues": [asdict(one) for one in now.queues],
                    "workers": {
                        "live": sum(w.live for w in now.workers),
                        "running": sum(w.running for w in now.workers),
                    },
                    "questions": len(now.questions),
                    "success_rate": now.success_rate,
                }
            )

    async def wait(
        self,
        task_ids: Annotated[list[str], Field(description="Tasks to wait for.", min_length=1, max_length=1000)],
        timeout: Annotated[
            float, Field(description="Seconds. Call again while `finished` is false.", gt=0, le=3600)
        ] = WAIT_SECONDS,
        context: Context[Any, Any] | None = None,
    ) -> Document:
        known: dict[str, TaskStatus] = {}

        async def follow(client: AsyncClient, wanted: Sequence[str]) -> None:
            begun = time.monotonic()
            async for changed in client.follow(wanted, timeout):
                known.update({one.task_id: one for one in changed})
                if any(one.status == TaskState.WAITING for one in known.values()):
                    return
                if context is not None:
                    await context.report_progress(time.monotonic() - begun, timeout, visible(_progress(known.values())))

        async with self._waits.one() as over, self._client("show", room=self._waits.room) as client:
            wanted = list(dict.fromkeys([await client.resolve(one) for one in task_ids]))
            with suppress(TimeoutError):
                await until(over, follow(client, wanted))
            left = [one for one in known.values() if not one.finished]
            return _json(
                {
                    "finished": not left and len(known) == len(wanted),
                    "tasks": [_shown(known[one]) for one in wanted if one in known],
                    "waits_for_a_person": [one.task_id for one in left if one.status == TaskState.WAITING],
                }
            )

    async def result(
        self,
        task_id: TaskId,
        max_characters: Annotated[
            int, Field(description="Of the output; the rest is cut.", ge=100, le=10_000_000)
        ] = MOST_CHARACTERS,
    ) -> Document:
        async with self._client("show") as client:
            task = await client.get(await client.resolve(task_id))
        return result_of(task, max_characters)

    async def diff(
        self,
        task_id: TaskId,
        max_characters: Annotated[int, Field(description="The rest is cut.", ge=100, le=10_000_000)] = MOST_CHARACTERS,
    ) -> Document:
        async with self._client("diff") as client:
            whole = await client.resolve(task_id)
            kept = await client.diff(whole)
        text = None if kept is None else kept.decode("utf-8", "replace")
        cut = max(0, len(text or "") - max_characters)
        return _json({"task_id": whole, "diff": text and text[:max_characters], **({"cut": cut} if cut else {})})

    async def questions(
        self,
        queue: Annotated[str | None, Field(description="Only of this queue.")] = None,
    ) -> Document:
        async with self._client("questions") as client:
            found = await client.questions(TaskFilter(queue=queue), limit=QUESTIONS_LISTED, whole=False)
        kinds = self._rights.kinds
        return _json({"questions": [{**_asked(one), "may_answer": one.kind in kinds} for one in found]})

    # ── answer ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def answer(
        self,
        task_id: TaskId,
        answer: Annotated[
            str | dict[str, str | list[str]],
            Field(
                description="Text or an option's label; for several questions an object from each question's exact text to its "
                "answer. An approval: yes, always, no, or 'no, because …'. A hold: yes or no."
            ),
        ],
    ) -> Document:
        async with self._client("answer") as client:
            whole = await client.resolve(task_id)
            found = await client.questions(task_ids=[whole], limit=1)
            if not found:
                raise not_waiting(whole, (await client.get(whole)).status, None, None)
            if (kind := QuestionKind(found[0].kind)) not in self._rights.kinds:
                option = "--allow-answer" if kind is QuestionKind.QUESTION else "--allow-approve"
                raise ToolError(
                    f"task {whole} asks for {_NAMES[kind]}, which this server may not give: a person does (turbo answer, "
                    f"turbo approve), or starts it with {option}"
                )
            # The question as it was read: of another that came meanwhile nobody has looked at the kind.
            return _document(await client.answer(found[0], answer))

    # ── connections and errors ──────────────────────────────────────────────────────────────────────────────────────

    async def task(self, task_id: str) -> TaskRow:
        """For a resource. Raises ToolError."""
        async with self._client("show") as client:
            return await client.get(task_id)

    @asynccontextmanager
    async def _client(self, command: str, room: asyncio.Semaphore | None = None) -> AsyncIterator[AsyncClient]:
        """A connection for one call of what `command` does, and its errors in words. `room`: of such calls; None: of all others."""
        try:
            async with room or self._room, AsyncClient(self._dsn) as client:
                yield client
        except (
            psycopg.errors.CheckViolation,
            psycopg.errors.ForeignKeyViolation,
            psycopg.errors.UniqueViolation,
        ) as error:
            raise ToolError(visible(why_rejected(error), lines=True)) from None
        except (psycopg.Error, LookupError, ValueError) as error:
            raise ToolError(visible(explained(error, command), lines=True)) from None

    async def _moment(self, text: str | None) -> datetime | None:
        """Raises ToolError."""
        if text is None:
            return None

        def read() -> datetime:
            with Client(self._dsn) as client:
                return TimestampReader(client).after(text)

        try:
            return await asyncio.to_thread(read)
        except BadTimestamp as error:
            raise ToolError(
                f"after {text!r} {error.why}: write 10m, 2h30m, 'tomorrow 06:00', 2026-12-01T09:00"
            ) from None


_NAMES = {
    QuestionKind.QUESTION: "an answer",
    QuestionKind.APPROVAL: "an approval",
    QuestionKind.HOLD: "its release",
}


async def _statuses(client: AsyncClient, task_ids: Sequence[str]) -> list[Document]:
    """Of each task, as it is now."""
    known: dict[str, TaskStatus] = {}
    async for changed in client.follow(task_ids):
        known.update({one.task_id: one for one in changed})
        break
    return [_shown(known[one]) for one in task_ids if one in known]


def _shown(status: TaskStatus) -> Document:
    shown = asdict(status)
    return {key: value for key, value in shown.items() if value is not None}


def _progress(known: Iterable[TaskStatus]) -> str:
    """One line: how many are over, and what the first that runs says."""
    every = list(known)
    over = sum(one.finished for one in every)
    line = next((one.last_line for one in every if one.last_line and not one.finished), None)
    return f"{over} of {len(every)} over" + (f"; {line}" if line else "")


def result_of(task: TaskRow, most: int) -> Document:
    """What became of a task. `cut`: how many characters of the output are left out."""
    data = task.output_data if isinstance(task.output_data, dict) else {}
    output = task.output
    text = output if isinstance(output, str) else None if output is None else json.dumps(output, ensure_ascii=False)
    cut = max(0, len(text or "") - most)
    return _json(
        {
            "task_id": task.task_id,
            "status": task.status,
            "finished": task.finished,
            "output": text[:most] if cut and text is not None else output,
            **({"cut": cut} if cut else {}),
            **({"error": task.error_message, "failure_kind": task.failure_kind} if task.error_message else {}),
            **({"question": task.question} if task.status == TaskState.WAITING else {}),
            **{
                key: data[key]
                for key in ("account", "model", "workspace", "check", "files", "usage", "cost_usd")
                if key in data
            },
            "attempts": (task.retry_count or 0) + (1 if task.started_at is not None else 0),
            "completed_at": task.completed_at,
        }
    )


def _asked(one: OpenQuestion) -> Document:
    kept = (
        "task_id",
        "kind",
        "text",
        "questions",
        "tool",
        "input",
        "queue",
        "asked_at",
        "answer_by",
        "task_description",
    )
    return {key: value for key, value in asdict(one).items() if key in kept and value not in (None, "", (), {})}


def _document(row: Any) -> Document:
    return _json(asdict(row))


def _json(value: Document) -> Document:
    """As JSON has it: moments as text, no number that JSON lacks."""
    document: Document = json.loads(visible_json(value))
    return document
