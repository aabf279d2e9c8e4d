"""The gauges of the whole fleet, which only the leader reports.

One immutable set of families, always replaced as a whole: a scrape sees the last result of the database, or nothing.
A worker that no longer leads stops reporting at once, so two workers never both report for long. Inserters cannot
create labels: a queue that no live worker serves is counted as `other`.
"""

from collections.abc import Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from turbo.domain.states import TaskState, WorkerState

LIVE_STATES = (TaskState.SCHEDULED, TaskState.PENDING, TaskState.BLOCKED, TaskState.RUNNING, TaskState.WAITING)
OTHER = "other"
SCHEDULE_STATES = ("on", "paused", "error")
"""`error`: it does not fire, its last task was refused, or it has paused itself."""


KEY_STATES, PLACE_STATES = ("free", "full"), ("free", "taken")


class FleetGauges(Collector):
    def __init__(self) -> None:
        self._families: tuple[GaugeMetricFamily, ...] = ()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The families without values: for the registry's check of names, and for the test of docs/metrics.md."""
        return _families()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._families

    def clear(self) -> None:
        """Report nothing: this worker is not the leader any more."""
        self._families = ()

    def replace(self, facts: Iterable[Mapping[str, object]]) -> None:
        """Report the rows of sql/workers/gauges.sql instead of the previous ones."""
        facts = list(facts)
        served = {str(f["label"]) for f in facts if f["what"] == "served"}
        counts: dict[tuple[str, str], float] = {(q, s.value): 0.0 for q in served for s in LIVE_STATES}
        ages: dict[str, float] = dict.fromkeys(served, 0.0)
        open_for: dict[str, float] = dict.fromkeys(served, 0.0)
        stuck: dict[str, float] = dict.fromkeys(served, 0.0)
        nowhere: dict[str, float] = dict.fromkeys(served, 0.0)
        left: dict[str, float] = dict.fromkeys(served, 0.0)
        states: dict[str, float] = {s.value: 0.0 for s in WorkerState}
        schedules: dict[str, float] = dict.fromkeys(SCHEDULE_STATES, 0.0)
        budgets: dict[tuple[str, str], float] = {}
        told: dict[tuple[str, str], float] = {}
        limits: dict[str, float] = dict.fromkeys(KEY_STATES, 0.0)
        places: dict[str, float] = dict.fromkeys(PLACE_STATES, 0.0)
        single = {"notify": 0.0, "transaction": 0.0, "schedule_late": 0.0}
        for f in facts:
            what, value = str(f["what"]), float(str(f["value"]))
            queue = str(f["label"]) if f["label"] in served else OTHER
            if what == "tasks":
                key = (queue, str(f["state"]))
                counts[key] = counts.get(key, 0.0) + value
            elif what == "oldest":
                ages[queue] = max(ages.get(queue, 0.0), value)
            elif what == "question":
                open_for[queue] = max(open_for.get(queue, 0.0), value)
            elif what == "stranded":
                stuck[queue] = stuck.get(queue, 0.0) + value
            elif what == "unplaceable":
                nowhere[queue] = nowhere.get(queue, 0.0) + value
            elif what == "unsettled":
                left[queue] = left.get(queue, 0.0) + value
            elif what == "workers":
                states[str(f["state"])] = value
            elif what == "schedules":
                schedules[str(f["state"])] = value
            elif what == "key_limits":
                limits[str(f["state"])] = value
            elif what == "key_places":
                places[str(f["state"])] = value
            elif what in ("budget_used", "budget_spent"):
                budgets[what, str(f["label"])] = value
            elif what in ("event_failures", "event_age"):
                told[what, str(f["label"])] = value
            elif what in single:
                single[what] = value
        tasks, oldest, question, stranded, unplaceable, unsettled, workers, *others = families = _families()
        schedule, late, used, spent, failing, age, key_limits, key_places, notify, transaction = others
        for (queue, status), value in sorted(counts.items()):
            tasks.add_metric([queue, status], value)
        for queue, value in sorted(ages.items()):
            oldest.add_metric([queue], value)
        for queue, value in sorted(open_for.items()):
            question.add_metric([queue], value)
        for queue, value in sorted(stuck.items()):
            stranded.add_metric([queue], value)
        for queue, value in sorted(nowhere.items()):
            unplaceable.add_metric([queue], value)
        for queue, value in sorted(left.items()):
            unsettled.add_metric([queue], value)
        for state, value in states.items():
            workers.add_metric([state], value)
        for state, value in schedules.items():
            schedule.add_metric([state], value)
        late.add_metric([], single["schedule_late"])
        for (what, budget), value in sorted(budgets.items()):
            (used if what == "budget_used" else spent).add_metric([budget], value)
        for (what, subscription), value in sorted(told.items()):
            (failing if what == "event_failures" else age).add_metric([subscription], value)
        for state, value in limits.items():
            key_limits.add_metric([state], value)
        for state, value in places.items():
            key_places.add_metric([state], value)
        notify.add_metric([], single["notify"])
        transaction.add_metric([], single["transaction"])
        self._families = families


