"""What a worker measures. The names are a contract (docs/metrics.md); `promtool check metrics` lints them in a test.

One registry a worker, one endpoint, up before the database answers; a scrape reads memory and never waits for anything.
Labels are bounded: executors, accounts and a worker's own queues come from its configuration; of the queues the leader
sees in the table, those that no live worker serves are counted together as `other`, because any inserter can invent one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from turbo import __version__
from turbo.outcome import ModelUsage
from turbo.states import TaskState, WorkerState

DURATION_BUCKETS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
"""Seconds an agent runs: from a lint to two hours."""

WAIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15, 60, 300, 900, 3600)
"""Seconds a task waits: single-digit milliseconds on an idle fleet, hours on a full one."""

LIVE_STATES = (TaskState.SCHEDULED, TaskState.PENDING, TaskState.RUNNING)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of the metrics endpoint. With `client_ca`, scrapers must present a certificate it signed."""

    certfile: str
    keyfile: str
    client_ca: str | None = None


class Metrics:
    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self._server: tuple[WSGIServer, Thread] | None = None

        Gauge("turbo_build_info", "Always 1; the version is the label.", ["version"], registry=r).labels(
            __version__
        ).set(1)

        self.claims = Counter(
            "turbo_claims", "Tasks claimed, and claims lost to another worker.", ["queue", "result"], registry=r
        )
        self.finished = Counter(
            "turbo_tasks_finished",
            "Runs that ended, by what became of them.",
            ["queue", "executor", "outcome"],
            registry=r,
        )
        self.duration = Histogram(
            "turbo_task_duration_seconds",
            "How long a run took, from its claim to its end.",
            ["queue", "executor", "outcome"],
            buckets=DURATION_BUCKETS,
            registry=r,
        )
        self.wait = Histogram(
            "turbo_task_wait_seconds", "From runnable to claimed.", ["queue"], buckets=WAIT_BUCKETS, registry=r
        )
        self.pickup = Histogram(
            "turbo_pickup_seconds", "From runnable to the agent started.", ["queue"], buckets=WAIT_BUCKETS, registry=r
        )
        self.retries = Counter(
            "turbo_retries", "Runs put back to be tried again, by failure_kind.", ["queue", "reason"], registry=r
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
            "turbo_listener_reconnects", "Times the listener had to connect again.", registry=r
        )
        self.heartbeat = Gauge(
            "turbo_heartbeat_timestamp_seconds", "When the database last took a heartbeat (Unix time).", registry=r
        )
        self.rescued = Counter(
            "turbo_rescued_tasks", "Tasks this worker took back for the fleet.", ["reason"], registry=r
        )
        self.fenced = Counter(
            "turbo_fenced_writes", "Results refused because the claim was no longer this worker's.", registry=r
        )
        self.spool_pending = Gauge("turbo_spool_pending", "Results not yet recorded in the database.", registry=r)
        self.tokens = Counter("turbo_agent_tokens", "Tokens used by agents.", ["account", "model", "kind"], registry=r)
        self.cost = Counter(
            "turbo_agent_cost_usd", "What the agent CLI reported as cost, US dollars.", ["account", "model"], registry=r
        )
        self.queue_tasks = Gauge(
            "turbo_queue_tasks", "Tasks in the table, live states only. Leader only.", ["queue", "status"], registry=r
        )
        self.queue_oldest = Gauge(
            "turbo_queue_oldest_runnable_age_seconds",
            "How long the oldest runnable task has waited. Leader only.",
            ["queue"],
            registry=r,
        )
        self.workers = Gauge("turbo_workers", "Workers of the fleet, by state. Leader only.", ["state"], registry=r)
        self.notification_queue = Gauge(
            "turbo_notification_queue_usage_ratio", "pg_notification_queue_usage(). Leader only.", registry=r
        )

    def serve(self, host: str, port: int, tls: TlsFiles | None = None) -> int:
        """Start the endpoint in a thread. Returns the port it got. Raises OSError when the address is taken."""
        server, thread = start_http_server(
            port,
            addr=host,
            registry=self.registry,
            certfile=tls.certfile if tls else None,
            keyfile=tls.keyfile if tls else None,
            client_cafile=tls.client_ca if tls else None,
            client_auth_required=bool(tls and tls.client_ca),
        )
        self._server = (server, thread)
        return int(server.server_port)

    def close(self) -> None:
        if self._server is not None:
            server, thread = self._server
            self._server = None
            server.shutdown()
            server.server_close()
            thread.join(timeout=5)

    def used(self, account: str, usage: Iterable[ModelUsage]) -> None:
        """Add what one run used."""
        for u in usage:
            for kind, tokens in (
                ("input", u.input_tokens),
                ("output", u.output_tokens),
                ("cache_read", u.cache_read_tokens),
                ("cache_write", u.cache_write_tokens),
            ):
                self.tokens.labels(account, u.model, kind).inc(max(0, tokens))
            self.cost.labels(account, u.model).inc(max(0.0, u.cost_usd))

    def lead(self, rows: Iterable[dict[str, object]]) -> None:
        """Replace the leader's gauges by what sql/gauges.sql returned."""
        facts = list(rows)
        served = {str(f["label"]) for f in facts if f["what"] == "served"}
        tasks: dict[tuple[str, str], float] = {(q, s.value): 0.0 for q in served for s in LIVE_STATES}
        oldest: dict[str, float] = dict.fromkeys(served, 0.0)
        workers: dict[str, float] = {s.value: 0.0 for s in WorkerState}
        for f in facts:
            value = float(str(f["value"]))
            label = str(f["label"]) if f["label"] in served else "other"
            if f["what"] == "tasks":
                key = (label, str(f["state"]))
                tasks[key] = tasks.get(key, 0.0) + value
            elif f["what"] == "oldest":
                oldest[label] = max(oldest.get(label, 0.0), value)
            elif f["what"] == "workers":
                workers[str(f["state"])] = value
            elif f["what"] == "notify":
                self.notification_queue.set(value)
        self.resign()
        for (queue, status), count in tasks.items():
            self.queue_tasks.labels(queue, status).set(count)
        for queue, age in oldest.items():
            self.queue_oldest.labels(queue).set(age)
        for state, count in workers.items():
            self.workers.labels(state).set(count)

    def resign(self) -> None:
        """No longer the leader: its gauges go, so that two workers never both report them for long."""
        self.queue_tasks.clear()
        self.queue_oldest.clear()
        self.workers.clear()
