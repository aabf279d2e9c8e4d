"""A worker's claiming half without executors: the real listener, claimer, queue and statements, and a test that decides
when a run ends. Races are stepped with it: the test waits for what it needs to have happened, then takes the next step."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from turbo.db.claim_store import PollResult, Queue, ResultAnswer, WorkerRow
from turbo.db.connect import Lane
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.result import RunResult
from turbo.domain.run import Running
from turbo.domain.task import Task
from turbo.observability.metrics import Metrics
from turbo.worker.claimer import Claimer
from turbo.worker.listener import Listener
from turbo.worker.slots import Slots


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


@dataclass
class Rig:
    """`async with Rig(dsn) as rig: task, at = await rig.claimed()`."""

    dsn: str
    name: str = "rig"
    slots_size: int = 1
    queues: Sequence[str] = ("default",)
    poll_seconds: float = 3600.0
    ladder: bool = True
    heard: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    started: "asyncio.Queue[tuple[Task, float]]" = field(default_factory=asyncio.Queue)

    async def __aenter__(self) -> "Rig":
        self.worker_id = f"{self.name}-1-abcdef"
        self._lanes = Lane(self.dsn, "rig claims"), Lane(self.dsn, "rig results")
        self.queue = Queue(self.worker_id, *self._lanes)
        self.slots = Slots(self.slots_size)
        self.metrics = Metrics()
        self.claimer = Claimer(
            self.queue,
            self.queues,
            self.slots,
            self.metrics,
            self._start,
            poll_seconds=self.poll_seconds,
            ladder=self.ladder,
        )
        self.listener = Listener(self.dsn, self.queue, self.queues, self, self.metrics, poll_seconds=self.poll_seconds)
        await self.queue.register(
            WorkerRow(
                self.name, "here", 1, "0", self.slots_size, tuple(self.queues), {}, (), None, 10, 600, self.poll_seconds
            ),
            "up",
        )
        self._listens = asyncio.Event()
        self.listener.start(self._crashed)
        await asyncio.wait_for(self._listens.wait(), 20)
        self.claimer.start(self._crashed)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.claimer.stop()
        await self.listener.stop()
        for lane in self._lanes:
            await lane.close()

    def _crashed(self, name: str, error: BaseException) -> None:
        raise AssertionError(f"{name} crashed") from error

    def _start(self, task: Task) -> None:
        self.slots.take(Running(task, "rig", None))
        self.started.put_nowait((task, time.monotonic()))

    async def claimed(self, seconds: float = 10.0) -> tuple[Task, float]:
        """The next task that was claimed, and when (monotonic seconds)."""
        return await asyncio.wait_for(self.started.get(), seconds)

    async def finish(self, task: Task, outcome: OutcomeKind = OutcomeKind.SUCCEEDED, **more: object) -> ResultAnswer:
        """End a run: its result is recorded, its slot is free."""
        answer = (await self.queue.finish([finished(task, self.worker_id, outcome, **more)]))[0]
        self.slots.give_back(ClaimRef(task.task_id, task.fencing_token), unrecorded=False)
        self.claimer.slot_freed(key=task.concurrency_key is not None)
        return answer

    # what the listener tells

    def wake(self, queue: str) -> None:
        self.heard.append(queue)
        self.claimer.wake(queue, by_notify=True)

    def called(self, queue: str, place: int) -> None:
        self.places.append(place)
        self.claimer.called(queue, place)

    def control(self, message: str) -> None:
        if message == "queues":
            self.claimer.look()

    def swept(self, sweep: PollResult) -> None:
        self.claimer.swept(sweep)

    async def connected(self, *, hears: bool) -> None:
        self.claimer.listening = hears
        await self.claimer.forget_idle()
        self._listens.set()

    def disconnected(self) -> None:
        self.claimer.listening = False
