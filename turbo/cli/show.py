"""`turbo show`: one task in full, with its audit trail."""

import json
import shlex
from typing import TYPE_CHECKING, Any

from turbo.cli import asked, output, timestamps
from turbo.cli.options import Dsn, Json, TaskId, connect
from turbo.cli.output import Column
from turbo.cli.together import Together
from turbo.domain.placement import label_list
from turbo.domain.question import Question, QuestionKind
from turbo.domain.states import TaskState

if TYPE_CHECKING:
    from turbo.client.client import Action, Client, OpenQuestion, TaskRow
    from turbo.client.placement import Place

TRAIL = (
    Column("TIME", drop=3),
    Column("AFTER", right=True),
    Column("WHAT"),
    Column("STATUS"),
    Column("BY", drop=2, flexible=True, least=16),
    Column("DETAIL", drop=1, flexible=True, least=16),
)


def show(
    task_id: TaskId,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Show one task in full, with its audit trail.

    \b
    Examples:
      turbo show my_task_1
      turbo show t_5f3 --json | jq .output_data.output
    """
    with connect(dsn) as client:
        whole = client.resolve(task_id)
        task = client.get(whole)
        trail = client.trail(whole)
        last_line = _last_line(client, whole) if task.status == TaskState.RUNNING else None
        asks = client.questions(task_ids=[whole], limit=1)
        work = Together.of(client, whole)
        place = None if task.finished or not (task.requires or task.prefer_host) else client.place(whole)
        waits_for = _full_key(client, task)
    if as_json:
        more = {} if work is None else output.columns(work)
        output.print_json({**output.columns(task), **more, "trail": [output.columns(a) for a in trail]})
        return
    _head(task, last_line)
    output.pairs({} if work is None else work.shown(task))
    output.pairs(_asks(asks[0]) if asks else _asked(task, trail))
    output.pairs({**_place(task, place), "waits for": waits_for})
    _timeline(task, trail)


def _full_key(client: "Client", task: "TaskRow") -> str | None:
    """That as many tasks of its key run as may."""
    from turbo.client.limit import MayNotLimit

    if task.status != TaskState.PENDING or task.concurrency_key is None:
        return None
    try:
        key = client.limits.of(task.concurrency_key)
    except MayNotLimit:  # turbo_submitter sees no limits
        return None
    return f"its key, which is full: {key.running} of {key.limit} running" if key.full else None


def _last_line(client: "Client", task_id: str) -> str | None:
    import psycopg

    try:
        return next((status.last_line for status in next(client.follow([task_id]))), None)
    except psycopg.errors.InsufficientPrivilege:  # turbo_approver sees tasks and their audit trail, and no more
        return None


def _head(task: "TaskRow", last_line: str | None) -> None:
    attempts = f"{(task.retry_count or 0) + 1} of {(task.max_retries or 0) + 1}"
    took = None if task.execution_time_ms is None else timestamps.duration(task.execution_time_ms / 1000)
    data = task.output_data if isinstance(task.output_data, dict) else {}
    output.pairs({"task": task.task_id, "status": task.status, "requested": _request(task)})
    output.pairs(
        {
            "description": task.task_description,
            "type": task.task_type,
            "queue": task.queue,
            "priority": task.task_priority,
            "attempt": attempts,
            "rescues": task.infra_count or None,
            "timeout": None if task.timeout_seconds is None else f"{task.timeout_seconds} s",
            "worker": task.assigned_worker_id,
            "created": timestamps.local_time(task.created_at) or None,
            "runnable": (timestamps.local_time(task.run_after) if task.status != TaskState.WAITING else "") or None,
            "started": timestamps.local_time(task.started_at) or None,
            "ended": timestamps.local_time(task.completed_at) or None,
            "took": took,
            "concurrency key": task.concurrency_key,
            "idempotency key": task.idempotency_key,
            "session": task.agent_session_id or None,
            "input": task.input_data,
            "last line": last_line or None,
            "failure": task.failure_kind,
            "error": task.error_message,
            "output": _output(data.get("output") if data else task.output_data),
            **_check(data.get("check")),
            "usage": _usage(data),
            "earlier runs": _earlier_runs(data.get("earlier_runs")),
            "log": data.get("log"),
            **_workspace(data.get("workspace")),
        }
    )


def _asks(one: "OpenQuestion") -> dict[str, object]:
    """What it waits for, and how to answer it."""
    deadline = None
    if one.answer_by is not None:
        deadline = f"{timestamps.local_time(one.answer_by)}; then {asked.THEN.get(one.then or '', 'it goes on')}"
    shown = asked.fields(one)
    if one.kind == QuestionKind.HOLD:  # the rest is the task's own, and stands above
        shown = {"held": "until a person releases it", "not before": shown["not before"]}
    return {
        **shown,
        "asked": f"{timestamps.local_time(one.asked_at)} ({timestamps.duration(one.age)} ago)"
        if one.asked_at
        else None,
        "answer by": deadline,
        "answer with": asked.commands(one.task_id, one),
    }


def _place(task: "TaskRow", place: "Place | None") -> dict[str, object]:
    """What it requires of its worker, and the host that has its conversation."""
    requires = label_list(task.requires) if task.requires else None
    if requires and place is not None and task.status == TaskState.PENDING and place.nowhere:
        requires = f"{requires}; {place.nowhere}"
    return {"requires": requires, "host": _host(task, place)}


def _host(task: "TaskRow", place: "Place | None") -> str | None:
    if task.prefer_host is None or task.finished:
        return None
    where = f"{task.prefer_host}, which has its conversation"
    if place is None:
        return where
    if place.portable:
        return f"{where}; others can have it, too, and may take the task after a while (worker.stay_seconds)"
    if place.host_live:
        return where
    anew = f"turbo retry --anew {shlex.quote(task.task_id)}"
    return f"{where}; no live worker there serves its queue. To begin anew elsewhere: {anew}"


def _asked(task: "TaskRow", trail: "list[Action]") -> dict[str, object]:
    """What it asked last, and what was answered."""
    if not isinstance(task.question, dict):
        return {}
    try:
        shown = asked.fields(Question.from_document(task.question))
    except ValueError:
        shown = {"asks": str(task.question.get("text"))}
    shown = {{"asks": "asked"}.get(name, name): value for name, value in shown.items()}
    last = next((a for a in reversed(trail) if a.action_type in ("answered", "unanswered")), None)
    by = f"{last.actor}, {timestamps.local_time(last.executed_at)}" if last and task.answer is not None else None
    nobody = "nobody did in time" if task.answer is None and task.question.get("expired") else None
    return {**shown, "answer": task.answer if task.answer is not None else nobody, "answered by": by}


def _output(value: object) -> object:
    return value.rstrip("\n") if isinstance(value, str) else value


def _request(task: "TaskRow") -> str | None:
    """The status that a user requested for a running task."""
    if task.cancel_requested_at is None:
        return None
    asked: dict[str, str] = {
        TaskState.CANCELLED: "cancel",
        TaskState.PENDING: "run again",
        TaskState.SCHEDULED: "run later",
    }
    requested = task.cancel_to or TaskState.CANCELLED
    what, when = asked.get(requested, f"close as {requested}"), timestamps.local_time(task.cancel_requested_at)
    return f"{what}, requested at {when}: its agent is being stopped"


def _check(check: Any) -> dict[str, object]:
    """What became of the checks of its work. The end of what the last one printed, if it did not pass."""
    if not isinstance(check, dict):
        return {}
    rounds, passed = check.get("rounds"), check.get("passed") is True
    number = rounds if isinstance(rounds, int) and rounds > 0 else None
    verdict: str | None
    if passed:
        verdict = f"passed at check {number}" if number is not None and number > 1 else "passed"
    elif number is None:
        verdict = None if check.get("why") else "not made"
    else:
        verdict = f"not passed in {_count(number, 'check')}"
    why = check.get("why")
    return {
        "check": ": ".join(str(part) for part in (verdict, why) if part) if not passed else verdict,
        "before": _red_before(check.get("baseline")),
        "check printed": _output(check.get("output")) or None if not passed else None,
        "check log": check.get("log") if not passed else None,
    }


def _red_before(baseline: Any) -> str | None:
    if not isinstance(baseline, dict) or baseline.get("passed") is not False:
        return None
    code = baseline.get("exit_code")
    return f"the check failed before the agent began ({'no exit code' if code is None else f'exit code {code}'})"


def _workspace(workspace: Any) -> dict[str, object]:
    """Where the task ran, and what it changed there."""
    if not isinstance(workspace, dict):
        return {}
    removed = "" if workspace.get("kept", True) else " (removed)"
    return {
        "workspace": f"{workspace.get('host')}:{workspace.get('path')}{removed}",
        "branch": workspace.get("branch"),
        "changed": _changed(workspace),
    }


def _changed(workspace: dict[str, Any]) -> str:
    if workspace.get("error"):
        return str(workspace["error"])
    lines = f"+{workspace.get('insertions')} -{workspace.get('deletions')} lines"
    text = f"{_count(workspace.get('commits'), 'commit')}, {_count(workspace.get('files_changed'), 'file')}, {lines}"
    return f"{text}; {workspace['uncommitted']} uncommitted" if workspace.get("uncommitted") else text


def _count(number: object, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _usage(data: dict[str, Any]) -> str | None:
    models = data.get("usage")
    if not isinstance(models, list):
        return None
    parts = []
    for model in models:
        if isinstance(model, dict):
            tokens = f"{model.get('input_tokens', 0)} in, {model.get('output_tokens', 0)} out"
            whose = f" ({executor})" if (executor := model.get("executor")) else ""
            cost = model.get("cost_usd")
            dollars = f"${cost:.4f}" if isinstance(cost, int | float) else "cost not known"
            parts.append(f"{model.get('model', '?')}{whose}: {tokens}, {dollars}")
    return "; ".join(parts) or None


def _earlier_runs(runs: object) -> str | None:
    """What the runs before the last question used, a line each."""
    if not isinstance(runs, list):
        return None
    return "\n".join(_usage(run) or "no usage known" for run in runs if isinstance(run, dict)) or None


def _timeline(task: "TaskRow", trail: "list[Action]") -> None:
    output.echo()
    output.heading("audit trail")
    rows: list[tuple[str, ...]] = [(timestamps.local_time(task.created_at, millis=True), "", "created", "", "", "")]
    before = task.created_at
    for action in trail:
        after = timestamps.seconds_between(before, action.executed_at)
        rows.append(
            (
                timestamps.local_time(action.executed_at, millis=True),
                "" if after is None or after < 0 else f"+{timestamps.duration(after)}",
                action.action_type,
                _change(action),
                action.actor or "",
                _detail(action.detail),
            )
        )
        before = action.executed_at
    output.table(TRAIL, rows, indent=2)


def _change(action: "Action") -> str:
    if action.from_status == action.to_status:
        return action.to_status or ""
    return f"{action.from_status or '?'} → {action.to_status or '?'}"


def _detail(detail: Any) -> str:
    """`outcome=failed attempt=2 …`, the error last."""
    if not isinstance(detail, dict):
        return "" if detail is None else json.dumps(detail, ensure_ascii=False)
    if isinstance(workspace := detail.get("workspace"), dict):
        detail = {**detail, "workspace": _changed(workspace)}
    if isinstance(question := detail.get("question"), dict):
        detail = {**detail, "question": question.get("text")}
    ordered = sorted(detail.items(), key=lambda item: item[0] in ("why", "error", "output"))
    return " ".join(f"{_plain(k)}={_plain(v)}" for k, v in ordered)


def _plain(value: object) -> str:
    """As it is if it is one word, else as JSON: no value can contain what looks like another name and its value."""
    one_word = isinstance(value, str) and not any(c.isspace() or c in '="' for c in value)
    return str(value) if one_word else json.dumps(value, ensure_ascii=False)
