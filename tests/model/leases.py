"""Leases: beats, rescues, comparisons, and workers that die and come back on the same host."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.fleet import QUEUES, SECOND, FakeWorker, Home, Op
from tests.model.people import ANY
from tests.model.work import Work
from turbo.db.claim_store import Differences
from turbo.db.worker_registry import Rescued
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import RescueReason

BEATS_TO_DEATH = 7
"""A lease's six, and the first that is not yet late."""


class Leases(Work):
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
        row = self.world.workers()[worker.id]
        assert (row["host"], tuple(row["queues"])) == (worker.host, QUEUES), f"{worker.id} stands there as {row}"
        return to_rescue

    @rule(seconds=st.sampled_from([1, 12, 35, 70, 700]))
    def time_passes(self, seconds: int) -> None:
        self.world.pass_time(seconds * SECOND)
        self.passed += seconds * SECOND

    @precondition(lambda self: any(w.runs for w in self.workers) and len(self.workers) > 1)
    @rule(i=ANY, rescue=st.booleans())
    def falls_silent(self, i: int, rescue: bool) -> None:
        """A worker that runs something is cut off for longer than its lease. It does not know, and runs on."""
        silent = self.pick([w for w in self.workers if w.runs], i)
        self.silence(silent, BEATS_TO_DEATH)
        if rescue:
            self.do(self.rescuing(self.pick([w for w in self.workers if w is not silent], i)))

    @precondition(lambda self: len(self.workers) > 1)
    @rule(i=ANY, beats=st.integers(2, 4))
    def answers_now_and_then(self, i: int, beats: int) -> None:
        """A bad network: a worker misses some beats, is heard, and misses some more. It never loses its lease."""
        worker = self.pick(self.workers, i)
        for _ in range(3):
            self.beats(worker)
            self.everything_holds()
            self.silence(worker, beats)

    def silence(self, silent: FakeWorker, beats: int) -> None:
        """So many beats of all the others, and none of one."""
        for _ in range(beats):
            self.time_passes(12)
            for worker in self.workers:
                if worker is not silent:
                    self.beats(worker)
                    self.lives_hold(self.world.workers())
        self.everything_holds()

    @rule(i=ANY, j=ANY)
    def buries_a_stranger(self, i: int, j: int) -> None:
        """Two hosts with one state directory by mistake: a host may bury its own only."""
        worker = self.pick(self.workers, i)
        strangers = [w.id for w in self.workers if worker is not None and w.host != worker.host]
        strangers = [w for w in strangers if w in self.before.workers]
        if strangers:
            self.run(worker.stores.registry.mark_dead([self.pick(strangers, j)], worker.host))

    def rescue_op(self, i: int, k: int) -> Op | None:
        worker = self.pick(self.workers, i)
        return worker and self.rescuing(worker)

    def rescuing(self, worker: FakeWorker) -> Op:
        async def send() -> list[Rescued]:
            return await worker.stores.registry.rescue(RescueReason.WORKER_SILENT)

        return Op("rescue", worker, worker.claims, send, lambda rescued, _: self.rescued(rescued))

    def rescued(self, rescued: list[Rescued]) -> None:
        # The dice of the backoff fall otherwise every time, and hypothesis wants a history to be the same twice.
        self.world.past_the_triggers(
            "update public.agent_tasks t set run_after = clock_timestamp() + make_interval(secs => %s + i.n * 0.001)"
            " from unnest(%s::text[]) with ordinality i(task_id, n) where t.task_id = i.task_id and t.status = 'scheduled'"
            " and t.run_after < clock_timestamp() + interval '2 minutes'",  # not what somebody asked for
            6 * SECOND,
            sorted(one.task_id for one in rescued),
        )
        for one in rescued:
            self.seen["rescued"] += 1
            self.seen["poison"] += one.status == "failed"

    @precondition(lambda self: any(w["state"] == "dead" for w in self.before.workers.values()))
    @rule(i=ANY)
    def rescue(self, i: int) -> None:
        self.do(self.rescue_op(i, 0))

    def reconcile_op(self, i: int, k: int) -> Op | None:
        # Rather one that runs something, which is when turbo asks.
        worker = self.pick([w for w in self.workers if w.runs] if i % 2 else self.workers, i // 2)
        return worker and self.comparing(worker)

    def comparing(self, worker: FakeWorker) -> Op:
        known = list(worker.runs)

        async def send() -> tuple[Differences, tuple[ClaimRef, ...]]:
            found = await worker.stores.claims.reconcile(known)
            lost = [h for h in found.lost if h in worker.runs and not worker.runs[h].ended]
            return found, (
                await worker.stores.claims.reassert({h: worker.runs[h].task.last_answered for h in lost})
            ).taken

        def take(answer: tuple[Differences, tuple[ClaimRef, ...]], lost: bool) -> None:
            found, back = answer
            self.seen["orphan"] += len(found.orphans)
            for held in back:
                self.seen["reasserted"] += 1
                truth = self.truth.tasks[held.task_id]
                assert held.token not in truth.consumed, f"{held} was taken back, and is consumed"
                assert held.token not in truth.former, f"{held} was taken back, and is a deleted row's"
                if held.token not in truth.claims:
                    truth.claims.append(held.token)
                was = self.before.tasks[held.task_id]
                if self.exact and was["status"] == "waiting" and was["question"]["kind"] != "hold":
                    given = worker.runs[held].task.last_answered
                    if given is not None and given.question.text == was["question"]["text"]:
                        now = self.world.picture().tasks[held.task_id]
                        assert now["answer"] == given.answer, (
                            f"{held} was told {given.answer}, its row says {now['answer']}"
                        )
                        self.seen["reasserted with its answer"] += given.answer is not None
                had = abs(self.before.tasks[held.task_id]["fencing_token"] or 0) if self.exact else 0
                assert held.token >= had, f"{held} was taken back from a newer claim, {had}"
            picture = self.world.picture()
            if self.exact:
                strange = set(picture.runs_of(worker.id)) - {*known, *back}
                assert not strange, f"{worker.id} has compared, and is still said to run {strange}"
            if lost:
                return
            row = picture.workers.get(worker.id)
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
            for held in sorted(found.stop):
                run = worker.runs.get(held)
                if run is not None and not run.ended:
                    self.ends(worker, run, OutcomeKind.CANCELLED)

        return Op("reconcile", worker, worker.claims, send, take)

    @precondition(lambda self: any(r["status"] == "running" for r in self.before.tasks.values()) or self.running())
    @rule(i=ANY, lost=st.sampled_from([False, False, False, True]))
    def reconcile(self, i: int, lost: bool) -> None:
        self.do(self.reconcile_op(i, 0), lost=lost)

    @rule(i=ANY)
    def prune(self, i: int) -> None:
        if (worker := self.pick(self.workers, i)) is not None:
            self.run(worker.stores.registry.prune())

    @precondition(lambda self: len(self.workers) > 1 and any(not w.runs and not w.spool for w in self.workers))
    @rule(i=ANY)
    def stop(self, i: int) -> None:
        """A drain to its end: everything recorded or released, goodbye."""
        worker = self.pick([w for w in self.workers if not w.runs and not w.spool], i)
        self.run(worker.stores.registry.deregister())
        self.slots[worker.slot] = None
        self.disks[worker.host].append(Home(worker.id, {}, worker.done))

    @rule(i=ANY, for_good=st.sampled_from([False, False, False, True]))
    def crash(self, i: int, for_good: bool) -> None:
        worker = self.pick([w for w in self.workers if w.runs] or self.workers, i)
        if worker is not None:
            self.dies(worker, for_good)

    def dies(self, worker: FakeWorker, for_good: bool) -> None:
        """`for_good`: its disk with it. Whoever starts there next knows nothing of it."""
        self.seen["crash"] += 1
        self.slots[worker.slot] = None
        if not for_good:
            self.disks[worker.host].append(Home(worker.id, worker.spool, worker.done))

    @precondition(lambda self: None in self.slots)
    @rule(j=ANY)
    def restart(self, j: int) -> None:
        self.start(self.pick([i for i, w in enumerate(self.slots) if w is None], j))

    def start(self, slot: int) -> FakeWorker:
        """What a worker does before its first claim: its dead siblings' results, then their tasks, then its row."""
        worker = FakeWorker(slot, self.world)
        homes = self.disks[worker.host]
        self.exact = True
        for home in homes:
            for result in [*home.spool.values(), *home.done.values()]:
                self.before = self.world.picture()
                self.recorded(None, [result], self.run(worker.stores.results.finish([result])), False)
        if homes and self.run(worker.stores.registry.mark_dead([h.worker_id for h in homes], worker.host)):
            self.rescued(self.run(worker.stores.registry.rescue(RescueReason.WORKER_RESTARTED)))
        homes.clear()
        self.run(worker.register())
        self.slots[slot] = worker
        self.truth.beats[worker.id] = self.now
        return worker
