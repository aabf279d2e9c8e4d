"""A worker's claiming half without executors: the real listener, claimer, queue and statements, and a test that decides
when a run ends. Races are stepped with it: the test waits for what it needs to have happened, then takes the next step."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from tests.support.stores import Stores
from turbo.db.account_store import AccountRow
from turbo.db.address import Address
from turbo.db.bypass import USUAL_BYPASSES, BypassTimings
from turbo.db.lane import Lane
from turbo.db.quiet_store import QuietStore
from turbo.db.refusals import Refusals, RefusalTimings
from turbo.db.result_store import ResultAnswer, ResultStore
from turbo.db.worker_registry import WorkerRow
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.result import RunResult
from turbo.domain.run import Running
from turbo.domain.states import WorkerState
from turbo.domain.task import Task
from turbo.domain.type_filter import EVERYTHING
from turbo.host.spool import Spool
from turbo.host.spool_writer import SpoolWriter
from turbo.migrate import SCHEMA_VERSION
from turbo.observability.metrics import Metrics
from turbo.runtime.problems import Problems
from turbo.worker.claim_gate import ClaimGate
from turbo.worker.claimer import Claimer
from turbo.worker.completer import Completer
from turbo.worker.listener import Listener
from turbo.worker.poller import Poller
from turbo.worker.quiet_keeper import QuietKeeper, QuietTimings
from turbo.worker.recovery_gate import RecoveryGate
from turbo.worker.slots import Slots
from turbo.worker.wakeups import WakeUps


def finished(
    task: Task | ClaimRef, worker_id: str, outcome: OutcomeKind = OutcomeKind.SUCCEEDED, **more: object
) -> RunResult:
    """A result as the runner makes it; `more` overrides single fields."""
    held = task if isinstance(task, ClaimRef) else ClaimRef(task.task_id, task.fencing_token)
    known: dict[str, object] = {
        "task_id": held.task_id,
        "fencing_token": held.token,
        "outcome": outcome.value,
        "output": {"output": "done"},
        "error": None,
        "failure_kind": None,
        "execution_ms": 5,
        "retry_delay_seconds": 0.0,
        "final": False,
        "agent_session_id": None,
        "finished_at": "",
        "worker_id": worker_id,
        "queue": "default",
        "executor": "x",
        "detail": {},
    }
    return RunResult(**(known | more))  # type: ignore[arg-type]


class RecordedWakeUps(WakeUps):
    """Remembers which queues a notification named, and the ranks this worker was called with."""

    def __init__(self, queues: Sequence[str], *, poll_seconds: float, recheck: bool) -> None:
        super().__init__(queues, poll_seconds=poll_seconds, recheck=recheck)
        self.heard: list[str] = []
        self.ranks: list[int] = []

    def wake(self, queue: str, *, by_notify: bool = False) -> None:
        if by_notify:
            self.heard.append(queue)
        super().wake(queue, by_notify=by_notify)

    def call(self, queue: str, rank: int) -> None:
        self.ranks.append(rank)
        super().call(queue, rank)


class NoReservations:
    types = EVERYTHING

    def reserve(self) -> bool:
        return False

    def assign(self, task: Task) -> None: ...
    def let_go(self) -> None: ...


class NoAccounts:
    def polled(self, rows: tuple[AccountRow, ...], asked_at: float) -> None: ...


@dataclass
class Rig:
    """`async with Rig(dsn) as rig: task, at = await rig.claimed()`."""

    dsn: str
    name: str = "rig"
    slots_size: int = 1
    queues: Sequence[str] = ("default",)
    poll_seconds: float = 3600.0
    recheck: bool = True
    may_idle: bool = False
    timings: RefusalTimings = field(default_factory=RefusalTimings)
    bypasses: BypassTimings = USUAL_BYPASSES
    quiet: QuietTimings | None = None
    """With it, the rig has a quiet keeper."""
    listen_dsn: str | None = None
    started: "asyncio.Queue[tuple[Task, float]]" = field(default_factory=asyncio.Queue)

    async def __aenter__(self) -> "Rig":
        self.worker_id = f"{self.name}-1-abcdef"
        self.where = Address(self.dsn, listen=None if self.listen_dsn is None else Address(self.listen_dsn))
        self.lanes = Lane(self.where, "rig claims"), Lane(self.where, "rig results")
        self.problems, self.metrics = Problems(), Metrics()
        self.stores = Stores(
            self.worker_id,
            *self.lanes,
            Refusals(self.problems, self.metrics, self.timings),
            host="here",
            bypasses=self.bypasses,
        )
        self.slots = Slots(self.slots_size)
        self.gate = ClaimGate(self.problems)
        self.wakeups = RecordedWakeUps(self.queues, poll_seconds=self.poll_seconds, recheck=self.recheck)
        metrics, reconcile = self.metrics, asyncio.Event()
        self.poller = Poller(self.stores.claims, self.queues, self.wakeups, NoAccounts(), reconcile)
        self.claimer = Claimer(
            self.stores.claims,
            self.stores.notifier,
            self.wakeups,
            self.poller,
            self.gate,
            RecoveryGate(),
            self,
            NoReservations(),
            self.slots,
            self,
            metrics,
            claiming=asyncio.Lock(),
            reconcile=reconcile,
        )
        self.listener = Listener(
            self.where.listen,
            self.worker_id,
            self.queues,
            self.stores.notifier,
            self.wakeups,
            self.poller,
            self,
            self.problems,
            metrics,
            reconcile=reconcile,
            poll_seconds=self.poll_seconds,
            woken=self._woken,
        )
        self.keeper = QuietKeeper(
            QuietStore(self.lanes[0], self.worker_id),
            poll_seconds=self.poll_seconds,
            timings=self.quiet or QuietTimings(),
        )
        await self.stores.registry.register(
            WorkerRow(
                self.name,
                "here",
                1,
                "0",
                self.slots_size,
                tuple(self.queues),
                {},
                (),
                None,
                10,
                600,
                self.poll_seconds,
                SCHEMA_VERSION,
            ),
            WorkerState.UP,
        )
        self.listener.start(self._crashed)
        await asyncio.wait_for(self.listener.started.wait(), 20)
        self.claimer.start(self._crashed)
        if self.quiet is not None:
            self.keeper.start(self._crashed)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.keeper.stop()
        await self.claimer.stop()
        await self.listener.stop()
        for lane in self.lanes:
            await lane.close()

    def _crashed(self, name: str, error: BaseException) -> None:
        raise AssertionError(f"{name} crashed") from error

    def _woken(self, queue: str) -> None:
        if self.quiet is not None:
            self.keeper.heard(queue)

    def start(self, task: Task) -> None:
        """The claimer's TaskRunner: the run goes on until the test finishes it."""
        self.slots.take(Running(task, "rig", None))
        self.started.put_nowait((task, time.monotonic()))

    def completer(
        self, spool: Spool, *, lane: Lane | None = None, hold_claims: Callable[[str | None], None] = lambda _why: None
    ) -> Completer:
        """A completer on the rig's results, or on a lane of the test's. To be started and stopped by the test."""
        store = (
            self.stores.results
            if lane is None
            else ResultStore(lane, self.worker_id, self.stores.refusals, host="here")
        )
        writer = SpoolWriter(spool, lambda _trouble: None, lambda _trouble: None)
        return Completer(store, writer, self.slots, self.wakeups, self.problems, Metrics(), hold_claims)

    async def claimed(self, seconds: float = 30.0) -> tuple[Task, float]:
        """The next task that was claimed, and when (monotonic seconds)."""
        return await asyncio.wait_for(self.started.get(), seconds)

    async def finish(self, task: Task, outcome: OutcomeKind = OutcomeKind.SUCCEEDED, **more: object) -> ResultAnswer:
        """End a run: its result is recorded, its slot is free."""
        answer = (await self.stores.results.finish([finished(task, self.worker_id, outcome, **more)]))[0]
        self.slots.give_back(ClaimRef(task.task_id, task.fencing_token), unrecorded=False)
        self.wakeups.slot_freed(key=task.concurrency_key is not None)
        return answer

    # the listener's events

    def opened(self, server: str) -> None:
        if self.where.server is not None:
            self.where.server.listens_on(server)

    def connected(self, *, hears: bool) -> None:
        self.may_idle = hears
        self.resetting = asyncio.create_task(self._reset_idle())

    async def _reset_idle(self) -> None:
        self.wakeups.set_idle(False)
        await self.stores.registry.set_idle(False)
        self.wakeups.wake_all()

    def disconnected(self) -> None:
        self.may_idle = False

    def failed(self, error: Exception, *, connecting: bool) -> None: ...