def _families() -> tuple[GaugeMetricFamily, ...]:
    return (
        GaugeMetricFamily(
            "turbo_queue_tasks", "Tasks in the table, live states only. Leader only.", labels=["queue", "status"]
        ),
        GaugeMetricFamily(
            "turbo_queue_oldest_runnable_age_seconds",
            "How long the oldest runnable task has waited. Leader only.",
            labels=["queue"],
        ),
        GaugeMetricFamily(
            "turbo_oldest_question_age_seconds",
            "How long the oldest question to a person has been open; holds do not count. Leader only.",
            labels=["queue"],
        ),
        GaugeMetricFamily(
            "turbo_stranded_tasks",
            "Answered tasks that only one host may go on with, where no live worker serves their queue. Leader only.",
            labels=["queue"],
        ),
        GaugeMetricFamily(
            "turbo_unplaceable_tasks",
            "Pending tasks that require labels which no live worker of their queue has. Leader only.",
            labels=["queue"],
        ),
        GaugeMetricFamily(
            "turbo_unsettled_tasks",
            "Blocked tasks that no worker lets go, though nothing that they wait for is left. Leader only.",
            labels=["queue"],
        ),
        GaugeMetricFamily("turbo_workers", "Workers of the fleet, by state. Leader only.", labels=["state"]),
        GaugeMetricFamily("turbo_schedules", "Schedules, by state. Leader only.", labels=["state"]),
        GaugeMetricFamily(
            "turbo_schedule_late_seconds",
            "How long the slot that is most overdue has waited for a worker. Leader only.",
            labels=[],
        ),
        GaugeMetricFamily(
            "turbo_budget_used_ratio",
            "The share of its limit that is used of a budget, of the first hundred by name. Leader only.",
            labels=["budget"],
        ),
        GaugeMetricFamily(
            "turbo_budget_spent",
            "1 while the budget is spent, and what it covers waits. Leader only.",
            labels=["budget"],
        ),
        GaugeMetricFamily(
            "turbo_subscription_failures",
            "Deliveries of a subscription that failed in a row, of the first hundred by name. Leader only.",
            labels=["subscription"],
        ),
        GaugeMetricFamily(
            "turbo_subscription_waiting_seconds",
            "How long the oldest event of a subscription has waited, or nobody has looked for one. Leader only.",
            labels=["subscription"],
        ),
        GaugeMetricFamily(
            "turbo_key_limits",
            "Concurrency keys with a limit, the first thousand: full if as many of their tasks run as may. Leader only.",
            labels=["state"],
        ),
        GaugeMetricFamily(
            "turbo_key_places",
            "Places of these keys: how many of their tasks run, and how many more may. Leader only.",
            labels=["state"],
        ),
        GaugeMetricFamily(
            "turbo_notification_queue_usage_ratio", "pg_notification_queue_usage(). Leader only.", labels=[]
        ),
        GaugeMetricFamily(
            "turbo_oldest_transaction_age_seconds",
            "Age of the oldest transaction that keeps dead rows from being vacuumed. Leader only.",
            labels=[],
        ),
    )
