"""What people told tasks while these waited and ran, in the soak and the chaos suite; and what must have become of it."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.support.workers import Bench

REFUSED = (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.ForeignKeyViolation)


@dataclass
class Told:
    """`said`: what was accepted → the task that it was said to. `lost`: by a failover, with the commit that brought it."""

    said: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    lost: int = 0

    def tell(self, bench: Bench, dice: random.Random, number: int) -> None:
        """Somebody tells some task something. It may be over before that."""
        kind = dice.random()
        which = (
            "= 'running'"
            if kind < 0.6
            else "= 'completed'"
            if kind < 0.65
            else "not in ('completed', 'failed', 'cancelled')"
        )
        ids = bench.sql(f"select task_id from agent_tasks where status {which} order by random() limit 1")
        if not ids:
            return
        task_id, body = ids[0][0], f"M<m{number}>"
        try:
            bench.sql("insert into agent_messages (task_id, body) values (%s, %s)", task_id, body)
        except REFUSED:
            self.refused += 1
        else:
            self.said[body] = task_id

    def forget(self, there: set[str]) -> None:
        """What a failover lost: people are not told, and would say it again. `there`: all messages that are left."""
        gone = self.said.keys() - there
        self.lost += len(gone)
        for body in gone:
            del self.said[body]

    def complaints(
        self, rows: Mapping[str, Mapping[str, Any]], trail: Mapping[str, list[dict[str, Any]]],
        messages: Mapping[str, Mapping[str, Any]], deleted: set[str], heard: Mapping[str, set[str]],
    ) -> Iterator[str]:  # fmt: skip
        """`heard`: by task, what its program had at some start."""
        for body, task_id in self.said.items():
            message, task = messages.get(body), rows.get(task_id)
            if message is None:
                if task_id not in deleted:
                    yield f"{body} to {task_id} is gone"
            elif message["delivered_at"] is None:
                if task is None:
                    yield f"{body} is open, and {task_id} is gone"
                elif task["status"] != "failed" and task["failure_kind"] != "needs":
                    yield f"{body} to {task_id} is open, and that is {task['status']}"
            elif message["follow_up"] is not None:
                follow_up = rows.get(message["follow_up"])
                if follow_up is None and message["follow_up"] not in deleted:
                    yield f"{body} became {message['follow_up']}, which is not there"
                elif follow_up is not None and body not in follow_up["task_description"].split("\n\n"):
                    yield f"{body} is not in what {message['follow_up']} says"
            elif not self._closed(message, trail.get(task_id, [])):
                if not any(e["fencing_token"] == message["fencing_token"] for e in trail.get(task_id, [])):
                    yield f"{body} to {task_id} was delivered to run {message['fencing_token']}, of which nobody knows"
                if task is not None and task["task_type"] == "work" and body not in heard.get(task_id, ()):
                    yield f"{body} to {task_id} is said to be delivered, and no run of it had it"

    def _closed(self, message: Mapping[str, Any], trail: list[dict[str, Any]]) -> bool:
        lines = (e["detail"]["messages"] for e in trail if e["action_type"] == "undelivered")
        return any(message["message_id"] in line for line in lines)

    def became(self, messages: Mapping[str, Mapping[str, Any]]) -> Counter[str]:
        found: Counter[str] = Counter(refused=self.refused, lost=self.lost)
        for message in messages.values():
            open_ = message["delivered_at"] is None
            found["open" if open_ else "follow-up" if message["follow_up"] else "delivered or closed"] += 1
        return found
