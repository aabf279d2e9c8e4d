"""The text of a `turbo top` frame: the head, and the rows of its four tables. Used by the screen and by --once."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.text import Text

from turbo.cli import timestamps
from turbo.cli.live.columns import ScreenRow, sparkline
from turbo.cli.live.feed import Frame, LiveTask, View
from turbo.cli.output import STYLES, Column, many, one_line, short
from turbo.client.fleet_status import COUNTED, AccountLine, QueueLine, WorkerLine
from turbo.domain.states import AccountState, TaskState, WorkerState

TASKS = {
    View.RUNNING: (
        Column("TASK", flexible=True, least=14),
        Column("TYPE", drop=5, flexible=True, least=8),
        Column("QUEUE", drop=6, flexible=True, least=8),
        Column("AGE", right=True),
        Column("ATTEMPT", drop=4),
        Column("TOKENS", drop=2, right=True),
        Column("WORKER", drop=3, flexible=True, least=8),
        Column("LAST LINE", drop=1, flexible=True, least=30),
    ),
    View.WAITING: (
        Column("TASK", flexible=True, least=14),
        Column("STATUS"),
        Column("WAITS", right=True),
        Column("QUEUE", drop=3, flexible=True, least=8),
        Column("TYPE", drop=4, flexible=True, least=8),
        Column("ATTEMPT", drop=2),
        Column("DESCRIPTION", drop=1, flexible=True, least=30),
    ),
    View.ENDED: (
        Column("TASK", flexible=True, least=14),
        Column("STATUS"),
        Column("AGO", right=True),
        Column("QUEUE", drop=5, flexible=True, least=8),
        Column("TYPE", drop=4, flexible=True, least=8),
        Column("ATTEMPT", drop=2),
        Column("WORKER", drop=3, flexible=True, least=8),
        Column("ERROR, OR DESCRIPTION", drop=1, flexible=True, least=30),
    ),
}
WORKERS = (
    Column("WORKER", flexible=True, least=16),
    Column("STATE"),
    Column("BUSY", right=True),
    Column("BEAT", drop=2, right=True),
    Column("UP", drop=3, right=True),
    Column("HOST", drop=4),
    Column("QUEUES", drop=1, flexible=True),
)
QUEUES = (
    Column("QUEUE", flexible=True, least=10),
    Column("STATE"),
    Column("PENDING", right=True),
    Column("RUNNING", right=True),
    Column("SCHEDULED", drop=2, right=True),
    Column("WAITING", drop=2, right=True),
    Column("BLOCKED", drop=4, right=True),
    Column("OLDEST", drop=1, right=True),
    Column("WORKERS", drop=3, right=True),
)
ACCOUNTS = (
    Column("ACCOUNT", flexible=True, least=10),
    Column("HOST", drop=2),
    Column("STATE"),
    Column("REASON", drop=3),
    Column("RESETS IN", drop=1, right=True),
)

TITLES = {View.RUNNING: "Running", View.WAITING: "Waiting", View.ENDED: "Ended"}
EMPTY = {
    View.RUNNING: "no running tasks",
    View.WAITING: "no waiting tasks",
    View.ENDED: "no ended tasks yet",
}


def worker_names(frame: Frame) -> dict[str, str]:
    """Short names for a narrow column: the worker's name, with its pid if several share the name."""
    several = Counter(w.name for w in frame.status.workers if w.live)
    return {w.worker_id: f"{w.name}-{w.pid}" if several[w.name] > 1 else w.name for w in frame.status.workers}


