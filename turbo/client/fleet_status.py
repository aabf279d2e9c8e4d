"""A snapshot of the fleet, as `turbo status` shows it: queries whose cost does not grow with history.

`problems` are findings about the running fleet, the worst first. turbo.doctor checks its environment.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from turbo.client.budget_status import BudgetTrouble
from turbo.client.budget_status import findings as budget_findings
from turbo.client.graph import Blocked
from turbo.client.limit import KeyLimit
from turbo.client.placement import Unplaceable
from turbo.client.questions import OpenQuestion
from turbo.client.schedule_status import ScheduleTrouble, findings
from turbo.client.subscription_status import SubscriptionTrouble, subscription_findings
from turbo.domain.dependency import advice, described, is_dependency
from turbo.domain.finding import Finding, warn
from turbo.domain.problem import written_problems
from turbo.domain.states import AccountState, TaskState, WorkerState

WINDOW_SECONDS = 3600.0
OLD_SECONDS = 300.0
"""A pending task older than this, in a queue that is served, is a problem."""
POOR_RATE = 0.8
OLD_QUESTION_SECONDS = 4 * 3600.0
"""A question that is open for longer is a problem; the alert TurboQuestionOpen has the same limit."""
QUESTIONS_LISTED = 10
BLOCKED_LISTED = 5
SETTLING_SCHEMA = 16
"""Workers that know an older schema let no task go that waits for others: turbo leaves the queues that they serve alone."""
STRANDED_LOOKED_AT = 1000
"""Pending tasks of each queue, in claim order."""
STRANDED_EACH = 100
"""The same, where it is asked again and again."""
COUNTED = 10_000
"""Pending tasks of a queue are counted up to this number there; a higher count means more."""
QUEUES_LISTED = WORKERS_LISTED = ACCOUNTS_LISTED = HOSTS_LISTED = 500
"""Whoever may insert may invent queues, and a worker may invent workers, accounts and hosts: each list has an end."""
PROBLEMS_NAMED = 50
"""Of the problems of workers and of accounts, so many are listed; the others are one."""
WHY_LENGTH = 200
"""Of an account's error, as a problem quotes it. The whole is in agent_accounts."""
UNSERVED_NAMED = 10
"""Of the queues that nobody serves, so many are problems of their own; the others are one."""
FEW = 5
"""The success rate of fewer tasks than this is ignored."""


@dataclass(frozen=True, slots=True)
class WorkerLine:
    """A worker. `silent`: its last heartbeat is older than its lease. `problems`: each with `kind`, `what` and `do`, as its
    last heartbeat wrote them."""

    worker_id: str
    name: str
    host: str
    pid: int
    version: str
    slots: int
    queues: list[str]
    accounts: list[str]
    metrics_address: str | None
    state: str
    idle: bool
    problems: list[dict[str, str]]
    running: int
    silent_seconds: float
    up_seconds: float
    silent: bool

    @property
    def live(self) -> bool:
        return self.state != WorkerState.DEAD and not self.silent


def worker_lines(rows: Iterable[Mapping[str, Any]]) -> list[WorkerLine]:
    """The rows of status/workers.sql."""
    return [WorkerLine(**_line(row) | {"problems": written_problems(row["problems"])}) for row in rows]


def left_out(rows: Sequence[Mapping[str, Any]]) -> int:
    """How many more rows there are than these, of status/workers.sql or status/accounts.sql."""
    return max(0, rows[0]["of_all"] - len(rows)) if rows else 0


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "of_all"}


@dataclass(frozen=True, slots=True)
class QueueLine:
    """A queue that has live tasks, is served or is paused. `workers`: the live workers that serve it.

    `waiting`: for a person's answer; `asked_seconds`: the longest of them. `blocked`: for other tasks.

    Of more than QUEUES_LISTED queues, those with the fewest tasks, neither served nor paused, are one line with `queue` None;
    `queues` is how many they are."""

    queue: str | None
    pending: int
    scheduled: int
    running: int
    stuck: int
    oldest_seconds: float | None
    workers: int
    paused: bool
    paused_reason: str | None
    paused_by: str | None
    paused_seconds: float | None
    queues: int = 1
    waiting: int = 0
    blocked: int = 0
    asked_seconds: float | None = None

    @property
    def shown(self) -> str:
        """Its name, for a list."""
        return self.queue if self.queue is not None else f"and {_many(self.queues, 'other queue')}"


@dataclass(frozen=True, slots=True)
class AccountLine:
    """An account on a host ('*': on every host)."""

    account: str
    host: str
    state: str
    reason: str | None
    why: str | None
    until: datetime | None
    resets_in_seconds: float | None


