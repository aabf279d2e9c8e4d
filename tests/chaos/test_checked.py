"""Workers killed while they check: the work is judged in the end, and no program that was done runs again."""

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.support.size import sized
from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess

TASKS = sized(8, 100)
KILLS = sized(4, 40)
BAD = 4
"""Every so many tasks' work is bad."""

PROGRAM = 'printf "%s ran\\n" "$TURBO_TASK_ID" >>"$1"; printf 1'
CHECK = f'printf "%s check\\n" "$TURBO_TASK_ID" >>"$1"; sleep 0.3; n=${{TURBO_TASK_ID#t}}; [ $((n % {BAD})) -ne 0 ]'


pytestmark = [pytest.mark.sized]


class Checked:
    """Two workers of one host, so that whoever starts again finds what the killed one left on the disk."""

    def __init__(self, bench: Bench, without: tuple[str, ...] = ()) -> None:
        self.bench, self._without = bench, without
        self._dice = random.Random(7)
        self.workers = [self._start(n) for n in range(2)]
        for worker in self.workers:
            worker.listening()
        bench.sql(
            "insert into agent_tasks (task_id, task_description, max_retries, infra_count) select 't' || n, 'x', 0, 0"
            " from generate_series(1, %s) n",
            TASKS,
        )

    def _start(self, n: int) -> WorkerProcess:
        config = self.bench.config(name=f"w{n}", slots=2, poll_seconds=1)
        command = ["/bin/sh", "-c", PROGRAM, "sh", str(self.bench.ledger)]
        check = {"command": ["/bin/sh", "-c", CHECK, "sh", str(self.bench.ledger)]}
        config["executors"]["checked"] = {"kind": "command", "command": command, "grace_seconds": 1, "check": check}
        config["routes"]["default"] = "checked"
        return self.bench.start(config, without=self._without)

    def lines(self) -> list[list[str]]:
        path: Path = self.bench.ledger
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def kill_one_that_checks(self) -> None:
        """Once another check has begun. Whose it is, is not known: a worker that checks nothing may be hit as well."""
        begun = self._checks()
        until(lambda: self._checks() > begun or self.over(), 60, lambda: self.bench.logs()[-6000:])
        n = self._dice.randrange(len(self.workers))
        self.workers[n].kill()
        self.workers[n].process.wait(timeout=30)
        self.workers[n] = self._start(n)

    def _checks(self) -> int:
        return sum(word == "check" for _, word in self.lines())

    def over(self) -> bool:
        open_ = "select count(*) from agent_tasks where status not in ('completed', 'failed', 'cancelled')"
        return self.bench.sql(open_) == [(0,)]

    def run_again(self) -> list[str]:
        """Tasks whose program ran after it was done: its check had begun."""
        checked, again = set(), []
        for task_id, word in self.lines():
            if word == "check":
                checked.add(task_id)
            elif task_id in checked:
                again.append(task_id)
        return again

    def complaints(self) -> list[str]:
        found = []
        query = "select task_id, status, failure_kind, output_data -> 'check' ->> 'passed' from agent_tasks"
        for task_id, status, kind, passed in self.bench.sql(query):
            bad = int(task_id[1:]) % BAD == 0
            if (status, kind, passed) != (("failed", "unverified", "false") if bad else ("completed", None, "true")):
                found.append(f"{task_id} is {status}, {kind}, passed: {passed}")
        query = "select task_id, fencing_token, detail ->> 'number' from agent_actions where action_type = 'checked'"
        rows = Counter(self.bench.sql(query))
        found += [
            f"check {number} of {task_id} is {n} times in the trail"
            for (task_id, _, number), n in rows.items()
            if n > 1
        ]
        found += [f"{task_id} has no check in the trail" for task_id in self._tasks() - {row[0] for row in rows}]
        return found

    def _tasks(self) -> set[str]:
        return {f"t{n}" for n in range(1, TASKS + 1)}

    def killed(self) -> "Checked":
        for _ in range(KILLS):
            self.kill_one_that_checks()
        until(self.over, sized(90, 600), lambda: self.bench.logs()[-6000:])
        return self

    def repeated_checks(self) -> int:
        return sum(n > 1 for n in Counter(task_id for task_id, word in self.lines() if word == "check").values())


@pytest.mark.timeout(sized(300, 1500))
def test_work_is_judged_once_beside_kills(bench: Bench) -> None:
    one = Checked(bench).killed()
    assert one.complaints() == []
    assert one.run_again() == []
    assert one.repeated_checks() > 0, "the kills hit a check"


def test_without_its_state_a_program_runs_again(bench: Bench) -> None:
    """The control: what a run knows of its checks is not kept."""
    one = Checked(bench, without=("check_state",)).killed()
    assert one.run_again()