def task_row(task: LiveTask, workers: Mapping[str, str]) -> ScreenRow:
    attempts = f"{task.retry_count + 1}/{(task.max_retries or 0) + 1}" if task.retry_count else ""
    tokens = short(task.input_tokens + task.output_tokens)
    line = one_line(task.line or task.description)
    style = "dim" if not task.line and task.status == TaskState.RUNNING else ""
    seconds = task.seconds
    age = (
        ""
        if seconds is None
        else f"in {timestamps.duration(-seconds)}"
        if seconds < 0
        else timestamps.duration(max(1.0, seconds))
    )
    state = "stopping" if task.stopping else task.status
    kind, queue, worker_id = task.task_type or "", task.queue, task.worker_id or ""
    worker = workers.get(worker_id, worker_id)
    match task.status:
        case TaskState.RUNNING:
            cells: tuple[str, ...] = (task.task_id, kind, queue, age, attempts, tokens, worker, line)
            if task.stopping:
                cells = (*cells[:-1], f"(being stopped) {line}")
        case TaskState.WAITING if task.line:
            cells = (task.task_id, state, age, queue, kind, attempts, f"asks: {line}")
        case TaskState.PENDING | TaskState.SCHEDULED | TaskState.WAITING | TaskState.BLOCKED:
            cells = (task.task_id, state, age, queue, kind, attempts, line)
        case _:
            cells = (task.task_id, state, age, queue, kind, attempts, worker, line)
    return ScreenRow(task.task_id, tuple(one_line(cell) for cell in cells), style)


def worker_row(w: WorkerLine) -> ScreenRow:
    state = w.state if w.live or w.state == WorkerState.DEAD else "silent"
    beat, up = timestamps.duration(w.silent_seconds), timestamps.duration(w.up_seconds)
    cells = (w.worker_id, state, f"{w.running}/{w.slots}", beat, up, w.host, ",".join(w.queues))
    return ScreenRow(w.worker_id, cells, "" if w.live else "red")


def queue_row(q: QueueLine) -> ScreenRow:
    state = "paused" if q.paused else "open" if q.workers else "unserved"
    return ScreenRow(
        q.shown,
        (
            q.shown, state, count(q.pending), str(q.running), count(q.scheduled), count(q.waiting),
            count(q.blocked), timestamps.duration(q.oldest_seconds),
            str(q.workers),
        ),
    )  # fmt: skip


def account_key(a: AccountLine) -> str:
    """Of one account on one host. Either name may hold a blank; neither holds a NUL."""
    return f"{a.account}\0{a.host}"


def account_row(a: AccountLine) -> ScreenRow:
    resets = "" if a.resets_in_seconds is None else timestamps.duration(max(0.0, a.resets_in_seconds))
    return ScreenRow(account_key(a), (a.account, "all" if a.host == "*" else a.host, a.state, a.reason or "", resets))


def listed(shown: int, more: int) -> str:
    """How many are in a list, and how many are not."""
    return f"{shown}, and {more} more" if more else str(shown)


def title(frame: Frame, matching: int, filtered: str) -> str:
    """Over the tasks: how many, and which."""
    scheduled = sum(q.scheduled for q in frame.status.queues)
    if frame.view is View.RUNNING:
        text, total = f"Running tasks: {frame.running}", frame.running
    elif frame.view is View.WAITING:
        text = f"Waiting tasks: {count(frame.waiting)} pending" + _others(frame, ", ")
        total = frame.waiting + scheduled + frame.asking + frame.blocked
    else:
        text, total = f"Ended tasks: the newest {len(frame.tasks)}", len(frame.tasks)
    if filtered:
        return f"{text}, {matching} of {len(frame.tasks)} with “{filtered}”"
    return text if matching >= total else f"{text}, {matching} listed"


def summary(frame: Frame) -> Text:
    """The fleet in one line."""
    status = frame.status
    live = [w for w in status.workers if w.live]
    busy, slots = sum(w.running for w in live), sum(w.slots for w in live)
    hosts = len({w.host for w in live})
    text = f"{many(len(live), 'worker')} on {many(hosts, 'host')} · {busy}/{slots} slots busy · {count(frame.waiting)} pending"
    return Text(text + _others(frame, " · "), no_wrap=True, overflow="ellipsis")


def _others(frame: Frame, gap: str) -> str:
    """What rests beside the pending tasks: those that wait for a person, for their time, for other tasks."""
    scheduled = sum(q.scheduled for q in frame.status.queues)
    parts = [f"{count(frame.asking)} asking a person"] if frame.asking else []
    parts += [f"{count(scheduled)} scheduled"] if scheduled else []
    parts += [f"{count(frame.blocked)} blocked"] if frame.blocked else []
    return "".join(f"{gap}{part}" for part in parts)


