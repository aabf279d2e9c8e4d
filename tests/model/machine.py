"""A small fleet against the real database, in every order of events that hypothesis can think of.

Three workers on two hosts, a handful of tasks, people who edit rows, an old poller, a standby that lags behind. Every
statement is turbo's own, sent through `turbo/queue.py`. After every step `truth.look` and `_runs_are_ours` must hold, every
answer is judged, and at the end, with all faults over, every task must come to an end.
"""

import copy
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.model.fleet import HEARTBEAT, HOSTS, LEASE, QUEUES, FakeWorker, Home, Op, Run
from tests.model.truth import SUCCEEDED, WAITING, TaskTruth, Truth, judge, look
from tests.model.world import Picture, World
from tests.rig import finished
from turbo.outcome import OutcomeKind
from turbo.queue import Answer, Claim, Differences, Held, Rescued
from turbo.spool import FinishedRun
from turbo.states import FINAL

ANY = st.integers(0, 11)
KEYS = (None, "a", "b")
HAND = ("pending", "cancelled", "completed", "failed", "later", "put off", "delete", "poll")
OUTCOMES = (
    OutcomeKind.SUCCEEDED,
    OutcomeKind.SUCCEEDED,
    OutcomeKind.FAILED,
    OutcomeKind.FAILED,
    OutcomeKind.TIMED_OUT,
    OutcomeKind.INFRASTRUCTURE,
    OutcomeKind.AUTH_FAILED,
)
TASKS_AT_MOST = 8
SETTLE_ROUNDS = 14


