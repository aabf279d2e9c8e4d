"""What the runs of one task used."""

from dataclasses import dataclass
from datetime import datetime

from turbo.client.operations import Query, Steps

LISTED = 200


@dataclass(frozen=True, slots=True)
class RunUsage:
    """One run's share, of one executor, account and model. `cost_usd` None: it is not known."""

    attempt: int
    fencing_token: int
    at: datetime
    executor: str
    account: str
    model: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: float | None


def usage(task_id: str) -> Steps[list[RunUsage]]:
    return [RunUsage(**row) for row in (yield Query("client/usage", {"task_id": task_id, "limit": LISTED})).rows]