def account_lines(rows: Iterable[Mapping[str, Any]]) -> list[AccountLine]:
    """The rows of status/accounts.sql."""
    return [AccountLine(**_line(row)) for row in rows]


@dataclass(frozen=True, slots=True)
class WindowLine:
    """A window of an account's subscription. `model`: '' for all. `utilization`: from 0 to 1, now; None: not reported.
    `resets_in_seconds`: None if that is not known."""

    account: str
    time_window: str
    model: str
    status: str
    resets_at: datetime | None
    observed_at: datetime
    utilization: float | None
    resets_in_seconds: float | None


def window_lines(rows: Iterable[Mapping[str, Any]]) -> list[WindowLine]:
    """The rows of status/windows.sql."""
    return [WindowLine(**row) for row in rows]


@dataclass(frozen=True, slots=True)
class StrandedLine:
    """Tasks of a queue whose conversation is on `host`, where no live worker serves that queue: nobody can run them. `task_id`: one
    of them. `waiting`: how many of the `tasks` still wait for an answer."""

    queue: str
    host: str
    task_id: str
    tasks: int
    waiting: int


@dataclass(frozen=True, slots=True)
class UnsettledLine:
    """Blocked tasks of a queue that nobody lets go, and one of them. `worker_id`: a live worker of that queue that is older than
    depending tasks, of `workers`: they keep turbo from it. None: all that the tasks wait for is over, for a minute and more."""

    queue: str
    task_id: str
    tasks: int
    worker_id: str | None
    workers: int


def unsettled_lines(rows: Iterable[Mapping[str, Any]]) -> list[UnsettledLine]:
    """The rows of status/unsettled.sql. What an older worker's queue lacks is told of that worker alone."""
    older = {row["queue"] for row in rows if row["what"] == "older"}
    return [
        UnsettledLine(row["queue"], row["task_id"], row["tasks"], row["worker_id"], row["workers"])
        for row in rows
        if row["what"] == "older" or row["queue"] not in older
    ]


@dataclass(frozen=True, slots=True)
class RunningLine:
    """A running task. `line`: the last one of its agent, or empty. `seconds`: how long it has run. `stopping`: a stop was requested."""

    task_id: str
    queue: str
    task_type: str | None
    worker_id: str | None
    seconds: float | None
    line: str
    description: str
    input_tokens: int
    output_tokens: int
    attempt: int
    stopping: bool


def running_line(row: Mapping[str, Any]) -> RunningLine:
    """A row of top/running.sql."""
    kept = (
        "task_id",
        "queue",
        "task_type",
        "worker_id",
        "seconds",
        "line",
        "description",
        "input_tokens",
        "output_tokens",
    )
    return RunningLine(
        **{name: row[name] for name in kept}, attempt=(row["retry_count"] or 0) + 1, stopping=row["stopping"]
    )


