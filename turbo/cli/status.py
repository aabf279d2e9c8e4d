"""`turbo status`: the fleet on one screen, problems first."""

from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import asked, output, timestamps
from turbo.cli.options import Dsn, Json, connect
from turbo.cli.output import Column
from turbo.domain.dependency import is_dependency
from turbo.domain.states import FINAL, AccountState, PauseReason, TaskState, WorkerState

if TYPE_CHECKING:
    from turbo.client.fleet_status import FleetStatus, WorkerLine

WORKERS_SHOWN = 10
"""With more workers than this, a terminal shows the hosts, and only the workers that are not up."""

HOSTS = (
    Column("HOST"),
    Column("WORKERS", right=True),
    Column("RUNNING", right=True),
    Column("SLOTS", right=True),
    Column("ACCOUNTS", drop=1, flexible=True),
)
WORKERS = (
    Column("HOST"),
    Column("WORKER", flexible=True, least=16),
    Column("STATE"),
    Column("BUSY", right=True),
    Column("BEAT", drop=2, right=True),
    Column("UP", drop=3, right=True),
    Column("QUEUES", drop=1, flexible=True),
    Column("VERSION", drop=4),
)
QUEUES = (
    Column("QUEUE", flexible=True),
    Column("PENDING", right=True),
    Column("RUNNING", right=True),
    Column("SCHEDULED", drop=2, right=True),
    Column("WAITING", drop=2, right=True),
    Column("BLOCKED", drop=3, right=True),
    Column("OLDEST", drop=1, right=True),
    Column("WORKERS", drop=3, right=True),
    Column("STATE"),
)
QUESTIONS = (
    Column("TASK"),
    Column("KIND", drop=2),
    Column("SINCE", right=True),
    Column("HOST", drop=3, flexible=True),
    Column("ASKS", drop=1, flexible=True),
)
BLOCKED = (
    Column("TASK"),
    Column("SINCE", right=True),
    Column("WAITS FOR", flexible=True),
)
KEYS = (
    Column("KEY", flexible=True, least=14),
    Column("RUNNING", right=True),
    Column("LIMIT", right=True),
    Column("WAITING", right=True),
)
ACCOUNTS = (
    Column("ACCOUNT", flexible=True),
    Column("HOST"),
    Column("STATE"),
    Column("REASON", drop=2),
    Column("RESETS", drop=1),
)
USED = Column("USED", drop=3, right=True)
"""Of ACCOUNTS, where an agent has reported a window."""

FINISHED = (
    Column("HOST", flexible=True),
    Column("COMPLETED", right=True),
    Column("FAILED", right=True),
    Column("CANCELLED", drop=3, right=True),
    Column("SUCCESS", right=True),
    Column("MEAN", drop=4, right=True),
    Column("TOKENS IN", drop=2, right=True),
    Column("OUT", drop=2, right=True),
    Column("COST", drop=1, right=True),
)


