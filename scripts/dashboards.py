"""Writes monitoring/grafana/dashboards/*.json: three dashboards, each panel a line here. `make dashboards` runs it.

A test holds the files against this script, reads them back through Grafana's own models, and runs every expression
against a live Prometheus that scrapes a live fleet.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import bargauge, dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.common import StackingConfig
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    GraphDrawStyle,
    StackingMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    GridPos,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

TARGET = Path(__file__).resolve().parents[1] / "monitoring" / "grafana" / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


@dataclass(frozen=True)
class Panel:
    """One panel: `queries` maps a legend to an expression. `kind`: stat, lines, stacked, bars, states, table."""

    title: str
    kind: str
    queries: dict[str, str]
    help: str
    unit: str = "short"
    width: int = 12
    height: int = 8
    warn: tuple[float, float] | None = None


HOST = 'host=~"$host"'
FLEET = [
    Panel(
        "Workers up",
        "stat",
        {"up": "max(turbo_workers{state='up'})"},
        "Workers that beat, by the leader's look at agent_workers.",
        width=4,
        height=4,
    ),
    Panel(
        "Running tasks",
        "stat",
        {"running": f'sum(turbo_slots{{state="busy", {HOST}}})'},
        "Slots in use now.",
        width=4,
        height=4,
    ),
    Panel(
        "Oldest runnable task",
        "stat",
        {"age": 'max(turbo_queue_oldest_runnable_age_seconds{queue!="other"})'},
        "How long the task that has waited longest has been runnable.",
        "s",
        4,
        4,
        warn=(300, 900),
    ),
    Panel(
        "In queues without a worker",
        "stat",
        {"tasks": 'max(turbo_queue_tasks{queue="other", status="pending"}) or vector(0)'},
        "Pending tasks in queues that no live worker has; see runbook, TurboQueueUnserved.",
        width=4,
        height=4,
        warn=(1, 100),
    ),
    Panel(
        "Results not yet recorded",
        "stat",
        {"spool": f"sum(turbo_spool_pending{{{HOST}}})"},
        "Waiting in the workers' spools, for a database that takes writes.",
        width=4,
        height=4,
        warn=(10, 100),
    ),
    Panel(
        "Success, last hour",
        "stat",
        {"success": "fleet:turbo_tasks_success:ratio1h"},
        "Of the runs that ended with a verdict on the task.",
        "percentunit",
        4,
        4,
    ),
    Panel(
        "Running tasks by host",
        "stacked",
        {"{{host}}": f'sum by (host) (turbo_slots{{state="busy", {HOST}}})'},
        "What `ps aux | grep | wc -l` on each host used to tell.",
    ),
    Panel(
        "The last hour by host and outcome",
        "table",
        {"{{host}} {{outcome}}": f"host_outcome:turbo_tasks_finished:increase1h{{{HOST}}}"},
        "Runs that ended within the last hour.",
    ),
    Panel(
        "Slots in use",
        "lines",
        {"{{host}}": f"host:turbo_slots:saturation{{{HOST}}}"},
        "Busy slots over all slots.",
        "percentunit",
    ),
    Panel(
        "Workers by state",
        "stacked",
        {"{{state}}": "max by (state) (turbo_workers)"},
        "up, draining, paused (every account closed), dead.",
    ),
    Panel(
        "Listener",
        "states",
        {"{{host}} {{worker}}": f"turbo_listener_up{{{HOST}}}"},
        "1 while LISTEN is proved to deliver; 0: the worker polls.",
    ),
    Panel(
        "Seconds since the last heartbeat",
        "lines",
        {"{{host}} {{worker}}": f"time() - turbo_heartbeat_timestamp_seconds{{{HOST}}}"},
        "Rises while the database takes no writes from this worker.",
        "s",
    ),
    Panel(
        "Rescues, late results, restarts of the listener",
        "bars",
        {
            "rescued: {{reason}}": f"sum by (reason) (increase(turbo_rescued_tasks_total{{{HOST}}}[$__rate_interval]))",
            "late results": f"sum (increase(turbo_fenced_writes_total{{{HOST}}}[$__rate_interval]))",
            "listener reconnects": f"sum (increase(turbo_listener_reconnects_total{{{HOST}}}[$__rate_interval]))",
            "poisoned": f"sum (increase(turbo_poisoned_tasks_total{{{HOST}}}[$__rate_interval]))",
        },
        "All zero on a quiet day.",
    ),
    Panel(
        "Database: notification queue and oldest transaction",
        "lines",
        {
            "notification queue (1 = full)": "max(turbo_notification_queue_usage_ratio)",
            "oldest transaction, hours": "max(turbo_oldest_transaction_age_seconds) / 3600",
        },
        "At 1 inserts fail; an old transaction keeps dead rows from being vacuumed and slows claims.",
    ),
    Panel(
        "Worker memory",
        "lines",
        {"{{host}} {{worker}}": f"process_resident_memory_bytes{{{HOST}}}"},
        "Resident memory of the worker itself, without its agents. Linux only.",
        "bytes",
    ),
    Panel(
        "Versions",
        "table",
        {"{{host}} {{worker}} {{version}}": f"turbo_build_info{{{HOST}}}"},
        "Which version runs where, during a rolling upgrade.",
    ),
]

QUEUE = 'queue=~"$queue"'
TASKS = [
    Panel(
        "Live tasks by queue and state",
        "stacked",
        {"{{queue}} {{status}}": f"max by (queue, status) (turbo_queue_tasks{{{QUEUE}}})"},
        "Unfinished rows; waiting: for a person, blocked: for other tasks. Queues that no worker serves are counted together as "
        "other.",
    ),
    Panel(
        "Oldest runnable task",
        "lines",
        {"{{queue}}": f"max by (queue) (turbo_queue_oldest_runnable_age_seconds{{{QUEUE}}})"},
        "How far the queue is behind.",
        "s",
    ),
    Panel(
        "Oldest open question",
        "lines",
        {"{{queue}}": f"max by (queue) (turbo_oldest_question_age_seconds{{{QUEUE}}})"},
        "How long a task has waited for a person's answer: turbo questions. Tasks that are held on purpose do not count.",
        "s",
    ),
    Panel(
        "Waiting for a person, stranded, unplaceable",
        "lines",
        {
            "waiting {{queue}}": f"max by (queue) (turbo_queue_tasks{{{QUEUE}, status='waiting'}})",
            "stranded {{queue}}": f"max by (queue) (turbo_stranded_tasks{{{QUEUE}}})",
            "unplaceable {{queue}}": f"max by (queue) (turbo_unplaceable_tasks{{{QUEUE}}})",
        },
        "Stranded: answered, and only a host without a live worker could go on with them. Unplaceable: no live worker of the queue has"
        " the labels that they require. turbo status names the cause.",
    ),
    Panel(
        "Waiting for other tasks",
        "lines",
        {
            "blocked {{queue}}": f"max by (queue) (turbo_queue_tasks{{{QUEUE}, status='blocked'}})",
            "unsettled {{queue}}": f"max by (queue) (turbo_unsettled_tasks{{{QUEUE}}})",
        },
        "Unsettled: nothing that they wait for is left, and no worker lets them go. turbo status names the cause.",
    ),
    Panel(
        "Schedules",
        "lines",
        {
            "{{state}}": "max by (state) (turbo_schedules)",
            "late (s)": "max(turbo_schedule_late_seconds)",
            "fired in 1 h": "sum(increase(turbo_schedule_slots_total{result='fired'}[1h]))",
            "passed over in 1 h": "sum(increase(turbo_schedule_slots_total{result='skipped'}[1h]))",
        },
        "Error: it does not fire, its last task was refused, or it has paused itself. Late: a slot that no worker has fired.",
    ),
    Panel(
        "Budgets",
        "lines",
        {
            "{{budget}}": "max by (budget) (turbo_budget_used_ratio)",
            "spent: {{budget}}": "max by (budget) (turbo_budget_spent) > 0",
        },
        "The share of its limit that is used of each budget, in its current period. Spent: what it covers waits.",
    ),
    Panel(
        "Notifications",
        "lines",
        {
            "{{subscription}} waits (s)": "max by (subscription) (turbo_subscription_waiting_seconds)",
            "{{subscription}} failures": "max by (subscription) (turbo_subscription_failures)",
            "to {{target}} in 1 h": "sum by (target) (increase(turbo_events_delivered_total[1h]))",
            "refused by {{target}} in 1 h": "sum by (target) (increase(turbo_event_deliveries_failed_total[1h]))",
        },
        "Events of subscriptions. Waits: the oldest one that its target has not taken. Failures: deliveries that failed in a row.",
    ),
    Panel(
        "Pickup: runnable to agent started",
        "lines",
        {
            "p50 {{queue}}": f"histogram_quantile(0.5, sum by (queue, le) (rate(turbo_pickup_seconds_bucket{{{QUEUE}}}[5m])))",
            "p95 {{queue}}": f"queue:turbo_pickup_seconds:p95_5m{{{QUEUE}}}",
            "p99 {{queue}}": f"histogram_quantile(0.99, sum by (queue, le) (rate(turbo_pickup_seconds_bucket{{{QUEUE}}}[5m])))",
        },
        "Milliseconds while slots are free; the queue's wait when they are not.",
        "s",
    ),
    Panel(
        "Wait: runnable to claimed",
        "lines",
        {"p95 {{queue}}": f"queue:turbo_task_wait_seconds:p95_5m{{{QUEUE}}}"},
        "The database's and the fleet's part of the pickup.",
        "s",
    ),
    Panel(
        "Claims",
        "lines",
        {"{{queue}} {{result}}": f"sum by (queue, result) (rate(turbo_claims_total{{{QUEUE}}}[$__rate_interval]))"},
        "claimed: tasks a second. lost: wake-ups and keys that another worker was faster at.",
        "ops",
    ),
    Panel(
        "Runs that ended, by outcome",
        "stacked",
        {
            "{{outcome}}": f"sum by (outcome) (rate(turbo_tasks_finished_total{{{QUEUE}}}[$__rate_interval]))",
        },
        "succeeded, failed, timed_out, cancelled, auth_failed, usage_limited, unavailable, infrastructure.",
        "ops",
    ),
    Panel(
        "Success, last hour",
        "lines",
        {"{{queue}}": f"queue:turbo_tasks_success:ratio1h{{{QUEUE}}}"},
        "Of the runs that ended with a verdict on the task.",
        "percentunit",
    ),
    Panel(
        "Run time",
        "lines",
        {
            "p50 {{executor}}": "histogram_quantile(0.5, sum by (executor, le)"
            f" (rate(turbo_task_duration_seconds_bucket{{{QUEUE}}}[15m])))",
            "p95 {{executor}}": "histogram_quantile(0.95, sum by (executor, le)"
            f" (rate(turbo_task_duration_seconds_bucket{{{QUEUE}}}[15m])))",
        },
        "From claim to end, all outcomes.",
        "s",
    ),
    Panel(
        "Retries by reason",
        "bars",
        {
            "{{queue}} {{reason}}": f"sum by (queue, reason) (increase(turbo_retries_total{{{QUEUE}}}[$__rate_interval]))"
        },
        "reason is the task's failure_kind.",
    ),
    Panel(
        "Checks of what agents delivered",
        "bars",
        {
            "{{executor}} {{result}}": "sum by (executor, result) (increase(turbo_checks_total[$__rate_interval]))",
        },
        "passed; failed: the command's exit code; timed_out; unmet: something that requires names; protected: a protected file was "
        "changed; unfit: the answer does not fit its schema; rejected: by the reviewer.",
    ),
    Panel(
        "Checks until a task is done, and unverified tasks",
        "lines",
        {
            "checks p50 {{executor}}": "histogram_quantile(0.5, sum by (executor, le) (rate(turbo_check_rounds_bucket[1h])))",
            "checks p95 {{executor}}": "histogram_quantile(0.95, sum by (executor, le) (rate(turbo_check_rounds_bucket[1h])))",
            "unverified in 1h {{queue}}": f"sum by (queue) (increase(turbo_unverified_tasks_total{{{QUEUE}}}[1h]))",
        },
        "1: passed at once. Unverified: no check passed, in any round.",
    ),
    Panel(
        "Pushes of tasks' branches",
        "bars",
        {
            "{{executor}} {{result}}": "sum by (executor, result) (increase(turbo_workspace_pushes_total[$__rate_interval]))"
        },
        "After each run, with `workspace: {push: origin}`. failed: the work is on its host only; `turbo show ID` tells why.",
    ),
    Panel(
        "Running by executor",
        "stacked",
        {"{{executor}}": "sum by (executor) (turbo_running_tasks)"},
        "Runs in progress.",
    ),
]

ACCOUNT = 'account=~"$account"'
ACCOUNTS = [
    Panel(
        "Paused accounts",
        "states",
        {
            "{{account}} {{reason}} {{host}}": f"max by (account, reason, host) (turbo_account_paused{{{ACCOUNT}}})",
        },
        "auth: not logged in on that host. usage_limit: until its reset, on every host. "
        "unavailable: its service is away. manual: turbo pause. credits: its service wants a payment.",
        width=24,
    ),
    Panel(
        "Subscription utilization",
        "lines",
        {"{{account}} {{window}}": f"max by (account, window) (turbo_account_utilization_ratio{{{ACCOUNT}}})"},
        "How much of each window is used, as the agents report it.",
        "percentunit",
    ),
    Panel(
        "Time to the reset",
        "lines",
        {
            "{{account}} {{window}}": f"max by (account, window) (turbo_account_resets_timestamp_seconds{{{ACCOUNT}}}) - time()"
        },
        "Until nothing of the window is used again.",
        "s",
    ),
    Panel(
        "Runs in progress by account",
        "stacked",
        {"{{account}}": f"sum by (account) (turbo_running_tasks{{{ACCOUNT}}})"},
        "On all hosts.",
    ),
    Panel(
        "Utilisation by account",
        "lines",
        {"{{account}}": f"account:turbo_running_tasks:utilisation{{{ACCOUNT}}}"},
        "Runs in progress over the slots of the workers that have the account.",
        "percentunit",
    ),
    Panel(
        "Cost, last hour",
        "lines",
        {"{{account}} {{model}}": f"account_model:turbo_agent_cost_usd:increase1h{{{ACCOUNT}}}"},
        "What the agent CLI reported. On a subscription it is the API's price of the same work, not a bill.",
        "currencyUSD",
    ),
    Panel(
        "Cost in the dashboard's time range",
        "stat",
        {"{{account}}": f"sum by (account) (increase(turbo_agent_cost_usd_total{{{ACCOUNT}}}[$__range]))"},
        "What the agent CLI reported.",
        "currencyUSD",
    ),
    Panel(
        "Tokens a second by kind",
        "stacked",
        {"{{account}} {{kind}}": f"account_kind:turbo_agent_tokens:rate5m{{{ACCOUNT}}}"},
        "input, output, cache_read, cache_write.",
    ),
    Panel(
        "Tokens by model, last hour",
        "bargauge",
        {"{{model}}": f"sum by (model) (increase(turbo_agent_tokens_total{{{ACCOUNT}}}[1h]))"},
        "All kinds together.",
    ),
    Panel(
        "Refused logins",
        "bars",
        {
            "{{account}} {{host}}": f"sum by (account, host) (increase(turbo_auth_failures_total{{{ACCOUNT}}}[$__rate_interval]))"
        },
        "Each was followed by a probe; none uses up a retry.",
    ),
    Panel(
        "Usage limits hit",
        "bars",
        {"{{account}}": f"sum by (account) (increase(turbo_usage_limit_pauses_total{{{ACCOUNT}}}[$__rate_interval]))"},
        "Pauses that began.",
    ),
]


def build(title: str, uid: str, help_text: str, panels: list[Panel], variables: dict[str, str]) -> str:
    """One dashboard as JSON text."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(help_text)
        .tags(["turbo"])
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .editable()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for name, query in variables.items():
        made = made.with_variable(
            dashboard.QueryVariable(name)
            .datasource(SOURCE)
            .query(query)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(VariableOption(text="All", value="$__all"))
        )
    for number, (panel, place) in enumerate(zip(panels, _grid(panels), strict=True), start=1):
        made = made.with_panel(_panel(panel, place).id(number))
    return str(JSONEncoder(sort_keys=True, indent=2).encode(made.build())) + "\n"


