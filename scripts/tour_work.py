"""What people ask of the fleet of `make tour`: a first round of everything, then a steady little stream.

Never more than MOST_UNFINISHED tasks are under way, and never more than MOST_ASKING wait for a person: the tour may run for days.
"""

import datetime
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import tour_scenes as scenes

from turbo import Client

MOST_UNFINISHED = 12
MOST_ASKING = 6
HISTORY_DAYS = 14


@dataclass
class Work:
    client: Client
    _number: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def first(self) -> None:
        """Once: what is configured, and one of each."""
        schedules, budgets = self.client.schedules, self.client.budgets
        schedules.add("nightly-audit", "*/5 * * * *", f"{scenes.AUDIT} of the shop", task_type="agent")
        schedules.add(
            "weekly-notes", "0 9 * * 1", f"{scenes.NOTES} of the week", task_type="agent", timezone="Europe/Berlin"
        )
        schedules.pause("weekly-notes")
        budgets.set("team", usd=50, period="day")
        budgets.set("experiments", usd=0.05, period="day", queue="experiments")
        self.client.limits.set("staging", 2)
        for make in (self.question, self.approval, self.held, self.fix, self.migration, self.audit, self.broken_import):
            make()
        for make in (self.graph, self.explain, self.experiment, self.explain, self.migration):
            make()
        self.client.submit("Build the app for phones", task_type="agent", requires={"xcode": "16"})

    def steadily(self) -> Iterator[Callable[[], None]]:
        """For ever: what comes next, as far as there is room for it."""
        deck = (
            *(
                self.fix,
                self.explain,
                self.deploy,
                self.migration,
                self.question,
                self.report,
                self.audit,
                self.follow_up,
            ),
            *(self.approval, self.broken_import, self.graph, self.experiment, self.tell, self.broken_agent, self.held),
        )
        asking = (self.question, self.approval, self.held)
        for make in itertools.cycle(deck):
            waiting, unfinished = self._counts()
            if unfinished < MOST_UNFINISHED and not (make in asking and waiting >= MOST_ASKING):
                yield make
            else:
                yield lambda: None

    def _counts(self) -> tuple[int, int]:
        """Who waits for a person, and who runs or could."""
        waiting = len(self.client.tasks(status="waiting", limit=100))
        return waiting, sum(len(self.client.tasks(status=status, limit=100)) for status in ("pending", "running"))

    # ── one kind of work each ───────────────────────────────────────────────────────────────────────────────────────

    def question(self) -> None:
        self.client.submit(f"{scenes.COUPONS}", task_type="code", priority=2)

    def approval(self) -> None:
        self.client.submit(f"{scenes.RELEASE} once everything is in it", task_type="agent")

    def held(self) -> None:
        self.client.submit(f"{scenes.EXPLAIN}, for the customers' magazine", task_type="agent", hold=True)

    def fix(self) -> None:
        self.client.submit(f"{scenes.FIX}: a discount of half a cent is lost", task_type="code")

    def explain(self) -> None:
        self.client.submit(f"{scenes.EXPLAIN} to a new colleague", task_type="agent", queue="reviews")

    def migration(self) -> None:
        self.client.submit(scenes.MIGRATE, task_type="agent", priority=1)

    def audit(self) -> None:
        self.client.submit(f"{scenes.AUDIT} of the shop", task_type="agent", queue="reviews")

    def experiment(self) -> None:
        self.client.submit(f"{scenes.EXPLAIN}, with a larger model", task_type="agent", queue="experiments")

    def broken_agent(self) -> None:
        self.client.submit(scenes.BROKEN, task_type="agent", max_retries=1)

    def broken_import(self) -> None:
        data = {"file": "customers.csv", "fails": True}
        self.client.submit("Import the customers of the old shop", task_type="program", input_data=data, max_retries=1)

    def report(self) -> None:
        self.client.submit("Count yesterday's orders", task_type="program", input_data={"seconds": 2})

    def deploy(self) -> None:
        for place in ("web", "api", "jobs"):
            text = f"Deploy {place} to staging"
            self.client.submit(text, task_type="program", input_data={"seconds": 4}, concurrency_key="staging")

    def graph(self) -> None:
        """Build, three kinds of tests, then the notes."""
        number = next(self._number)
        build = self.client.submit("Build the release", task_type="program", task_id=f"build-{number}")
        parts = [
            self.client.submit(
                f"Test the release: {part}",
                task_type="program",
                task_id=f"test-{part}-{number}",
                needs=[build.task_id],
                input_data={"seconds": seconds},
            ).task_id
            for part, seconds in (("cart", 3), ("mail", 5), ("search", 8))
        ]
        self.client.submit(f"{scenes.NOTES} of 2.{number}", task_type="agent", task_id=f"notes-{number}", needs=parts)

    def follow_up(self) -> None:
        """Ask for a little more, where an agent has finished."""
        over = [task for task in self.client.tasks(status="completed", limit=30) if task.task_type == "code"]
        if over:
            self.client.reply(random.choice(over).task_id, "Please add a line about this to the changelog, too.")

    def tell(self) -> None:
        """A word to an agent that is at work."""
        for task in self.client.tasks(status="running", limit=20):
            if task.task_type == "agent" and task.task_description.startswith(scenes.MIGRATE):
                self.client.tell(task.task_id, "Leave the refunds for last, please.")
                return


def write_history(db: psycopg.Connection[Any]) -> None:
    """A made-up fortnight, so that the charts have something to show: tasks that are over, and what they used."""
    random.seed(14)
    now = datetime.datetime.now(datetime.UTC)
    tasks, usage = [], []
    for day in range(HISTORY_DAYS, -1, -1):
        weekday = (now - datetime.timedelta(days=day)).weekday()
        for number in range(random.randint(6, 10) if weekday >= 5 else random.randint(22, 36)):
            # Of today, the last hours only, and more of them.
            ago = day * 86400 + random.uniform(600, 86000) if day else random.uniform(120, 6 * 3600)
            made = now - datetime.timedelta(seconds=ago)
            begun = made + datetime.timedelta(seconds=random.expovariate(1 / 6))
            ended = min(begun + datetime.timedelta(seconds=random.uniform(20, 300)), now)
            status = random.choices(["completed", "failed", "cancelled"], [30, 3, 1])[0]
            kind, text = random.choice(
                [("code", scenes.FIX), ("code", scenes.COUPONS), ("agent", scenes.EXPLAIN), ("agent", scenes.AUDIT)]
            )
            task_id = f"past-{day}-{number}"
            tasks.append(
                (task_id, kind, text, status, made, made, begun, ended, int((ended - begun).total_seconds() * 1000))
            )
            account, cost = random.choice(["alpha-max", "beta-max"]), random.uniform(0.02, 0.6)
            tokens = int(cost * 40_000)
            usage.append(
                (task_id, len(usage) + 1, ended, kind, "coder" if kind == "code" else "agent", account, tokens, cost)
            )
    with db.cursor() as cursor:
        cursor.executemany(
            "insert into agent_tasks (task_id, task_type, task_description, status, created_at, run_after, started_at,"
            ' completed_at, execution_time_ms, output_data) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, \'{"output": "done"}\')',
            tasks,
        )
        cursor.executemany(
            "insert into agent_usage (task_id, attempt, fencing_token, at, queue, task_type, executor, account, model,"
            " submitted_by, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd, counted)"
            " values (%s, 1, -%s, %s, 'default', %s, %s, %s, 'scripted-1', 'postgres', %s, 900, 0, 0, %s, true)",
            usage,
        )
