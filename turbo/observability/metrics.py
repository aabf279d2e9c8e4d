"""What a worker measures. The names are a contract (docs/metrics.md); a test runs `promtool check metrics` on them.

Each worker has one registry, which its endpoint reads from memory. Labels are bounded: executors, accounts and the
worker's own queues come from its configuration. The leader also counts queues it finds in the table
(turbo.observability.fleet_gauges); there, queues that no live worker serves are counted as `other`, because any
inserter can invent one.
"""

import collections
import functools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from turbo import __version__
from turbo.domain.check import Checked, CheckResult
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import FailureKind, ModelUsage, OutcomeKind
from turbo.domain.problem import ProblemKind
from turbo.domain.run import Running
from turbo.domain.states import RescueReason, RowStatement
from turbo.observability.fast_metrics import FastCounter, FastHistogram
from turbo.observability.fleet_gauges import FleetGauges

DURATION_BUCKETS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
"""How long an agent runs, in seconds: from a lint to two hours."""

WAIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15, 60, 300, 900, 3600)
"""How long a task waits, in seconds: single-digit milliseconds on an idle fleet, hours on a full one."""

ROUND_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 20)
"""How many checks a task's work takes: one if it passes at once, four with the default of three rounds."""


PUSH_RESULTS = ("pushed", "failed")
"""What becomes of a push of a task's branch."""

SLOT_RESULTS = ("fired", "skipped", "refused")
"""What becomes of a slot of a schedule."""


class ObservedSlots(Protocol):
    """The slots of the worker (turbo.worker.slots)."""

    @property
    def running(self) -> Mapping[ClaimRef, Running]: ...
    @property
    def free(self) -> int: ...
    @property
    def busy(self) -> int: ...


class ObservedExecutor(Protocol):
    """An executor (turbo.executors.protocol)."""

    name: str
    account: str | None


class RunningTasks(Collector):
    """`turbo_running_tasks`, counted at each scrape, so that starting and ending a run costs nothing."""

    def __init__(self) -> None:
        self._slots: ObservedSlots | None = None
        self._known: tuple[tuple[str, str], ...] = ()  # (executor, account or ""): reported as 0 when nothing runs

    def observe(self, slots: ObservedSlots, executors: Iterable[ObservedExecutor]) -> None:
        """Count the runs in `slots` from now on."""
        self._slots = slots
        self._known = tuple((executor.name, executor.account or "") for executor in executors)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return [self._family()]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = self._family()
        counted = collections.Counter(dict.fromkeys(self._known, 0))
        if self._slots is not None:
            counted.update((run.executor, run.account or "") for run in list(self._slots.running.values()))
        for labels, count in sorted(counted.items()):
            family.add_metric(labels, count)
        return [family]

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily("turbo_running_tasks", "Runs in progress.", labels=["executor", "account"])


ShownWindows = Callable[[], Iterable[tuple[str, str, float | None, float | None]]]
"""Account, window, utilization from 0 to 1, and the next reset in Unix seconds; None: not known."""


class WindowGauges(Collector):
    """The windows of accounts, read at each scrape: one that is reset meanwhile has nothing used."""

    def __init__(self) -> None:
        self._shown: ShownWindows = tuple

    def observe(self, shown: ShownWindows) -> None:
        """Report these from now on."""
        self._shown = shown

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return self._families()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        used, resets = self._families()
        for account, window, utilization, resets_at in self._shown():
            if utilization is not None:
                used.add_metric((account, window), utilization)
            if resets_at is not None:
                resets.add_metric((account, window), resets_at)
        return used, resets

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        labels = ("account", "window")
        return (
            GaugeMetricFamily(
                "turbo_account_utilization_ratio", "Share of a window of the account that is used.", labels=labels
            ),
            GaugeMetricFamily(
                "turbo_account_resets_timestamp_seconds",
                "When a window of the account is reset (Unix time).",
                labels=labels,
            ),
        )


MOST_MODELS = 100
OTHER_MODELS = "other"


