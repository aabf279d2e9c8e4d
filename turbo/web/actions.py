"""What the page changes: answer, approve, deny, reply, tell, cancel, retry, submit. Each is one operation of the client.

    POST /answer           task, key; for question N from 0: option-N (labels, as often as are chosen), text-N (counts if written)
    POST /approve, /deny   asked (the JSON of [task_id, key], as often as there are); always=1; because
    POST /reply, /tell     task, text
    POST /cancel, /retry   task, as often as there are; graph=1; anew=1 (retry)
    POST /submit           the fields of the form at /new
    POST /pause, /resume   queue, or account; reason

`key` is what the page showed: an answer counts only if the task still asks just that. The answer to the script is one line of text; to
a form without a script 303 back to `back`, a path of this page.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import TypeVar

import psycopg
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from turbo.client.async_client import AsyncClient
from turbo.client.models import Changed
from turbo.client.new_task import NewTask, required
from turbo.client.questions import NotWaiting, OpenQuestion
from turbo.client.rejection import why_rejected
from turbo.domain.question import QuestionKind
from turbo.domain.states import TaskState
from turbo.domain.visible import visible
from turbo.web.forms import BadForm, Fields, fields_of, read_moment
from turbo.web.site import Site
from turbo.web.text import count, task_url

T = TypeVar("T")
Does = Callable[[AsyncClient, Fields], Awaitable[str]]
"""An action: what it did, in one line. Raises psycopg.Error, LookupError, ValueError."""

MOST_TASKS = 1000
"""Of one form that names them; the whole filter has no such limit (batch.py)."""


def routes(site: Site) -> list[Route]:
    actions: dict[str, Does] = {
        "answer": answer,
        "approve": approve,
        "deny": deny,
        "reply": reply,
        "tell": tell,
        "cancel": cancel,
        "retry": retry,
        "pause": pause,
        "resume": resume,
    }

    def route(name: str, does: Does) -> Route:
        async def act(request: Request) -> Response:
            fields = await fields_of(request)
            async with site.database.client(request.scope.get("turbo.person")) as client:
                said = await _judged(does(client, fields))
            return done(request, fields, said)

        return Route(f"/{name}", act, methods=["POST"])

    async def submit(request: Request) -> Response:
        fields = await fields_of(request)
        task = await new_task(site, fields)
        async with site.database.client(request.scope.get("turbo.person")) as client:
            made = (await _judged(client.submit_many([task])))[0]
        return RedirectResponse(task_url(made.task_id), HTTPStatus.SEE_OTHER)

    return [*(route(name, does) for name, does in actions.items()), Route("/submit", submit, methods=["POST"])]


def done(request: Request, fields: Fields, said: str) -> Response:
    """The answer to an action that succeeded."""
    if "text/html" not in request.headers.get("accept", ""):
        return PlainTextResponse(f"{said}\n")
    back = fields.exact("back") or "/"
    if not back.startswith("/") or back.startswith(("//", "/\\")):
        back = "/"
    return RedirectResponse(back, HTTPStatus.SEE_OTHER)


async def _judged(work: Awaitable[T]) -> T:
    """What the database refuses by a rule of turbo's, in its words. Raises ValueError."""
    try:
        return await work
    except (
        psycopg.errors.CheckViolation,
        psycopg.errors.ForeignKeyViolation,
        psycopg.errors.UniqueViolation,
    ) as error:
        raise ValueError(why_rejected(error)) from None


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def answer(client: AsyncClient, fields: Fields) -> str:
    """Only to what the page showed. Raises NotWaiting, AnswerRefused, MayNotAnswer, UnknownTask."""
    task_id, key = fields.needed("task"), fields.needed("key")
    (asked,) = await _shown(client, [(task_id, key)])
    if asked.kind != QuestionKind.QUESTION:
        raise BadForm(f"task {visible(task_id)} asks for a yes or a no")
    changed = await client.answer(asked, _given(asked, fields))
    return f"answered: {visible(changed.task_id)} goes on"


def _given(asked: OpenQuestion, fields: Fields) -> str | dict[str, str | Sequence[str]]:
    """The answer in its form. Options are fields `option-N`, free text is `text-N`: text counts if it was written."""
    answers: dict[str, str | Sequence[str]] = {}
    for number, single in enumerate(asked.questions):
        chosen = fields.every(f"option-{number}")
        text = fields.text(f"text-{number}")
        if text is None and not chosen:
            which = f" to question {number + 1}" if len(asked.questions) > 1 else ""
            raise BadForm(f"the answer{which} is missing: choose an option, or write one")
        answers[single.question] = text if text is not None else chosen if single.multi else chosen[0]
    if len(answers) > 1:
        return answers
    if not answers:
        text = fields.text("text-0")
        if text is None:
            raise BadForm("the answer is missing: write one")
        return text
    (only,) = answers.values()
    return only if isinstance(only, str) else ", ".join(only)


async def approve(client: AsyncClient, fields: Fields) -> str:
    asked, late = await _still_asked(client, fields)
    always = fields.exact("always") == "1"
    changed = await client.approve(asked, always=always) if asked else []
    return _decided("approved", changed, len(asked) - len(changed) + late)


async def deny(client: AsyncClient, fields: Fields) -> str:
    asked, late = await _still_asked(client, fields)
    changed = await client.deny(asked, fields.text("because")) if asked else []
    return _decided("denied", changed, len(asked) - len(changed) + late)


def _decided(done_: str, changed: Sequence[Changed], late: int) -> str:
    meanwhile = f"{count(late, 'task')} asked something else by then, or had an answer" if late else ""
    if not changed:
        raise NotWaiting(meanwhile)
    named = visible(changed[0].task_id) if len(changed) == 1 else count(len(changed), "task")
    return f"{done_}: {named}" + (f"; {meanwhile}" if late else "")


