"""A claim: one worker holds one task under one fencing token."""

from typing import NamedTuple


class ClaimRef(NamedTuple):
    """Which task, and by which claim. A second claim of the same task has another token."""

    task_id: str
    token: int