def _grid(panels: list[Panel]) -> Iterator[GridPos]:
    x = y = row = 0
    for panel in panels:
        if x + panel.width > 24:
            x, y, row = 0, y + row, 0
        yield GridPos(x=x, y=y, w=panel.width, h=panel.height)
        x, row = x + panel.width, max(row, panel.height)


KINDS = {
    "stat": stat.Panel,
    "lines": timeseries.Panel,
    "stacked": timeseries.Panel,
    "bars": timeseries.Panel,
    "states": statetimeline.Panel,
    "table": table.Panel,
    "bargauge": bargauge.Panel,
}


def _panel(panel: Panel, place: GridPos):  # type: ignore[no-untyped-def] # each kind has its own builder type
    made = (
        KINDS[panel.kind]()
        .title(panel.title)
        .description(panel.help)
        .datasource(SOURCE)
        .unit(panel.unit)
        .grid_pos(place)
    )
    if panel.kind in ("lines", "stacked", "bars", "stat") and panel.unit != "percentunit":
        made = made.min(0)
    if panel.unit == "percentunit":
        made = made.min(0).max(1)
    if panel.kind == "stacked":
        made = made.stacking(StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(30)
    if panel.kind == "bars":
        made = made.draw_style(GraphDrawStyle.BARS).fill_opacity(60)
    if panel.kind == "bargauge":
        made = made.orientation(VizOrientation.HORIZONTAL)
    if panel.warn is not None:
        steps = [Threshold(value=None, color="green")]
        steps += [Threshold(value=v, color=c) for v, c in zip(panel.warn, ("orange", "red"), strict=True)]
        made = made.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    for number, (legend, expression) in enumerate(panel.queries.items()):
        query = prometheus.Dataquery().ref_id(chr(ord("A") + number)).datasource(SOURCE).expr(expression)
        query = query.legend_format(legend)
        if panel.kind == "table":
            query = query.format(PromQueryFormat.TABLE)
        made = made.with_target(query.instant() if panel.kind in ("stat", "table", "bargauge") else query.range())
    return made


def dashboards() -> dict[str, str]:
    """File name → its JSON."""
    return {
        "fleet.json": build(
            "turbo: fleet",
            "turbo-fleet",
            "Is the fleet well?",
            FLEET,
            {"host": "label_values(turbo_slots, host)"},
        ),
        "tasks.json": build(
            "turbo: tasks and latency",
            "turbo-tasks",
            "How long does a task wait, how long does it run, what becomes of it?",
            TASKS,
            {"queue": "label_values(turbo_queue_tasks, queue)"},
        ),
        "accounts.json": build(
            "turbo: accounts and cost",
            "turbo-accounts",
            "Which account is paused, how busy is it, what does it cost?",
            ACCOUNTS,
            {"account": "label_values(turbo_account_paused, account)"},
        ),
    }


def main() -> int:
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, text in dashboards().items():
        (TARGET / name).write_text(text)
        print(TARGET / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