async def _still_asked(client: AsyncClient, fields: Fields) -> tuple[list[OpenQuestion], int]:
    """What the page showed and is still asked, and how many are not. Raises BadForm."""
    wanted = [_pair(one) for one in fields.every("asked")]
    if not 1 <= len(wanted) <= MOST_TASKS:
        raise BadForm(f"choose 1 to {MOST_TASKS} of them")
    known = await client.questions(task_ids=[task_id for task_id, _ in wanted], limit=None, whole=False)
    keys = dict(wanted)
    asked = [one for one in known if one.key == keys[one.task_id]]
    return asked, len(wanted) - len(asked)


def _pair(text: str) -> tuple[str, str]:
    """Task and key of a field `asked`. Raises BadForm."""
    try:
        task_id, key = json.loads(text)
    except (ValueError, TypeError):
        task_id = key = None
    if not isinstance(task_id, str) or not isinstance(key, str):
        raise BadForm("asked is the JSON of [task_id, key], as the page has it")
    return task_id, key


async def _shown(client: AsyncClient, wanted: Sequence[tuple[str, str]]) -> list[OpenQuestion]:
    """As they were shown. Raises NotWaiting."""
    found = {one.task_id: one for one in await client.questions(task_ids=[one for one, _ in wanted], limit=None)}
    for task_id, key in wanted:
        if (one := found.get(task_id)) is None:
            raise NotWaiting(f"task {visible(task_id)} waits for no answer by now")
        if one.key != key:
            raise NotWaiting(f"task {visible(task_id)} asks something else by now: look again")
    return [found[task_id] for task_id, _ in wanted]


# ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def reply(client: AsyncClient, fields: Fields) -> str:
    text = fields.text("text")
    if text is None:
        raise BadForm("write what the agent should do next")
    made = await client.reply(fields.needed("task"), text)
    return f"submitted: {visible(made.task_id)} goes on with the conversation"


async def tell(client: AsyncClient, fields: Fields) -> str:
    text = fields.text("text")
    if text is None:
        raise BadForm("write what the agent should know")
    told = await client.tell(fields.needed("task"), text)
    return f"told {visible(told.task_id)}: its agent gets it as soon as it takes one"


async def cancel(client: AsyncClient, fields: Fields) -> str:
    task_ids = _tasks(fields)
    return changed_said("cancelled", len(task_ids), await client.cancel(task_ids, graph=fields.exact("graph") == "1"))


async def retry(client: AsyncClient, fields: Fields) -> str:
    task_ids = _tasks(fields)
    graph, anew = fields.exact("graph") == "1", fields.exact("anew") == "1"
    return changed_said("retried", len(task_ids), await client.retry(task_ids, graph=graph, anew=anew))


def _tasks(fields: Fields) -> list[str]:
    task_ids = list(dict.fromkeys(fields.every("task")))
    if not 1 <= len(task_ids) <= MOST_TASKS:
        raise BadForm(f"choose 1 to {MOST_TASKS} tasks")
    return task_ids


def changed_said(verb: str, wanted: int, changed: Sequence[Changed]) -> str:
    """What became of the tasks. Raises BadForm if of none anything did."""
    if not changed:
        why = "finished already" if verb == "cancelled" else "not finished"
        raise BadForm(f"nothing was changed: {'the task is' if wanted == 1 else 'these tasks are'} {why}")
    stopping = sum(one.status == TaskState.RUNNING for one in changed)
    more = f", {stopping} of them once the agents have stopped" if stopping else ""
    left = wanted - len(changed)
    late = f"; {count(left, 'task')} could not be" if left > 0 else ""
    return f"{verb} {count(len(changed), 'task')}{more}{late}"


async def new_task(site: Site, fields: Fields) -> NewTask:
    """The task of the form at /new. Raises BadField, BadForm."""
    after = fields.text("after")
    moment = None
    if after is not None:
        moment = await asyncio.to_thread(read_moment, site.settings.dsn, after, ahead=True)
    needs = (fields.text("needs") or "").split()
    labels = (fields.text("requires") or "").replace(",", " ").split()
    text = fields.text("text")
    if text is None:
        raise BadForm("write what the agent should do")
    return NewTask(
        text,
        task_id=fields.text("id"),
        task_type=fields.text("type"),
        queue=fields.text("queue"),
        task_priority=fields.whole("priority"),
        run_after=moment,
        input_data=fields.document("input"),
        timeout_seconds=fields.whole("timeout"),
        max_retries=fields.whole("max_retries"),
        concurrency_key=fields.text("concurrency_key"),
        idempotency_key=fields.exact("idempotency_key"),
        hold=fields.exact("hold") == "1" or None,
        needs=needs or None,
        requires=required(labels) if labels else None,
    )


# ── queues and accounts ─────────────────────────────────────────────────────────────────────────────────────────────


async def pause(client: AsyncClient, fields: Fields) -> str:
    if (account := fields.exact("account")) is not None:
        await client.pause_account(account, fields.text("reason"))
        return f"account {visible(account)} is paused on every host"
    queue = fields.needed("queue")
    await client.pause_queue(queue, fields.text("reason"))
    return f"queue {visible(queue)} is paused: running tasks go on"


async def resume(client: AsyncClient, fields: Fields) -> str:
    if (account := fields.exact("account")) is not None:
        await client.resume_account(account)
        return f"account {visible(account)} is open"
    queue = fields.needed("queue")
    await client.resume_queue(queue)
    return f"queue {visible(queue)} is served again"