class Fleet(RuleBasedStateMachine):
    """`world` is set by whoever runs it. A failure says what was wrong, and hypothesis prints the steps."""

    world: ClassVar[World]
    seen: ClassVar["Counter[str]"] = Counter()
    """What happened, over all runs: a model in which a fault never bites shows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.world.reset()
        self.run = self.world.run
        self.now = 0.0  # the model's clock, seconds
        self.truth = Truth()
        self.saved = copy.deepcopy(self.truth)
        self.slots: list[FakeWorker | None] = [None] * len(HOSTS)
        self.disks: dict[str, list[Home]] = {host: [] for host in HOSTS}
        self.tokens: dict[int, Held] = {}  # every token that was ever handed out, in any line of history
        self.results: dict[Held, FinishedRun] = {}  # every success anybody ever had
        self.numbers = 0
        self.before = self.world.picture()
        self.exact = True  # whether `before` is what the last statement saw

    # ── looking ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def workers(self) -> list[FakeWorker]:
        return [w for w in self.slots if w is not None]

    def pick(self, items: list[Any], i: int) -> Any:
        return items[i % len(items)] if items else None

    def waiting(self) -> int:
        return sum(r["status"] == "pending" for r in self.before.tasks.values())

    def polled(self) -> list[str]:
        rows = self.before.tasks.values()
        return sorted(r["task_id"] for r in rows if r["status"] == "running" and r["fencing_token"] is None)

    @invariant()
    def everything_holds(self) -> None:
        picture = self.world.picture()
        self._lives(picture)
        look(picture, self.truth)
        self._runs_are_ours(picture)
        self._wishes(picture)
        self.before = picture

    def _lives(self, picture: Picture) -> None:
        """Nobody is declared dead before its time; whoever is, may lose its runs."""
        for worker in self.workers:
            row = picture.workers.get(worker.id)
            silence = self.now - self.truth.beats.get(worker.id, self.now)
            if row is None or row["state"] == "dead":
                self.seen["alive and declared dead"] += 1
                assert row is None or silence >= LEASE - 1, f"{worker.id} is dead after {silence} s of silence"
                for run in worker.runs.values():
                    run.excused = True
            else:
                assert row["silent_beats"] <= silence / HEARTBEAT / 0.9, (
                    f"{worker.id}: {row['silent_beats']} beats counted in {silence} s"
                )

    def _runs_are_ours(self, picture: Picture) -> None:
        """While a program lives, and until its result is recorded, the row and its key are its own."""
        for worker in self.workers:
            for held, run in worker.runs.items():
                if run.excused or run.in_doubt:
                    continue
                row = picture.tasks.get(held.task_id)
                assert row is not None, f"{held} is gone under {worker.id}"
                found = (row["status"], row["fencing_token"], row["assigned_worker_id"])
                assert found == ("running", held.token, worker.id), f"{worker.id} runs {held}, its row says {found}"

    def _wishes(self, picture: Picture) -> None:
        """What somebody asked of a running task is what it becomes."""
        for task_id, row in self.before.tasks.items():
            now = picture.tasks.get(task_id)
            wish = row["cancel_to"]
            if now is None or not self.exact or row["status"] != "running" or wish is None or now["status"] == "running":
                continue
            done = now["status"] == "completed" and wish in ("cancelled", "completed")
            assert now["status"] == wish or (now["status"] in WAITING and wish in WAITING) or done, (
                f"{task_id} became {now['status']}, asked was {wish}"
            )

    # ── one statement, and two at once ──────────────────────────────────────────────────────────────────────────────

    def do(self, op: Op | None, *, lost: bool = False) -> None:
        if op is not None:
            self.exact = True
            op.take(self.run(op.send()), lost)

    @precondition(lambda self: len(self.truth.tasks) > 1)
    @rule(first=ANY, second=ANY, i=ANY, j=ANY, k=ANY)
    def two_at_once(self, first: int, second: int, i: int, j: int, k: int) -> None:
        """One statement is carried out and not committed while another begins."""
        makers: list[Callable[[int, int], Op | None]] = [
            self.claim_op, self.record_op, self.release_op, self.rescue_op, self.sweep_op, self.reconcile_op, self.hand_op,
        ]  # fmt: skip
        one, two = self.pick(makers, first)(i, k), self.pick(makers, second)(j, k)
        if one is None or two is None or one.lane is two.lane or (one.name == two.name == "hand"):
            return
        if one.worker is two.worker and {one.name, two.name} & {"release", "reconcile"}:
            return  # a worker does not do these beside its other statements about the same runs
        self.exact = False
        try:
            answers = self.run(self.world.interleaved(one.send, one.lane, two.send))
        except psycopg.errors.DeadlockDetected:
            raise AssertionError(f"{one.name} and {two.name} wait for each other") from None
        one.take(answers[0], False)
        two.take(answers[1], False)
        self.seen["two at once"] += 1

    @precondition(lambda self: self.waiting() > 1 and len(self.workers) > 1)
    @rule(i=ANY, j=ANY)
    def claims_race(self, i: int, j: int) -> None:
        """A claim whose snapshot is older than the commit of its sibling's."""
        one, two = self.pick(self.workers, i), self.pick(self.workers, j)
        if one is None or one is two:
            return

        async def race() -> Claim:
            two.claims.begin = "begin isolation level repeatable read"
            async with two.claims.use() as connection:
                await connection.execute("select from public.agent_tasks limit 1")
            try:
                self.claim_taken(one, await one.queue.claim("default", 2, may_idle=True), False)
                claim = await two.queue.claim("default", 2, may_idle=True)
            except psycopg.Error:
                # turbo claims in READ COMMITTED and would claim again
                self.seen["key or row raced"] += 1
                await two.claims.end("rollback")
                return await two.queue.claim("default", 2, may_idle=True)
            await two.claims.end()
            return claim

        self.exact = False
        self.claim_taken(two, self.run(race()), False)

    # ── tasks and people ────────────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: len(self.truth.tasks) < TASKS_AT_MOST)
    @rule(key=st.sampled_from(KEYS), priority=st.sampled_from([None, 1, 5, 9]), queue=st.sampled_from(QUEUES[:1] * 3 + QUEUES),
          delay=st.sampled_from([0, 0, 0, 600]), retries=st.integers(0, 2))  # fmt: skip
    def insert(self, key: str | None, priority: int | None, queue: str, delay: int, retries: int) -> None:
        self.numbers += 1
        task_id = f"t{self.numbers}"
        self.world.admin.execute(
            "insert into agent_tasks (task_id, task_description, concurrency_key, task_priority, queue, max_retries,"
            " run_after) values (%s, 'x', %s, %s, %s, %s, now() + make_interval(secs => %s))",
            [task_id, key, priority, queue, retries, delay],
        )
        self.truth.tasks[task_id] = TaskTruth("scheduled" if delay else "pending")

    def hand_op(self, i: int, k: int) -> Op | None:
        task_id = self.pick(sorted(self.truth.tasks), i)
        what = HAND[k % len(HAND)]
        if task_id is None:
            return None
        sets = {
            "later": "status = 'scheduled', run_after = now() + interval '10 minutes'",
            "put off": "run_after = now() + interval '10 minutes'",
            "poll": "status = 'running', assigned_worker_id = 'old-1', started_at = now()",
        }.get(what, f"status = '{what}'")
        query = f"update agent_tasks set {sets} where task_id = '{task_id}'"
        if what == "delete":
            query = f"delete from agent_tasks where task_id = '{task_id}'"
        if what == "poll":
            query += " and status = 'pending' returning task_id"
        else:
            query += " returning task_id"

        async def send() -> tuple[str, str | None, list[Any]]:
            try:
                async with self.world.hand.use() as db:
                    rows = await (await db.execute(query)).fetchall()
                    row = await (
                        await db.execute("select status, fencing_token from agent_tasks where task_id = %s", [task_id])
                    ).fetchone()
                    return "", row and row[0], [rows, row]
            except (psycopg.errors.ObjectInUse, psycopg.errors.UniqueViolation) as error:
                if self.world.hand.begin is not None:
                    await self.world.hand.end("rollback")
                    self.world.hand.begin = "begin"
                return error.sqlstate or "", None, []

        return Op("hand", None, self.world.hand, send, lambda answer, _: self.hand_taken(task_id, what, answer))

    def hand_taken(self, task_id: str, what: str, answer: tuple[str, str | None, list[Any]]) -> None:
        refused, status, found = answer
        task, row = self.truth.tasks[task_id], self.before.tasks.get(task_id)
        live = row is not None and row["status"] == "running" and row["fencing_token"] is not None
        if self.exact:
            assert not (live and what == "delete" and not refused), f"{task_id} was deleted under its agent"
        self.seen["refused by hand"] += bool(refused)
        if refused or not found[0]:
            return
        if what == "delete":
            self.seen["deleted"] += 1
            del self.truth.tasks[task_id]
        elif what == "poll":
            task.polled = True
            if self.exact:
                assert row is not None
                assert row["status"] == "pending", "the old poller took what was not to be had"
        elif status == "running" and found[1][1] is not None:
            task.wishes += what != "put off"
            self.seen["wish"] += what != "put off"
        elif what != "put off" or (row is not None and row["status"] != status):
            self.seen["consumed by hand"] += bool(task.claims)
            task.consumed |= set(task.claims)
            if self.exact and row is not None and row["status"] in FINAL and what in ("pending", "later"):
                assert status in WAITING

    @precondition(lambda self: self.truth.tasks)
    @rule(i=ANY, k=ANY)
    def hand_edit(self, i: int, k: int) -> None:
        self.do(self.hand_op(i, k))

    @precondition(lambda self: self.polled())
    @rule(i=ANY, again=st.booleans())
    def the_poller_is_done(self, i: int, again: bool) -> None:
        if task_id := self.pick(self.polled(), i):
            sets = "status = 'pending', assigned_worker_id = null" if again else "status = 'completed', completed_at = now()"
            self.world.admin.execute(f"update agent_tasks set {sets} where task_id = %s", [task_id])

    @rule(queue=st.sampled_from(QUEUES))
    def pause(self, queue: str) -> None:
        if queue in self.before.paused:
            self.world.admin.execute("delete from agent_queues where queue = %s", [queue])
        else:
            self.world.admin.execute("insert into agent_queues (queue) values (%s)", [queue])

    # ── workers at work ─────────────────────────────────────────────────────────────────────────────────────────────

    @initialize()
    def start_all(self) -> None:
        for key in (None, "a", "a"):
            self.insert(key, 5, "default", 0, 1)
        for slot in range(len(HOSTS)):
            self.start(slot)
        self.the_standby_catches_up()

    def claim_op(self, i: int, k: int) -> Op | None:
        worker = self.pick(self.workers, i)
        if worker is None:
            return None
        queue, limit = (QUEUES[1], 2) if k == 0 else (QUEUES[0], 1 + k % 3)

        async def send() -> Claim:
            return await worker.queue.claim(queue, limit, may_idle=True)

        def take(claim: Claim, lost: bool) -> None:
            self.claim_taken(worker, claim, lost)
            if self.exact:
                self.claim_was_right(worker, claim, queue, limit)

        return Op("claim", worker, worker.claims, send, take)

    def claim_taken(self, worker: FakeWorker, claim: Claim, lost: bool) -> None:
        for task in claim.tasks:
            token, truth = task.fencing_token, self.truth.tasks[task.task_id]
            assert token not in self.tokens, f"token {token} was handed out before, for {self.tokens.get(token)}"
            self.tokens[token] = Held(task.task_id, token)
            truth.claims.append(token)
            self.seen["claim lost on the wire" if lost else "claimed"] += 1
            if not lost:
                worker.runs[Held(task.task_id, token)] = Run(task)

    def claim_was_right(self, worker: FakeWorker, claim: Claim, queue: str, limit: int) -> None:
        before, row = self.before, self.before.workers.get(worker.id)
        fit = row is not None and row["state"] == "up" and queue not in before.paused
        taken = {r["concurrency_key"] for r in before.tasks.values() if r["status"] == "running"} - {None}
        open_ = {
            t: r for t, r in before.tasks.items()
            if fit and r["status"] == "pending" and r["queue"] == queue and r["concurrency_key"] not in taken
        }  # fmt: skip
        got = {t.task_id for t in claim.tasks}
        assert got <= set(open_), f"{worker.id} claimed {got}, to be had were {set(open_)}"
        assert len(got) <= limit
        keys = [before.tasks[t]["concurrency_key"] for t in got if before.tasks[t]["concurrency_key"]]
        assert len(keys) == len(set(keys))
        left = [r for t, r in open_.items() if t not in got and r["concurrency_key"] not in keys]
        worst = min((_rank(before.tasks[t]["task_priority"]) for t in got), default=None)
        for r in left:
            if r["concurrency_key"] is None:
                assert len(got) == limit or keys, f"{r['task_id']} was to be had and was left"
                assert worst is None or _rank(r["task_priority"]) <= worst, f"{r['task_id']} goes first"
        assert got or not open_, f"nothing claimed of {set(open_)}"
        for task in claim.tasks:
            had = abs(before.tasks[task.task_id]["fencing_token"] or 0)
            assert task.fencing_token > had, f"{task.task_id}: token {task.fencing_token} after {had}"

    @precondition(lambda self: self.waiting())
    @rule(i=ANY, k=ANY, j=ANY, outcome=st.sampled_from(OUTCOMES))
    def claim_and_run(self, i: int, k: int, j: int, outcome: OutcomeKind) -> None:
        self.claim(i, k, False)
        self.everything_holds()
        self.a_program_ends(i, j, outcome, False)

    @precondition(lambda self: self.waiting())
    @rule(i=ANY, k=ANY, lost=st.sampled_from([False, False, False, True]))
    def claim(self, i: int, k: int, lost: bool) -> None:
        self.do(self.claim_op(i, k), lost=lost)

    @precondition(lambda self: any(w.alive_runs for w in self.workers))
    @rule(i=ANY, j=ANY, outcome=st.sampled_from(OUTCOMES), final=st.sampled_from([False, False, True]))
    def a_program_ends(self, i: int, j: int, outcome: OutcomeKind, final: bool) -> None:
        worker = self.pick([w for w in self.workers if w.alive_runs], i)
        if worker is not None:
            self.ends(worker, self.pick(worker.alive_runs, j), outcome, final=final, retry_delay_seconds=30.0)

    def ends(self, worker: FakeWorker, run: Run, outcome: OutcomeKind, **more: object) -> None:
        result = worker.end(run, outcome, **more)
        if result.outcome == SUCCEEDED:
            self.results[run.held] = result

    def record_op(self, i: int, k: int) -> Op | None:
        worker = self.pick([w for w in self.workers if w.spool], i)
        if worker is None:
            return None
        batch = list(worker.spool.values())[: 1 + k % 3]

        async def send() -> list[Answer]:
            return await worker.queue.finish(batch)

        return Op("record", worker, worker.results, send, lambda a, lost: self.recorded(worker, batch, a, lost))

    @precondition(lambda self: any(w.spool for w in self.workers))
    @rule(i=ANY, k=ANY, lost=st.sampled_from([False, False, False, True]))
    def record(self, i: int, k: int, lost: bool) -> None:
        self.do(self.record_op(i, k), lost=lost)

    def recorded(self, worker: FakeWorker | None, batch: list[FinishedRun], answers: list[Answer], lost: bool) -> None:
        """Judge the answers; then the results leave the spool, unless the answer never came."""
        assert len(answers) == len(batch)
        picture = self.world.picture()
        for answer in answers:
            held = Held(answer.task_id, answer.token)
            result = next(r for r in batch if (r.task_id, r.fencing_token) == held)
            task = self.truth.tasks.get(held.task_id)
            row = self.before.tasks.get(held.task_id) if self.exact else None
            wrong = judge(task, row, result, answer)
            assert not wrong, f"{held} {result.outcome}: {wrong}"
            told = [e for e in picture.trail.get(held.task_id, []) if e["fencing_token"] == held.token]
            assert any(e["action_type"] in ("finished", "late") for e in told), f"{held}: the result is nowhere"
            self.seen[answer.verdict] += 1
            if task is not None and answer.verdict == "recorded":
                self.seen["recorded, the claim lost"] += held.token not in task.claims
                self.seen["recorded after a rescue"] += any(e["action_type"] == "rescued" for e in told)
                self.seen["poison"] += answer.becomes == "failed" and result.outcome == "infrastructure"
                task.recorded.add(held.token)
                task.consumed.add(held.token)
                if result.outcome == SUCCEEDED and answer.becomes == "completed":
                    now = picture.tasks[held.task_id]
                    assert now["output_data"] is not None
            elif task is not None and answer.verdict == "late":
                task.told_late.add(held.token)
            if worker is None:
                continue
            if lost:
                if held in worker.runs:
                    worker.runs[held].in_doubt = True
            else:
                worker.done[held] = worker.spool.pop(held, result)
                worker.forget(held)

    @precondition(lambda self: any(w.done for w in self.workers))
    @rule(i=ANY)
    def replay_what_is_done(self, i: int) -> None:
        """After a reconnect."""
        worker = self.pick([w for w in self.workers if w.done], i)
        if worker is not None:
            self.exact = True
            for result in list(worker.done.values()):
                self.before = self.world.picture()
                self.recorded(None, [result], self.run(worker.queue.finish([result])), False)

    @precondition(lambda self: self.results)
    @rule(i=ANY, j=ANY)
    def an_old_success_comes_in(self, i: int, j: int) -> None:
        """From a spool that somebody restored, or a worker that nobody remembers."""
        worker, result = self.pick(self.workers, i), self.pick(list(self.results.values()), j)
        if worker is not None and result is not None:
            self.exact = True
            for other in self.workers:
                if result.fencing_token in {h.token for h in other.runs}:
                    other.runs[Held(result.task_id, result.fencing_token)].in_doubt = True
            self.recorded(None, [result], self.run(worker.queue.finish([result])), False)

    def release_op(self, i: int, k: int) -> Op | None:
        worker = self.pick([w for w in self.workers if w.alive_runs], i)
        if worker is None:
            return None
        run = self.pick(worker.alive_runs, k)

        async def send() -> list[Held]:
            return await worker.queue.release([(run.held, None)], "drain", delay=60.0 * (k % 2))

        def take(released: list[Held], _lost: bool) -> None:
            if self.exact and not run.excused and not run.in_doubt:
                assert released == [run.held], "a release of what is its own was refused"
            for held in released:
                self.seen["released"] += 1
                self.truth.tasks[held.task_id].consumed.add(held.token)
            worker.forget(run.held)  # its program is gone, whatever the answer: an orphan is found by comparing

        return Op("release", worker, worker.results, send, take)

    @precondition(lambda self: any(w.alive_runs for w in self.workers))
    @rule(i=ANY, k=ANY, lost=st.sampled_from([False, False, True]))
    def release(self, i: int, k: int, lost: bool) -> None:
        self.do(self.release_op(i, k), lost=lost)

    def sweep_op(self, i: int, k: int) -> Op | None:
        worker = self.pick(self.workers, i)

        async def send() -> object:
            return await worker.queue.sweep(QUEUES)

        return worker and Op("sweep", worker, worker.claims, send, lambda *_: None)

    @precondition(lambda self: any(r["status"] == "scheduled" for r in self.before.tasks.values()))
    @rule(i=ANY)
    def sweep(self, i: int) -> None:
        self.do(self.sweep_op(i, 0))

    # ── leases ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(i=ANY)
    def beat(self, i: int) -> None:
        if (worker := self.pick(self.workers, i)) is not None:
            self.beats(worker)

    def beats(self, worker: FakeWorker) -> bool:
        self.exact = True
        alive, _, to_rescue = self.run(worker.beat())
        if not alive:
            self.run(worker.register())
        self.truth.beats[worker.id] = self.now
        row = self.world.picture().workers[worker.id]
        assert (row["host"], tuple(row["queues"])) == (worker.host, QUEUES), f"{worker.id} stands there as {row}"
        return to_rescue

    def rescue_op(self, i: int, k: int) -> Op | None:
        worker = self.pick(self.workers, i)

        async def send() -> list[Rescued]:
            return await worker.queue.rescue("worker_silent")

        return worker and Op("rescue", worker, worker.claims, send, lambda rescued, _: self.rescued(rescued))

    def rescued(self, rescued: list[Rescued]) -> None:
        for one in rescued:
            self.seen["rescued"] += 1
            self.seen["poison"] += one.status == "failed"

    @precondition(lambda self: any(w["state"] == "dead" for w in self.before.workers.values()))
    @rule(i=ANY)
    def rescue(self, i: int) -> None:
        self.do(self.rescue_op(i, 0))

    def reconcile_op(self, i: int, k: int) -> Op | None:
        worker = self.pick(self.workers, i)
        if worker is None:
            return None
        known = list(worker.runs)

        async def send() -> tuple[Differences, list[Held]]:
            found = await worker.queue.reconcile(known)
            lost = [h for h in found.lost if h in worker.runs and not worker.runs[h].ended]
            return found, await worker.queue.reassert(lost)

        def take(answer: tuple[Differences, list[Held]], lost: bool) -> None:
            found, back = answer
            for held in found.orphans:
                self.seen["orphan"] += 1
                self.truth.tasks[held.task_id].consumed.add(held.token)
            for held in back:
                self.seen["reasserted"] += 1
                truth = self.truth.tasks[held.task_id]
                assert held.token not in truth.consumed, f"{held} was taken back, and is consumed"
                if held.token not in truth.claims:
                    truth.claims.append(held.token)
                had = abs(self.before.tasks[held.task_id]["fencing_token"] or 0) if self.exact else 0
                assert held.token >= had, f"{held} was taken back from a newer claim, {had}"
            if lost:
                return
            row = self.world.picture().workers.get(worker.id)
            for held in found.lost:
                run = worker.runs.get(held)
                if run is None or run.ended:
                    continue
                if held in back:
                    run.excused, run.in_doubt = row is None or row["state"] == "dead", False
                else:
                    if self.exact:
                        assert run.excused or run.in_doubt, f"{worker.id} lost {held}, and nobody may have taken it"
                    self.seen["lost to another"] += 1
                    worker.forget(held)  # its program is ended; nothing to write
            for held in found.stop:
                run = worker.runs.get(held)
                if run is not None and not run.ended:
                    self.ends(worker, run, OutcomeKind.CANCELLED)

        return Op("reconcile", worker, worker.claims, send, take)

    @rule(i=ANY, lost=st.sampled_from([False, False, False, True]))
    def reconcile(self, i: int, lost: bool) -> None:
        self.do(self.reconcile_op(i, 0), lost=lost)

    @rule(i=ANY)
    def prune(self, i: int) -> None:
        if (worker := self.pick(self.workers, i)) is not None:
            self.run(worker.queue.prune_workers())

    @precondition(lambda self: len(self.workers) > 1 and any(not w.runs and not w.spool for w in self.workers))
    @rule(i=ANY)
    def stop(self, i: int) -> None:
        """A drain to its end: everything recorded or released, goodbye."""
        worker = self.pick([w for w in self.workers if not w.runs and not w.spool], i)
        self.run(worker.queue.deregister())
        self.slots[worker.slot] = None
        self.disks[worker.host].append(Home(worker.id, {}, worker.done))

    # ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(i=ANY)
    def crash(self, i: int) -> None:
        worker = self.pick([w for w in self.workers if w.runs] or self.workers, i)
        if worker is not None:
            self.seen["crash"] += 1
            self.slots[worker.slot] = None
            self.disks[worker.host].append(Home(worker.id, worker.spool, worker.done))

    @precondition(lambda self: None in self.slots)
    @rule(j=ANY)
    def restart(self, j: int) -> None:
        self.start(self.pick([i for i, w in enumerate(self.slots) if w is None], j))

    def start(self, slot: int) -> None:
        """What a worker does before its first claim: its dead siblings' results, then their tasks, then its row."""
        worker = FakeWorker(slot, self.world)
        homes = self.disks[worker.host]
        self.exact = True
        for home in homes:
            for result in [*home.spool.values(), *home.done.values()]:
                self.before = self.world.picture()
                self.recorded(None, [result], self.run(worker.queue.finish([result])), False)
        if homes and self.run(worker.queue.bury([h.worker_id for h in homes], worker.host)):
            self.rescued(self.run(worker.queue.rescue("worker_restarted")))
        homes.clear()
        self.run(worker.register())
        self.slots[slot] = worker
        self.truth.beats[worker.id] = self.now

    @rule(seconds=st.sampled_from([1, 12, 35, 70, 700]))
    def time_passes(self, seconds: int) -> None:
        self.world.pass_time(seconds)
        self.now += seconds

    @rule()
    def the_standby_catches_up(self) -> None:
        self.world.save()
        self.saved = copy.deepcopy(self.truth)

    @precondition(lambda self: self.truth.tasks)
    @rule()
    def fail_over(self) -> None:
        """The standby becomes the primary: what it had not received never happened."""
        self.world.fail_over()
        done = {(t, n) for t, task in self.truth.tasks.items() for n in task.recorded}
        self.truth = copy.deepcopy(self.saved)
        self.seen["result lost by a failover"] += len(
            done - {(t, n) for t, task in self.truth.tasks.items() for n in task.recorded}
        )
        rows = self.world.picture()
        for worker in self.workers:
            for held, run in worker.runs.items():
                row = rows.tasks.get(held.task_id)
                mine = row is not None and (row["status"], row["fencing_token"]) == ("running", held.token)
                run.excused = run.excused or not mine
                self.seen["claim lost by a failover"] += not mine
        self.before = rows
        self.exact = False

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:
            self.settle()

    def settle(self) -> None:
        """All faults are over: every task must come to its end."""
        self.world.admin.execute("delete from agent_queues")
        self.world.admin.execute(
            "update agent_tasks set status = 'completed', completed_at = now() where status = 'running' and fencing_token is null"
        )
        for slot, worker in enumerate(self.slots):
            if worker is None:
                self.start(slot)
        for number in range(SETTLE_ROUNDS):
            for worker in self.workers:
                if self.beats(worker):
                    self.rescued(self.run(worker.queue.rescue("worker_silent")))
                self.run(worker.queue.prune_workers())
                self.everything_holds()
                self.do(self.reconcile_op(worker.slot, 0))
                self.do(self.sweep_op(worker.slot, 0))
                self.everything_holds()
                for queue in (0, 2, 2):
                    self.do(self.claim_op(worker.slot, queue))
                    self.everything_holds()
                for run in worker.alive_runs:
                    self.ends(worker, run, OutcomeKind.SUCCEEDED)
                while worker.spool:
                    self.do(self.record_op(self.workers_with_spool().index(worker), 2))
                    self.everything_holds()
            if all(r["status"] in FINAL for r in self.before.tasks.values()):
                return
            self.time_passes(30 if number else 700)
            self.everything_holds()
        open_ = {t: (r["status"], r["assigned_worker_id"]) for t, r in self.before.tasks.items() if r["status"] not in FINAL}
        raise AssertionError(f"these never come to an end: {open_}")

    def workers_with_spool(self) -> list[FakeWorker]:
        return [w for w in self.workers if w.spool]


def _rank(priority: int | None) -> float:
    return float("-inf") if priority is None else priority


__all__ = ["Fleet", "finished"]