def problem(frame: Frame) -> Text:
    """The first problem, and how many more there are."""
    problems = frame.status.problems
    if not problems:
        return Text("✓ no problems", style="green", no_wrap=True)
    of = f"1 of {len(problems)}: " if len(problems) > 1 else ""
    text = f"! {of}{one_line(problems[0].what)} → {one_line(problems[0].do)}"
    return Text(text, style="yellow", no_wrap=True, overflow="ellipsis")


def rates(frame: Frame, width: int) -> Text:
    """Three figures a minute, each with its last minutes."""
    r = frame.rates
    parts = [
        ("completed/min", f"{'' if r.counted_all else '≥'}{figure(r.per_minute('completed'))}", "completed", "green"),
        ("failed/min", figure(r.per_minute("failed")), "failed", "red"),
        ("tokens/min", short(round(r.per_minute("tokens"))) or "0", "tokens", "cyan"),
    ]
    words = sum(len(name) + len(value) + 2 for name, value, _, _ in parts) + 4
    each = max(0, min(60, (width - words) // len(parts) - 1))
    text = Text(no_wrap=True)
    for place, (name, value, series, style) in enumerate(parts):
        text.append("  " if place else "")
        text.append(f"{name} ", "dim")
        text.append(value, "bold")
        text.append(f" {sparkline(r.series(series), each)}", style)
    return text


def strip(label: str, parts: Sequence[tuple[str, str]], width: int) -> Text:
    """`label  part · part · …` on one line: as many as fit whole, then how many more."""
    text = Text(f"{label:10}", style="dim", no_wrap=True)
    room = width - 10
    for place, (part, style) in enumerate(parts):
        rest = f" +{len(parts) - place}"
        needed = len(part) + (3 if place else 0)
        if needed > room - (len(rest) if place < len(parts) - 1 else 0):
            text.append(rest, "dim")
            break
        text.append(" · " if place else "", "dim")
        text.append(part, style or "not dim")
        room -= needed
    if not parts:
        text.append("none")
    return text


def strips(frame: Frame, width: int) -> list[Text]:
    """Workers, queues and accounts, one line each, for a small screen."""
    workers = [
        (f"{w.name} {w.running}/{w.slots}", "" if w.live else "red")
        for w in frame.status.workers
        if w.state != WorkerState.DEAD
    ]
    names = Counter(w.name for w in frame.status.workers if w.live)
    if len(workers) > 6 and len(names) < len(workers):
        by = {n: [w for w in frame.status.workers if w.live and w.name == n] for n in names}
        workers = [
            (f"{n} ×{len(ws)} {sum(w.running for w in ws)}/{sum(w.slots for w in ws)}", "") for n, ws in by.items()
        ]
    closed_first = sorted(frame.status.queues, key=lambda q: not q.paused and q.workers > 0)
    queues = [(_queue(q), STYLES["paused"] if q.paused or not q.workers else "") for q in closed_first]
    accounts = [
        (
            f"{a.account}{'' if a.host == '*' else '@' + a.host} {a.state}"
            + (f" {a.reason}" if a.reason else "")
            + (f" {timestamps.duration(max(0.0, a.resets_in_seconds))}" if a.resets_in_seconds is not None else ""),
            "" if a.state == AccountState.OPEN else STYLES["paused"],
        )
        for a in sorted(frame.status.shown_accounts, key=lambda a: a.state == AccountState.OPEN)
    ]
    return [strip(n, [(one_line(p), s) for p, s in parts], width) for n, parts in
            (("workers", workers), ("queues", queues), ("accounts", accounts))]  # fmt: skip


def _queue(q: QueueLine) -> str:
    parts = [f"{q.running} run"] if q.running else []
    if q.pending:
        parts.append(f"{count(q.pending)} wait {timestamps.duration(q.oldest_seconds)}")
    parts += ["paused"] if q.paused else ["unserved"] if not q.workers else []
    return f"{q.shown} {', '.join(parts) or 'empty'}"


def count(tasks: int) -> str:
    """Pending tasks are counted up to a limit."""
    return f"{COUNTED}+" if tasks > COUNTED else str(tasks)


def figure(number: float) -> str:
    return f"{number:.0f}" if number >= 9.95 or number == 0 else f"{number:.1f}"
