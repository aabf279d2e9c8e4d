"""Tasks that ask, answered in random order while their workers are killed: every answer reaches the task that asked, once."""

import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.size import sized
from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess

TASKS = sized(10, 200)
QUESTIONS = 2
ROUNDS = sized(6, 30)
"""At least so many kills: in each round a part of the answers is given."""
PROGRAM = Path(__file__).parents[1] / "support" / "programs" / "asking.sh"

pytestmark = [pytest.mark.sized]


class Asking:
    """Two workers of one host, so that whoever starts again finds what the killed one left on the disk."""

    def __init__(self, bench: Bench, without: tuple[str, ...] = ()) -> None:
        self.bench = bench
        self._without = without
        self._dice = random.Random(23)
        self.workers = [self._start(n) for n in range(2)]
        for worker in self.workers:
            worker.listening()

    def _start(self, n: int) -> WorkerProcess:
        config = self.bench.config(name=f"w{n}", slots=3)
        command = ["/bin/sh", str(PROGRAM), str(self.bench.ledger), str(QUESTIONS)]
        config["executors"]["asks"] = {"kind": "command", "command": command, "grace_seconds": 1, "ask": {}}
        config["routes"]["default"] = "asks"
        return self.bench.start(config, without=self._without)

    def kill_one(self) -> None:
        n = self._dice.randrange(len(self.workers))
        self.workers[n].kill()
        self.workers[n].process.wait(timeout=30)
        self.workers[n] = self._start(n)

    def answer_some(self, most: int) -> None:
        """In random order, whoever waits now; without waiting for all."""
        until(lambda: self._waiting() or self.over(), 60, lambda: self.bench.logs()[-6000:])
        for task_id, text in self._dice.sample(sorted(waiting := self._waiting()), min(most, len(waiting))):
            # It may be asked again in place of this question, where a fence is missing.
            update = "update agent_tasks set answer = %s where task_id = %s and question ->> 'text' = %s and status = 'waiting'"
            with psycopg.connect(self.bench.dsn, autocommit=True) as db:
                db.execute(update, [f"A<{text}>", task_id, text])

    def _waiting(self) -> list[tuple[Any, ...]]:
        return self.bench.sql("select task_id, question ->> 'text' from agent_tasks where status = 'waiting'")

    def over(self) -> bool:
        open_ = "select count(*) from agent_tasks where status not in ('completed', 'failed', 'cancelled')"
        return self.bench.sql(open_) == [(0,)]

    def complaints(self) -> list[str]:
        found = []
        for task_id, status, output in self.bench.sql("select task_id, status, output_data from agent_tasks"):
            told = " ".join(answers_of(task_id))
            if status != "completed" or (output or {}).get("output") != {"told": told}:
                found.append(f"{task_id} is {status}: {output}")
        given = self.bench.sql(
            "select task_id, detail -> 'question' ->> 'text' from agent_actions where action_type = 'answered'"
        )
        found += [f"{task} was answered {n} times: {text}" for (task, text), n in Counter(given).items() if n != 1]
        found += [f"{task} was answered: {text}" for task, text in given if f"A<{text}>" not in answers_of(task)]
        for line in self.bench.ledger.read_text().splitlines():
            task_id, _, told = line.partition(" told ")
            if strange := set(re.findall(r"A<[^>]*>", told)) - set(answers_of(task_id)):
                found.append(f"{task_id} was told {strange}")
        return found


def answers_of(task_id: str) -> list[str]:
    return [f"A<{task_id}.q{n}>" for n in range(QUESTIONS)]


def killed_while_asking(bench: Bench, without: tuple[str, ...] = ()) -> Asking:
    one = Asking(bench, without)
    with psycopg.connect(bench.dsn, autocommit=True) as db:
        db.execute(
            "insert into agent_tasks (task_id, task_description, max_retries) select 't' || n, 'x', 0"
            " from generate_series(1, %s) n",
            [TASKS],
        )
    for _ in range(ROUNDS):
        one.answer_some(math.ceil(TASKS * QUESTIONS / ROUNDS))
        one.kill_one()
    return one


@pytest.mark.timeout(sized(300, 1500))
def test_every_answer_reaches_the_task_that_asked_once(bench: Bench) -> None:
    one = killed_while_asking(bench)

    def answered() -> bool:
        one.answer_some(TASKS)
        return one.over()

    until(answered, 120, lambda: bench.logs()[-6000:])
    one.kill_one()  # and what it had recorded is sent once more
    one.workers[0].listening()
    one.workers[1].listening()
    bench.insert("last", task_type="noop")
    bench.wait("last")
    bench.sql("delete from agent_tasks where task_id = 'last' returning 1")
    assert not one.complaints()


def test_without_the_fence_an_answer_is_asked_for_again(bench: Bench) -> None:
    """The control: a worker that starts again sends what the killed one had recorded."""
    one = killed_while_asking(bench, without=("ask_fence",))
    asked = "select task_id, detail -> 'question' ->> 'text' from agent_actions where action_type = 'asked'"
    twice = f"{asked} group by 1, 2 having count(*) > 1"
    until(lambda: bench.sql(twice), 60, lambda: bench.logs()[-6000:])
    assert one.complaints()