@dataclass(frozen=True, slots=True)
class FinishedLine:
    """Tasks that ended within the window on one host with one status. Input tokens include cached ones. `host`: '' if no worker
    ran them; None: all hosts beyond the HOSTS_LISTED ones with the most tasks."""

    host: str | None
    status: str
    tasks: int
    mean_seconds: float | None
    input_tokens: int
    output_tokens: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The whole snapshot. `finished` covers the last `window_seconds`. `questions`: those open longest. `blocked`: the tasks
    that have waited longest for others; `unsettled`: what nobody lets go. `schedules`: those that need a person.
    `windows`: of accounts, the fullest first. `budgets`: those that are spent, or nearly. `unplaceable`: what requires labels that no
    worker has. `full_keys`: of which as many tasks run as may, while others wait. `subscriptions`: those that
    deliver nothing.
    `more_workers` and `more_accounts`: how many are not in the lists, which hold WORKERS_LISTED and ACCOUNTS_LISTED of them
    at most."""

    workers: list[WorkerLine]
    queues: list[QueueLine]
    accounts: list[AccountLine]
    finished: list[FinishedLine]
    window_seconds: float
    questions: list[OpenQuestion] = field(default_factory=list)
    stranded: list[StrandedLine] = field(default_factory=list)
    more_workers: int = 0
    more_accounts: int = 0
    blocked: list[Blocked] = field(default_factory=list)
    unsettled: list[UnsettledLine] = field(default_factory=list)
    schedules: list[ScheduleTrouble] = field(default_factory=list)
    more_schedules: int = 0
    windows: list[WindowLine] = field(default_factory=list)
    budgets: list[BudgetTrouble] = field(default_factory=list)
    more_budgets: int = 0
    unplaceable: list[Unplaceable] = field(default_factory=list)
    full_keys: list[KeyLimit] = field(default_factory=list)
    subscriptions: list[SubscriptionTrouble] = field(default_factory=list)
    more_subscriptions: int = 0

    @property
    def shown_accounts(self) -> list[AccountLine]:
        """All accounts, and what else executors depend on while it is not open."""
        return [a for a in self.accounts if a.state != AccountState.OPEN or not is_dependency(a.account)]

    def fullest_window(self, account: str) -> WindowLine | None:
        """The one that is used most, of those that count for all models. None: nothing is reported."""
        known = [w for w in self.windows if w.account == account and not w.model and w.utilization is not None]
        return max(known, key=lambda w: w.utilization or 0.0, default=None)

    @property
    def success_rate(self) -> float | None:
        """The share of completed among completed and failed tasks; cancelled tasks do not count."""
        ends = {
            s: sum(f.tasks for f in self.finished if f.status == s) for s in (TaskState.COMPLETED, TaskState.FAILED)
        }
        total = sum(ends.values())
        return ends[TaskState.COMPLETED] / total if total else None

    @property
    def problems(self) -> list[Finding]:
        """Findings, the worst first."""
        return [
            *_first(self._about_workers(), "about workers"),
            *_first(self._reported_by_workers(), "that workers report"),
            *_first(self._about_accounts(), "about accounts"),
            *self._about_queues(),
            *(line.finding for line in self.unplaceable),
            *self._about_questions(),
            *_first(self._about_blocked(), "about blocked tasks"),
            *findings(self.schedules, self.more_schedules, any_worker=any(w.live for w in self.workers)),
            *budget_findings(self.budgets, self.more_budgets, any_worker=any(w.live for w in self.workers)),
            *subscription_findings(
                self.subscriptions, self.more_subscriptions, any_worker=any(w.live for w in self.workers)
            ),
            *self._about_results(),
        ]

    def _about_workers(self) -> list[Finding]:
        findings = []
        if not any(w.live for w in self.workers):
            findings.append(warn("no live worker", "start one: turbo worker --config FILE"))
        successors = {(w.host, w.name) for w in self.workers if w.live}
        for w in self.workers:
            if w.live or (not w.running and (w.host, w.name) in successors):
                continue  # it has been restarted since
            held = f", {_many(w.running, 'task')} not yet rescued" if w.running else ""
            what = (
                f"worker {w.worker_id} is dead"
                if w.state == WorkerState.DEAD
                else f"worker {w.worker_id} does not answer"
            )
            findings.append(
                warn(
                    f"{what}: silent for {w.silent_seconds:.0f} s{held}", f"see its log on {w.host}, and start it again"
                )
            )
        return findings

    def _reported_by_workers(self) -> list[Finding]:
        """What live workers say is wrong with them; what several say is one finding."""
        saying: dict[tuple[str, str], list[str]] = {}
        for w in self.workers:
            for problem in w.problems if w.live else ():
                saying.setdefault((problem["what"], problem["do"]), []).append(w.worker_id)
        return [warn(f"{_who(workers)}: {what}", do) for (what, do), workers in saying.items()]

    def _about_accounts(self) -> list[Finding]:
        findings = []
        for a in self.accounts:
            if a.state == AccountState.OPEN:
                continue
            where = "every host" if a.host == "*" else a.host
            told = a.why or ""
            why = f" ({told if len(told) <= WHY_LENGTH else told[:WHY_LENGTH] + '…'})" if told else ""
            do = {
                "auth": "log its agent in on that host, or put a key or token (Claude: claude setup-token) into the env_file of its "
                "account",
                "usage_limit": "wait for its reset; other accounts continue",
                "unavailable": advice(a.account),
                "manual": f"turbo resume --account {a.account}",
                "credits": f"buy credits or wait for the next period, then turbo resume --account {a.account}",
            }.get(a.reason or "", "a probe decides within a minute")
            state = f"{described(a.account)} is {a.state} on {where}"
            findings.append(warn(f"{state}: {a.reason or 'suspected'}{why}", do))
        return findings

    def _about_queues(self) -> list[Finding]:
        findings = []
        unserved = sorted(
            (q for q in self.queues if q.workers == 0 and not q.paused and (q.pending or q.scheduled)),
            key=lambda q: (q.queue is None, -q.pending - q.scheduled),
        )
        named = {q.queue for q in unserved[:UNSERVED_NAMED]} - {None}
        for q in self.queues:
            if q.stuck:
                findings.append(
                    warn(
                        f"queue {q.shown}: {_many(q.stuck, 'running task')} should have stopped, but did not within a minute",
                        "see which workers have them: turbo tasks --status running",
                    )
                )
            if q.paused:
                why = f" ({q.paused_reason})" if q.paused_reason else ""
                findings.append(
                    warn(
                        f"queue {q.queue} is paused by {q.paused_by}{why}: {_many(q.pending, 'task')} pending",
                        f"turbo resume --queue {q.queue}",
                    )
                )
            elif q in unserved and q.queue not in named:
                continue
            elif q.queue in named:
                findings.append(
                    warn(
                        f"queue {q.queue}: {_many(q.pending + q.scheduled, 'task')}; no live worker serves it",
                        f"add it to worker.queues of a worker, or start one: turbo worker --queue {q.queue}",
                    )
                )
            elif q.oldest_seconds is not None and q.oldest_seconds > OLD_SECONDS:
                findings.append(
                    warn(
                        f"queue {q.queue}: the oldest of {_many(q.pending, 'task')} has waited {q.oldest_seconds:.0f} s",
                        "add slots or workers, or check its account and task_type",
                    )
                )
        if others := [q for q in unserved if q.queue not in named]:
            count, tasks = sum(q.queues for q in others), sum(q.pending + q.scheduled for q in others)
            findings.append(
                warn(
                    f"{_many(count, 'more queue')}: {_many(tasks, 'task')}; no live worker serves them",
                    "see who inserts into them; turbo status --json lists the first ones",
                )
            )
        return findings

    def _about_questions(self) -> list[Finding]:
        findings = [
            warn(
                f"queue {s.queue}: {_many(s.tasks, 'task')} can run only on {s.host}, which has {_whose(s.tasks)} conversation, but"
                f" no live worker there serves the queue: {s.task_id}{', ...' if s.tasks > 1 else ''}",
                f"start a worker on {s.host}; or let the task begin a new conversation anywhere:"
                f" turbo retry --anew {shlex.quote(s.task_id)}",
            )
            for s in self.stranded
        ]
        oldest = max((q.asked_seconds for q in self.queues if q.asked_seconds is not None), default=0.0)
        if oldest > OLD_QUESTION_SECONDS:
            findings.append(
                warn(f"the oldest question has been open for {oldest / 3600:.0f} h", "answer it: turbo questions")
            )
        return findings

    def _about_blocked(self) -> list[Finding]:
        findings = []
        for line in self.unsettled:
            tasks = f"queue {line.queue}: {_many(line.tasks, 'blocked task')}"
            if line.worker_id is not None:
                others = f" and {_many(line.workers - 1, 'other')} are" if line.workers > 1 else " is"
                findings.append(
                    warn(
                        f"{tasks} cannot be let go: worker {line.worker_id}{others} older than tasks that need others",
                        "upgrade that worker, or stop it; the others do the rest",
                    )
                )
            else:
                findings.append(
                    warn(
                        f"{tasks}, and nothing that {_they(line.tasks)} for: no worker lets go {line.task_id}"
                        f"{', ...' if line.tasks > 1 else ''}",
                        "see turbo doctor, and the workers' log for `settle`",
                    )
                )
        return findings

    def _about_results(self) -> list[Finding]:
        rate = self.success_rate
        failed = sum(f.tasks for f in self.finished if f.status == TaskState.FAILED)
        total = failed + sum(f.tasks for f in self.finished if f.status == TaskState.COMPLETED)
        if rate is None or rate >= POOR_RATE or total < FEW:
            return []
        return [warn(f"{failed} of {total} tasks failed in the last hour", "turbo tasks --status failed --since 1h")]


def _first(findings: list[Finding], about: str) -> list[Finding]:
    """At most PROBLEMS_NAMED of them, and one for the others."""
    if len(findings) <= PROBLEMS_NAMED:
        return findings
    what = f"{_many(len(findings) - PROBLEMS_NAMED, 'more problem')} {about}"
    return [*findings[:PROBLEMS_NAMED], warn(what, "turbo status --json lists what it knows of each")]


def _who(workers: list[str]) -> str:
    return f"worker {workers[0]}" if len(workers) == 1 else f"{len(workers)} workers ({workers[0]}, …)"


def _they(count: int) -> str:
    return "it waits" if count == 1 else "they wait"


def _whose(count: int) -> str:
    return "its" if count == 1 else "their"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
