"""Steps of one worker, `w-1-abc`, that a test takes by hand: claim a task, end it, with the worker's own statements."""

import contextlib
from collections.abc import AsyncIterator

from tests.support.rig import finished
from tests.support.stores import Stores
from turbo.db.lane import Lane
from turbo.db.worker_registry import WorkerRow
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.result import RunResult
from turbo.domain.states import WorkerState
from turbo.migrate import SCHEMA_VERSION

ME = WorkerRow("w", "h", 1, "0", 10, ("default",), {}, (), None, 10, 60, 30, SCHEMA_VERSION)


@contextlib.asynccontextmanager
async def registered(dsn: str, host: str = "h") -> AsyncIterator[Stores]:
    """The stores of the worker, which is registered as up. `host`: whose pinned tasks it claims."""
    lanes = Lane(dsn, "claims"), Lane(dsn, "results")
    stores = Stores("w-1-abc", *lanes, host=host)
    await stores.registry.register(ME, WorkerState.UP)
    yield stores
    for lane in lanes:
        await lane.close()


async def claim_one(stores: Stores) -> ClaimRef:
    claim = await stores.claims.claim("default", 1, may_idle=True)
    return ClaimRef(claim.tasks[0].task_id, claim.tasks[0].fencing_token)


def ended(held: ClaimRef, outcome: OutcomeKind = OutcomeKind.SUCCEEDED, **more: object) -> RunResult:
    return finished(held, "w-1-abc", outcome, **more)