class Metrics:
    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self._models: set[str] = set()
        ProcessCollector(registry=r)  # memory, CPU and descriptors of the worker itself; Linux only
        self.fleet = FleetGauges()
        r.register(self.fleet)
        self.running = RunningTasks()
        r.register(self.running)
        self.windows = WindowGauges()
        r.register(self.windows)

        Gauge("turbo_build_info", "Always 1; the version is the label.", ["version"], registry=r).labels(
            __version__
        ).set(1)

        self.started = Gauge("turbo_start_timestamp_seconds", "When this worker started (Unix time).", registry=r)
        self.started.set(time.time())
        self.claims = Counter(
            "turbo_claims", "Tasks claimed, and claims lost to another worker.", ["queue", "result"], registry=r
        )
        self.finished = FastCounter(
            "turbo_tasks_finished",
            "Runs that ended, by outcome.",
            ["queue", "executor", "outcome"],
            r,
        )
        self.duration = FastHistogram(
            "turbo_task_duration_seconds",
            "How long a run took, from its claim to its end.",
            ["queue", "executor", "outcome"],
            DURATION_BUCKETS,
            r,
        )
        self.wait = FastHistogram("turbo_task_wait_seconds", "From runnable to claimed.", ["queue"], WAIT_BUCKETS, r)
        self.pickup = FastHistogram(
            "turbo_pickup_seconds", "From runnable to the agent started.", ["queue"], WAIT_BUCKETS, r
        )
        self.retries = Counter(
            "turbo_retries", "Failed runs that will be retried, by failure_kind.", ["queue", "reason"], registry=r
        )
        self.auth_failures = Counter(
            "turbo_auth_failures", "Runs that ended because the account is not logged in.", ["account"], registry=r
        )
        self.usage_limit_pauses = Counter(
            "turbo_usage_limit_pauses", "Times an account was paused by a usage limit.", ["account"], registry=r
        )
        self.account_paused = Gauge(
            "turbo_account_paused", "1 while the account is paused on this host.", ["account", "reason"], registry=r
        )
        self.slots = Gauge("turbo_slots", "Slots of this worker.", ["state"], registry=r)
        self.listener_up = Gauge("turbo_listener_up", "1 while LISTEN is proved to deliver.", registry=r)
        self.listener_delivery = Gauge(
            "turbo_listener_last_delivery_timestamp_seconds",
            "When the last notification arrived (Unix time).",
            registry=r,
        )
        self.listener_reconnects = Counter(
            "turbo_listener_reconnects", "Times that the listener reconnected.", registry=r
        )
        self.heartbeat = Gauge(
            "turbo_heartbeat_timestamp_seconds", "When the database last took a heartbeat (Unix time).", registry=r
        )
        self.rescued = Counter(
            "turbo_rescued_tasks", "Tasks that this worker rescued, by reason.", ["reason"], registry=r
        )
        self.poisoned = Counter(
            "turbo_poisoned_tasks",
            "Tasks failed as poison: too many of their runs ended with their worker or its tools, or their row is refused.",
            registry=r,
        )
        self.fenced = Counter(
            "turbo_fenced_writes", "Results refused because the claim was no longer this worker's.", registry=r
        )
        self.spool_pending = Gauge("turbo_spool_pending", "Results not yet recorded in the database.", registry=r)
        self.problems = Gauge("turbo_problems", "What is wrong with this worker now, by kind.", ["kind"], registry=r)
        self.loop_lag = Gauge(
            "turbo_event_loop_lag_seconds",
            "The longest that the event loop has recently taken to answer.",
            registry=r,
        )
        self.refused_rows = Counter(
            "turbo_refused_rows",
            "Rows that the database did not let this worker write, by statement.",
            ["statement"],
            registry=r,
        )
        self.transcript_batches = Counter("turbo_transcript_batches", "Batches of transcripts stored.", registry=r)
        self.transcript_bytes = Counter("turbo_transcript_bytes", "Bytes of transcripts stored.", registry=r)
        self.transcript_dropped = Counter(
            "turbo_transcript_dropped_bytes",
            "Bytes of transcripts dropped: the database was away for too long, or refused them.",
            registry=r,
        )
        self.retention = Counter(
            "turbo_retention_deleted",
            "Rows that this worker deleted as leader because of their age.",
            ["table"],
            registry=r,
        )
        self.schedule_slots = Counter(
            "turbo_schedule_slots", "Slots of schedules that this worker dealt with.", ["result"], registry=r
        )
        self.schedule_delay = Histogram(
            "turbo_schedule_delay_seconds",
            "From a schedule's slot to its task.",
            registry=r,
            buckets=WAIT_BUCKETS,
        )
        self.events_delivered = Counter(
            "turbo_events_delivered",
            "Events of subscriptions that a target has taken; one that was delivered twice counts twice.",
            ["target"],
            registry=r,
        )
        self.event_failures = Counter(
            "turbo_event_deliveries_failed", "Deliveries that a target did not take.", ["target"], registry=r
        )
        self.questions_denied = Counter(
            "turbo_questions_denied",
            "Questions of runs that nobody was asked: no `ask:`, or an older worker.",
            ["executor"],
            registry=r,
        )
        self.checks = Counter(
            "turbo_checks", "Checks of what runs delivered, by what they found.", ["executor", "result"], registry=r
        )
        self.check_rounds = Histogram(
            "turbo_check_rounds",
            "How many checks it took until a task's work was completed or unverified.",
            ["executor"],
            buckets=ROUND_BUCKETS,
            registry=r,
        )
        self.unverified = Counter(
            "turbo_unverified_tasks",
            "Tasks that failed because what they delivered passed no check.",
            ["queue", "executor"],
            registry=r,
        )
        self.pushes = Counter(
            "turbo_workspace_pushes",
            "Pushes of tasks' branches, by what became of them.",
            ["executor", "result"],
            registry=r,
        )
        self.tokens = Counter("turbo_agent_tokens", "Tokens used by agents.", ["account", "model", "kind"], registry=r)
        self.cost = Counter(
            "turbo_agent_cost_usd",
            "What agents cost, as they report it or by `prices`, US dollars.",
            ["account", "model"],
            registry=r,
        )

    def declare_series(
        self, queues: Iterable[str], executors: Iterable[str], checked: Iterable[str] = (), pushing: Iterable[str] = ()
    ) -> None:
        """Create the series of this worker's configuration at start, with value 0. `checked`: the executors with a check;
        `pushing`: those that push their workspaces.

        Prometheus cannot see an increment that creates its series: `increase()` would miss an executor's first
        failure, the one an alert is for.
        """
        queues, executors = tuple(queues), tuple(executors)
        for queue in queues:
            for result in ("claimed", "lost"):
                self.claims.labels(queue, result)
            for kind in FailureKind:
                self.retries.labels(queue, kind.value)
            for executor in executors:
                for outcome in OutcomeKind:
                    self.finished.labels(queue, executor, outcome.value)
        for executor in executors:
            self.questions_denied.labels(executor)
        for executor in checked:
            for queue in queues:
                self.unverified.labels(queue, executor)
            self.check_rounds.labels(executor)
            for result in CheckResult:
                self.checks.labels(executor, result.value)
        for executor in pushing:
            for result in PUSH_RESULTS:
                self.pushes.labels(executor, result)
        for reason in RescueReason:
            self.rescued.labels(reason)
        for statement in RowStatement:
            self.refused_rows.labels(statement)
        for result in SLOT_RESULTS:
            self.schedule_slots.labels(result)

    def declare_targets(self, targets: Iterable[str]) -> None:
        """The same for the targets of subscriptions."""
        for target in targets:
            self.events_delivered.labels(target)
            self.event_failures.labels(target)

    def observe(self, slots: ObservedSlots, executors: Iterable[ObservedExecutor]) -> None:
        """Report the worker's slots, and the runs in them by executor and account."""
        self.running.observe(slots, executors)
        self.slots.labels("busy").set_function(lambda: slots.busy)
        self.slots.labels("free").set_function(lambda: slots.free)

    def observe_problems(self, count: Callable[[], Mapping[ProblemKind, int]]) -> None:
        """Report what is wrong, counted at each scrape."""
        for kind in ProblemKind:
            self.problems.labels(kind).set_function(functools.partial(_of_kind, kind, count))

    def record_usage(self, own: str | None, usage: Iterable[ModelUsage]) -> None:
        """Add the tokens and cost of one run. `own`: the run's own account, or what stands for it; a reviewer's has another."""
        for u in usage:
            account = own if u.executor is None else u.account or u.executor
            if account is None:
                continue
            model = self._model(u.model)
            for kind, tokens in (
                ("input", u.input_tokens),
                ("output", u.output_tokens),
                ("cache_read", u.cache_read_tokens),
                ("cache_write", u.cache_write_tokens),
            ):
                self.tokens.labels(account, model, kind).inc(max(0, tokens))
            self.cost.labels(account, model).inc(max(0.0, u.cost_usd or 0.0))

    def record_checks(self, executor: str, checked: Checked, fencing_token: int) -> None:
        """Count the checks of one run, and how many there were once they are over. `fencing_token`: of that run."""
        for check in checked.checks:
            if check.fencing_token == fencing_token:
                self.checks.labels(executor, check.result.value).inc()
        if checked.decided:
            self.check_rounds.labels(executor).observe(checked.checks[-1].number if checked.checks else 0)

    def _model(self, name: str) -> str:
        """The label of a model. A program chooses the name, and each name is a series that stays."""
        if name not in self._models and len(self._models) >= MOST_MODELS:
            return OTHER_MODELS
        self._models.add(name)
        return name


def _of_kind(kind: ProblemKind, count: Callable[[], Mapping[ProblemKind, int]]) -> float:
    return float(count().get(kind, 0))
