"""Workers at work: they claim, run, record, replay, release and sweep. Every answer is judged."""

import operator
from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.fleet import QUEUES, SECOND, FakeWorker, Op, Run
from tests.model.people import ANY, People
from tests.model.truth import SUCCEEDED, answers_to, judge
from turbo.db.claim_store import Claim
from turbo.db.polls import PollResult
from turbo.db.result_store import ResultAnswer
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.result import RunResult
from turbo.domain.states import FINAL

OUTCOMES = (
    OutcomeKind.SUCCEEDED,
    OutcomeKind.SUCCEEDED,
    OutcomeKind.FAILED,
    OutcomeKind.FAILED,
    OutcomeKind.TIMED_OUT,
    OutcomeKind.INFRASTRUCTURE,
    OutcomeKind.AUTH_FAILED,
    OutcomeKind.UNAVAILABLE,
    OutcomeKind.ASKED,
    OutcomeKind.ASKED,
)
TRIES = (OutcomeKind.FAILED.value, OutcomeKind.TIMED_OUT.value)


class Work(People):
    def claim_op(self, i: int, k: int) -> Op | None:
        worker = self.pick(self.workers, i)
        return worker and self.claiming(worker, *(QUEUES[1], 2) if k == 0 else (QUEUES[0], 1 + k % 3))

    def claiming(self, worker: FakeWorker, queue: str, limit: int) -> Op:
        async def send() -> Claim:
            return await worker.stores.claims.claim(queue, limit, may_idle=True)

        def take(claim: Claim, lost: bool) -> None:
            self.claim_taken(worker, claim, lost)
            if self.exact:
                self.claim_was_right(worker, claim, queue, limit)

        return Op("claim", worker, worker.claims, send, take)

    def claim_taken(self, worker: FakeWorker, claim: Claim, lost: bool) -> None:
        for task in sorted(claim.tasks, key=operator.attrgetter("task_id")):
            token, truth = task.fencing_token, self.truth.tasks[task.task_id]
            assert token not in self.tokens, f"token {token} was handed out before, for {self.tokens.get(token)}"
            self.tokens[token] = ClaimRef(task.task_id, token)
            truth.claims.append(token)
            for given in task.answers:
                assert given.question.text.startswith(f"{task.task_id} "), f"{task.task_id} is told of {given.question}"
                assert given.answer is None or given.answer in answers_to(given.question.text), (
                    f"{task.task_id}: {given}"
                )
            if self.exact:
                row = self.before.tasks[task.task_id]
                assert (task.answers == ()) == (row["question"] is None), f"{task.task_id} is told {task.answers}"
                assert task.answer == row["answer"], f"{task.task_id} is told {task.answer}, not {row['answer']}"
            self.seen["goes on with an answer"] += task.answer is not None
            self.seen["claim lost on the wire" if lost else "claimed"] += 1
            if not lost:
                run = worker.runs[ClaimRef(task.task_id, token)] = Run(task, converses=len(self.tokens) % 2 == 0)
                self.run_begins(worker, run)

    def claim_was_right(self, worker: FakeWorker, claim: Claim, queue: str, limit: int) -> None:
        before, row = self.before, self.before.workers.get(worker.id)
        fit = row is not None and row["state"] == "up" and queue not in before.paused
        runs = Counter(r["concurrency_key"] for r in before.tasks.values() if r["status"] == "running")
        taken = {key for key, running in runs.items() if key is not None and running >= before.limits.get(key, 1)}
        talking = {r["conversation"] for r in before.tasks.values() if r["status"] == "running"} - {None}
        open_ = {
            t: r for t, r in before.tasks.items()
            if fit and r["status"] == "pending" and r["queue"] == queue and r["concurrency_key"] not in taken
            and worker.may_run(r)
            and (r["conversation"] not in talking if r["conversation"] is not None else r["continues"] is None)
        }  # fmt: skip
        # claimed, and given back at once: a failover took back a run whose needs it had lost
        now = self.world.picture().tasks
        blocked = {t for t in open_ if now[t]["status"] == "blocked"}
        self.seen["given back as blocked"] += len(blocked)
        got = {t.task_id for t in claim.tasks} | blocked
        assert got <= set(open_), f"{worker.id} claimed {got}, to be had were {set(open_)}"
        assert len(got) <= limit
        keys: list[object] = []
        for name in ("concurrency_key", "conversation"):
            of = Counter(before.tasks[t][name] for t in got if before.tasks[t][name] is not None)
            for key, of_key in of.items():
                may = before.limits.get(key, 1) - runs[key] if name == "concurrency_key" else 1
                assert of_key <= may, f"{got} has {of_key} of {name} {key}, and {may} may run"
                self.seen["several of a key in a claim"] += of_key > 1
                self.seen["beside another of its key"] += name == "concurrency_key" and runs[key] > 0
            keys += of
        left = [
            r for t, r in open_.items()
            if t not in got and r["concurrency_key"] not in keys and r["conversation"] not in keys
        ]  # fmt: skip
        worst = min((_rank(before.tasks[t]["task_priority"]) for t in got), default=None)
        for r in left:
            if r["concurrency_key"] is None and r["conversation"] is None:
                assert len(got) == limit or keys, f"{r['task_id']} was to be had and was left"
                assert worst is None or _rank(r["task_priority"]) <= worst, f"{r['task_id']} goes first"
        alone = {t for t, r in open_.items() if not runs[r["concurrency_key"]] or r["concurrency_key"] is None}
        assert got or not alone, f"nothing claimed of {alone}"  # of others, it may not know that there are limits
        for task in claim.tasks:
            waits = self.truth.tasks[task.task_id].waits
            again = any(e["action_type"] == "reasserted" for e in before.trail.get(task.task_id, []))
            assert waits.touched or again or waits.let_go or not waits.any, (
                f"{task.task_id} is claimed, and was not let go"
            )
            had = abs(before.tasks[task.task_id]["fencing_token"] or 0)
            assert task.fencing_token > had, f"{task.task_id}: token {task.fencing_token} after {had}"

    @precondition(lambda self: self.waiting())
    @rule(i=ANY, k=ANY, j=ANY, outcome=st.sampled_from(OUTCOMES))
    def claim_and_run(self, i: int, k: int, j: int, outcome: OutcomeKind) -> None:
        self.claim(i, k, False)
        self.everything_holds()
        self.a_program_ends(i, j, outcome, False)

    @precondition(lambda self: self.waiting())
    @rule(i=ANY, k=ANY, lost=st.booleans())
    def claim(self, i: int, k: int, lost: bool) -> None:
        self.do(self.claim_op(i, k), lost=lost)

    @precondition(lambda self: self.waiting())
    @rule(i=ANY, k=ANY, queue=st.sampled_from(QUEUES))
    def claim_from_a_paused_queue(self, i: int, k: int, queue: str) -> None:
        if queue not in self.before.paused:
            self.pause(queue)
            self.everything_holds()
        if (worker := self.pick(self.workers, i)) is not None:
            self.do(self.claiming(worker, queue, 1 + k % 3))

    @precondition(lambda self: any(w.alive_runs for w in self.workers))
    @rule(i=ANY, j=ANY, outcome=st.sampled_from(OUTCOMES), final=st.sampled_from([False, False, True]))
    def a_program_ends(self, i: int, j: int, outcome: OutcomeKind, final: bool) -> None:
        worker = self.pick([w for w in self.workers if w.alive_runs], i)
        if worker is not None:
            rests = final and outcome is OutcomeKind.UNAVAILABLE  # which `final` says nothing of
            more = {"final": final, "uncounted": rests, "retry_delay_seconds": 30 * SECOND}
            self.ends(worker, self.pick(worker.alive_runs, j), outcome, **more)

    def ends(self, worker: FakeWorker, run: Run, outcome: OutcomeKind, **more: object) -> None:
        result = worker.end(run, outcome, **more)
        if result.outcome == SUCCEEDED:
            self.results[run.claim] = result

    def record_op(self, i: int, k: int) -> Op | None:
        worker = self.pick([w for w in self.workers if w.spool], i)
        return worker and self.recording(worker, list(worker.spool.values())[: 1 + k % 3])

    def recording(self, worker: FakeWorker, batch: list[RunResult]) -> Op:
        async def send() -> list[ResultAnswer]:
            return await worker.stores.results.finish(batch)

        return Op("record", worker, worker.results, send, lambda a, lost: self.recorded(worker, batch, a, lost))

    @precondition(lambda self: any(w.spool for w in self.workers))
    @rule(i=ANY, k=ANY, lost=st.sampled_from([False, False, False, True]))
    def record(self, i: int, k: int, lost: bool) -> None:
        self.do(self.record_op(i, k), lost=lost)

    def recorded(
        self, worker: FakeWorker | None, batch: list[RunResult], answers: list[ResultAnswer], lost: bool
    ) -> None:
        """Judge the answers; then the results leave the spool, unless the answer never came."""
        assert len(answers) == len(batch)
        picture = self.world.picture()
        for answer in sorted(answers, key=operator.attrgetter("task_id", "token")):
            held = ClaimRef(answer.task_id, answer.token)
            result = next(r for r in batch if (r.task_id, r.fencing_token) == held)
            task = self.truth.tasks.get(held.task_id)
            row = self.before.tasks.get(held.task_id) if self.exact else None
            wrong = judge(task, row, result, answer)
            assert not wrong, f"{held} {result.outcome}: {wrong}"
            told = [e for e in picture.trail.get(held.task_id, []) if e["fencing_token"] == held.token]
            assert any(e["action_type"] in ("finished", "asked", "late") for e in told), (
                f"{held}: the result is nowhere"
            )
            self.seen[answer.verdict] += 1
            if task is not None and answer.verdict == "recorded":
                if row is not None:
                    counts = result.outcome in TRIES and answer.becomes == "scheduled" and row["cancel_to"] is None
                    tries = picture.tasks[held.task_id]["retry_count"] - row["retry_count"]
                    assert tries == counts, f"{held} {result.outcome} was {tries} tries, asked was {row['cancel_to']}"
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
                self.recorded(None, [result], self.run(worker.stores.results.finish([result])), False)

    @precondition(lambda self: self.results)
    @rule(i=ANY, j=ANY)
    def an_old_success_comes_in(self, i: int, j: int) -> None:
        """From a spool that somebody restored, or a worker that nobody remembers."""
        # Rather one whose task is not over: there it could answer.
        open_ = [r for h, r in self.results.items() if self.before.tasks.get(h.task_id, {}).get("status") not in FINAL]
        worker, result = self.pick(self.workers, i), self.pick(open_ or list(self.results.values()), j)
        if worker is not None and result is not None:
            self.exact = True
            for other in self.workers:
                if result.fencing_token in {h.token for h in other.runs}:
                    other.runs[ClaimRef(result.task_id, result.fencing_token)].in_doubt = True
            self.recorded(None, [result], self.run(worker.stores.results.finish([result])), False)

    def release_op(self, i: int, k: int) -> Op | None:
        worker = self.pick([w for w in self.workers if w.alive_runs], i)
        return worker and self.releasing(worker, self.pick(worker.alive_runs, k), 60 * SECOND * (k % 2))

    def releasing(self, worker: FakeWorker, run: Run, delay: float = 0.0) -> Op:
        async def send() -> list[ClaimRef]:
            return list((await worker.stores.results.release([(run.claim, None)], "drain", delay=delay)).claims)

        def take(released: list[ClaimRef], _lost: bool) -> None:
            if self.exact and not run.excused and not run.in_doubt:
                assert released == [run.claim], "a release of what is its own was refused"
            for held in released:
                self.seen["released"] += 1
                self.truth.tasks[held.task_id].consumed.add(held.token)
            worker.forget(run.claim)  # its program is gone, whatever the answer: an orphan is found by comparing

        return Op("release", worker, worker.results, send, take)

    @precondition(lambda self: any(w.alive_runs for w in self.workers))
    @rule(i=ANY, k=ANY, lost=st.sampled_from([False, False, True]))
    def release(self, i: int, k: int, lost: bool) -> None:
        self.do(self.release_op(i, k), lost=lost)

    def sweep_op(self, i: int, k: int) -> Op | None:
        worker = self.pick(self.workers, i)
        return worker and self.sweeping(worker)

    def sweeping(self, worker: FakeWorker) -> Op:
        async def send() -> PollResult:
            return await worker.stores.claims.poll(QUEUES)

        def take(found: PollResult, _lost: bool) -> None:
            worker.told = found.messages if self.exact else None
            self.swept()

        return Op("sweep", worker, worker.claims, send, take)

    def swept(self) -> None:
        """A question whose time is over has expired, and no other one."""
        if not self.exact:
            return
        now = self.world.picture()
        for task_id, row in self.before.tasks.items():
            if row["status"] == "waiting" and row["question"] is not None:
                expired = now.tasks[task_id]["status"] != "waiting"
                assert expired == row["due"], f"{task_id} expired: {expired}, its time was over: {row['due']}"
                self.seen["expired in a sweep"] += expired

    @precondition(lambda self: any(r["status"] in ("scheduled", "waiting") for r in self.before.tasks.values()))
    @rule(i=ANY)
    def sweep(self, i: int) -> None:
        self.do(self.sweep_op(i, 0))


def _rank(priority: int | None) -> float:
    return float("-inf") if priority is None else priority
