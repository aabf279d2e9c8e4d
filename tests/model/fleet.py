"""Workers without processes: what a worker remembers (its runs, its spool, what it has recorded within the hour), and the
statements it sends. An `Op` is one of them, cut in two: it is sent, and its answer is taken in, or lost on the wire."""

import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.model.world import STAY, HeldLane, World
from tests.support.rig import finished
from tests.support.stores import Stores
from turbo.db.message_store import MessageStore
from turbo.db.settle_store import SettleStore
from turbo.db.worker_registry import WorkerRow, beat
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.result import RunResult
from turbo.domain.states import WorkerState
from turbo.domain.task import Task
from turbo.domain.work import Message
from turbo.migrate import SCHEMA_VERSION

HOSTS = ("alpha", "alpha", "beta")
OLDER = "older-1-abc"
"""A worker from before there were blocked tasks: while it serves a queue, nothing is let go there. It is a row, and does nothing."""
SECOND = 100.0
"""A second of the model. The steps take time of their own, more on a busy machine, and it must not decide anything."""

HEARTBEAT, LEASE = 10 * SECOND, 60 * SECOND
QUEUES = ("default", "other")

_numbers = itertools.count(1)


@dataclass
class Run:
    """A claim that a worker knows of, from the answer to the claim until its result is recorded."""

    task: Task
    excused: bool = False  # others may rightly believe it dead
    in_doubt: bool = False  # an answer about it was lost: it may be over already
    ended: bool = False  # its program is gone, its result waits in the spool
    converses: bool = False  # its program takes messages until it ends; another one has those of its start
    known: dict[int, str] = field(default_factory=dict)  # messages that it was given, by their numbers

    @property
    def claim(self) -> ClaimRef:
        return ClaimRef(self.task.task_id, self.task.fencing_token)


@dataclass(frozen=True)
class Mark:
    """Which run was given a message, and whether its agent has it: to be written down."""

    claim: ClaimRef
    delivered: bool


@dataclass
class FakeWorker:
    slot: int
    world: World
    id: str = ""
    registered: bool = False
    runs: dict[ClaimRef, Run] = field(default_factory=dict)
    spool: dict[ClaimRef, RunResult] = field(default_factory=dict)
    done: dict[ClaimRef, RunResult] = field(default_factory=dict)
    marks: dict[Message, Mark] = field(default_factory=dict)
    told: bool | None = True
    """Whether each claim looks for messages: as long as some may be open, as far as it was told. None: not known here."""

    def __post_init__(self) -> None:
        self.id = f"w{self.slot}-1-{next(_numbers):06x}"
        self.claims, self.results, lane = self.world.lanes[self.slot]
        self.messages = MessageStore(lane)
        self.message_lane = lane
        self.stores = self.new_stores()
        self.settle = SettleStore(self.results, self.id, self.stores.refusals)

    @property
    def host(self) -> str:
        return HOSTS[self.slot]

    @property
    def labels(self) -> dict[str, str]:
        """One worker of each host has a gpu."""
        return {"gpu": "true"} if self.slot != 1 else {"gpu": "false"}

    def new_stores(self) -> Stores:
        return Stores(self.id, self.claims, self.results, host=self.host, labels=self.labels, stay_seconds=STAY)

    def may_run(self, row: Mapping[str, Any]) -> bool:
        """It has what the task requires, and the task's conversation."""
        return (row["requires"] or {}).items() <= self.labels.items() and (
            row["prefer_host"] in (None, self.host) or row["to_be_had"]
        )

    @property
    def alive_runs(self) -> list[Run]:
        return [run for run in self.runs.values() if not run.ended]

    async def register(self) -> None:
        row = WorkerRow(
            f"w{self.slot}", self.host, 1, "0", 3, QUEUES, self.labels, (), None, HEARTBEAT, LEASE, 30, SCHEMA_VERSION
        )  # fmt: skip
        await self.stores.registry.register(row, WorkerState.UP)
        self.registered = True

    async def beat(self) -> tuple[bool, list[str], bool]:
        """The heartbeat's statement: (alive, died, to_rescue)."""
        async with self.claims.use() as connection:
            answer = await beat(
                connection, self.id, busy=len(self.alive_runs), may_lead=True, leader_lease=3 * HEARTBEAT
            )
        return answer.alive, list(answer.died), answer.to_rescue

    def end(self, run: Run, outcome: OutcomeKind, **more: object) -> RunResult:
        """Its program is gone, and its result is on disk."""
        output = {"output": f"{run.task.task_id} {run.task.fencing_token}"}
        if outcome is OutcomeKind.ASKED:
            text = f"{run.task.task_id} {run.task.fencing_token}?"
            more = {"question": {"kind": "question", "text": text, "then": "proceed"}, **more}
        result = finished(run.task, self.id, outcome, output=output, **more)
        run.ended = True
        self.spool[run.claim] = result
        return result

    def forget(self, held: ClaimRef) -> None:
        self.runs.pop(held, None)


@dataclass
class Home:
    """The state directory of a dead worker, on its host's disk."""

    worker_id: str
    spool: dict[ClaimRef, RunResult]
    done: dict[ClaimRef, RunResult]


@dataclass
class Op:
    """`lane`: where it is carried out. `take`: what its answer means; with the answer lost only the truth learns of it."""

    name: str
    worker: FakeWorker | None
    lane: HeldLane
    send: Callable[[], Awaitable[Any]]
    take: Callable[[Any, bool], None]  # (answer, lost)


def claims_of(runs: Iterable[Run]) -> list[ClaimRef]:
    return [run.claim for run in runs]