def status(
    all_of_them: Annotated[
        bool, typer.Option("--all", "-a", help="List every worker, even when there are many.")
    ] = False,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Show the fleet on one screen.

    Problems come first, then what waits for a person, what waits longest for other tasks, hosts and workers, queues,
    keys that are full, accounts, and the tasks that ended in the last hour.

    \b
    Examples:
      turbo status
      turbo status --json | jq -r '.problems[].what'
    """
    with connect(dsn) as client:
        now = client.fleet()
    if as_json:
        lines = asdict(now)
        problems = [{"what": finding.what, "do": finding.do} for finding in now.problems]
        output.print_json({"problems": problems, "success_rate": now.success_rate, **lines})
        return
    _problems(now)
    _questions(now)
    _blocked(now)
    _workers(now, all_of_them)
    _queues(now)
    _full_keys(now)
    _accounts(now)
    _finished(now)


def _head(text: str) -> None:
    output.echo()
    output.heading(text)


def _problems(now: "FleetStatus") -> None:
    problems = now.problems
    if not problems:
        output.mark("ok", "no problems")
    for problem in problems:
        output.mark("warn", problem.what, problem.do)


def _questions(now: "FleetStatus") -> None:
    if not now.questions:
        return
    waiting = max(sum(q.waiting for q in now.queues), len(now.questions))
    more = f"; the first {len(now.questions)}, all with turbo questions" if waiting > len(now.questions) else ""
    _head(f"{output.many(waiting, 'task')} {'waits' if waiting == 1 else 'wait'} for a person{more}")
    output.table(
        QUESTIONS,
        [(q.task_id, q.kind, timestamps.duration(q.age), q.host or "", asked.summary(q)) for q in now.questions],
    )


def _blocked(now: "FleetStatus") -> None:
    if not now.blocked:
        return
    blocked = max(sum(q.blocked for q in now.queues), len(now.blocked))
    more = f"; the {len(now.blocked)} that have waited longest" if blocked > len(now.blocked) else ""
    _head(f"{output.many(blocked, 'task')} {'waits' if blocked == 1 else 'wait'} for other tasks{more}")
    output.table(
        BLOCKED,
        [(one.task_id, timestamps.duration(one.seconds), one.why.removeprefix("waits for ")) for one in now.blocked],
    )


def _workers(now: "FleetStatus", all_of_them: bool) -> None:
    if not now.workers:
        return
    live = [w for w in now.workers if w.live]
    busy, slots = sum(w.running for w in live), sum(w.slots for w in live)
    hosts = len({w.host for w in live})
    _head(
        f"{output.many(hosts, 'host')}, {output.many(len(live), 'worker')}, {busy} of {output.many(slots, 'slot')} busy"
    )
    if len(live) > hosts:
        output.table(HOSTS, [_host(host, list(group)) for host, group in groupby(now.workers, lambda w: w.host)])
        output.echo()
    shown = now.workers
    if not all_of_them and output.at_terminal() and len(shown) > WORKERS_SHOWN:
        shown = [w for w in shown if not w.live or w.state != WorkerState.UP]
        output.notice(f"{output.many(len(now.workers) - len(shown), 'worker')} up; list them with --all")
    output.table(WORKERS, [_worker(w) for w in shown])
    _say_left_out(now.more_workers, "worker")


def _say_left_out(count: int, what: str) -> None:
    if count:
        output.echo(f"and {output.many(count, f'more {what}')}, not listed")


def _host(host: str, workers: "list[WorkerLine]") -> tuple[object, ...]:
    live = [w for w in workers if w.live]
    accounts = sorted({a for w in live for a in w.accounts if not is_dependency(a)})
    return (host, len(live), sum(w.running for w in workers), sum(w.slots for w in live), ",".join(accounts))


def _worker(w: "WorkerLine") -> tuple[object, ...]:
    state = w.state if w.live or w.state == WorkerState.DEAD else "silent"
    beat, up = timestamps.duration(w.silent_seconds), timestamps.duration(w.up_seconds)
    return (w.host, w.worker_id, state, f"{w.running}/{w.slots}", beat, up, ",".join(w.queues), w.version)


def _queues(now: "FleetStatus") -> None:
    if not now.queues:
        return
    _head(
        f"{output.many(sum(q.queues for q in now.queues), 'queue')}, {output.many(sum(q.pending for q in now.queues), 'task')} pending"
    )
    output.table(
        QUEUES,
        [
            (
                q.shown,
                q.pending,
                q.running,
                q.scheduled,
                q.waiting,
                q.blocked,
                timestamps.duration(q.oldest_seconds),
                q.workers,
                "paused" if q.paused else "unserved" if not q.workers else "open",
            )
            for q in now.queues
        ],
    )


def _full_keys(now: "FleetStatus") -> None:
    if not now.full_keys:
        return
    _head(f"tasks wait for {'a key' if len(now.full_keys) == 1 else 'keys'} of which as many run as may (turbo limit)")
    output.table(KEYS, [(one.concurrency_key, one.running, one.limit, one.shown_waiting) for one in now.full_keys])


def _accounts(now: "FleetStatus") -> None:
    if not now.shown_accounts:
        return
    _head(output.many(len({a.account for a in now.shown_accounts}), "account"))
    rows = []
    for a in now.shown_accounts:
        resets = ""
        if a.until is not None:
            resets = (
                f"{timestamps.local_time(a.until)} (in {timestamps.duration(max(0.0, a.resets_in_seconds or 0.0))})"
            )
        elif a.state != AccountState.OPEN and a.reason in (PauseReason.MANUAL, PauseReason.CREDITS):
            resets = "by hand"
        rows.append(
            (a.account, "all" if a.host == "*" else a.host, a.state, a.reason or "", resets, _used(now, a.account))
        )
    reported = any(row[-1] for row in rows)
    output.table((*ACCOUNTS, USED) if reported else ACCOUNTS, rows if reported else [row[:-1] for row in rows])
    _say_left_out(now.more_accounts, "account")


def _used(now: "FleetStatus", account: str) -> str:
    """How full the fullest window of an account is."""
    window = now.fullest_window(account)
    return "" if window is None else f"{window.utilization or 0.0:.0%} of {window.time_window}"


def _finished(now: "FleetStatus") -> None:
    _head("the last hour" + ("" if now.finished else ": no task ended"))
    rows = []
    for host, group in groupby(now.finished, key=lambda f: f.host):
        by = {f.status: f for f in group}
        tasks = {s: by[s].tasks if s in by else 0 for s in FINAL}
        judged = tasks[TaskState.COMPLETED] + tasks[TaskState.FAILED]
        means = [(f.mean_seconds, f.tasks) for f in by.values() if f.mean_seconds is not None]
        mean = sum(m * n for m, n in means) / sum(n for _, n in means) if means else None
        rows.append(
            (
                "(other hosts)" if host is None else host or "(by hand)",
                tasks[TaskState.COMPLETED],
                tasks[TaskState.FAILED],
                tasks[TaskState.CANCELLED],
                f"{tasks[TaskState.COMPLETED] / judged:.0%}" if judged else "",
                timestamps.duration(mean),
                output.short(sum(f.input_tokens for f in by.values())),
                output.short(sum(f.output_tokens for f in by.values())),
                _dollars(sum(f.cost_usd for f in by.values())),
            )
        )
    output.table(FINISHED, rows)
    if len(rows) > 1 and now.success_rate is not None:
        cost = _dollars(sum(f.cost_usd for f in now.finished))
        output.echo(f"total: {now.success_rate:.0%} success{f', {cost}' if cost else ''}")


def _dollars(amount: float) -> str:
    return f"${amount:.2f}" if amount else ""
