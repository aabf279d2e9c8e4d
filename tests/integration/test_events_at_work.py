"""Real workers that deliver events: one is killed, one takes over, and a role with no more than a worker's rights does it all."""

import json
from pathlib import Path
from typing import Any

from tests.support.notices import Received, receiver
from tests.support.waiting import until
from tests.support.workers import Bench


def test_other_worker_takes_over_after_a_kill(bench: Bench, tmp_path: Path) -> None:
    """The receiver fails every other time. An idle worker without targets holds nothing."""
    number = 0

    def answer(_one: Received) -> tuple[int, dict[str, str]]:
        nonlocal number
        number += 1
        return (204 if number % 2 else 500), {}

    taken: list[dict[str, Any]] = []

    def names() -> list[tuple[str, str]]:
        return [(event["event"], event.get("task_id") or event["about"]) for event in taken]

    with receiver(answer) as there:

        def read() -> None:
            taken[:] = [
                event
                for place, one in enumerate(there.received)
                if place % 2 == 0
                for event in json.loads(one.body)["events"]
            ]

        config = bench.config(slots=1, poll_seconds=1)
        config["notify"] = {"ops": {"kind": "webhook", "url": there.url, "private": True}}
        without = bench.start(bench.config(name="plain", slots=1, queues=["nobody"])).listening()
        first = bench.start(config, name="first").listening()
        bench.sql(
            "insert into agent_subscriptions (name, events, target) values ('s', '{completed,worker_died}', 'ops')"
        )
        until(lambda: bench.sql("select holder from agent_subscriptions") == [(first.worker_id,)], 20, bench.logs)
        bench.insert("a")
        until(lambda: (read(), ("completed", "a") in names())[1], 20, bench.logs)
        second = bench.start(config, name="second").listening()
        first.kill()
        bench.insert("b")
        died = ("worker_died", first.worker_id)
        until(lambda: (read(), {("completed", "b"), died} <= set(names()))[1], 40, bench.logs)
        assert bench.sql("select holder from agent_subscriptions") in ([(second.worker_id,)], [(None,)])
        assert second.stop() == 0
        assert bench.sql("select holder, failures from agent_subscriptions")[0][0] is None
        assert bench.sql(
            "select count(*) from pg_stat_activity where datname = current_database() and application_name = %s",
            f"turbo events {without.worker_id}",
        ) == [(0,)]
    assert tmp_path.exists()
