"""The question gate: whether a run may ask a person.

    unknown ──the first heartbeat──▶ open ──an older worker serves the queue──▶ closed, a problem ──it is gone──▶ open

A worker from before schema 12 does not know tasks that wait: it would run an answered task on another host, and without the
answer. So while one of them serves a queue, questions of its tasks are denied, as without `ask:`.
"""

import asyncio
import logging
from collections.abc import Mapping

from turbo.domain.problem import ProblemKind
from turbo.runtime.problems import Problems

log = logging.getLogger(__name__)

FIRST_SECONDS = 10.0
"""How long a run waits for the first heartbeat. Without one, it may not ask."""


class QuestionGate:
    """Told by each heartbeat which older workers live. `executors`: those with `ask:`. `queues`: those whose tasks may ask;
    none, if no executor has it."""

    def __init__(self, problems: Problems, queues: tuple[str, ...], executors: frozenset[str]) -> None:
        self.queues = queues if executors else ()
        self._executors = executors
        self._problems = problems
        self._older: dict[str, str] = {}
        self._known = asyncio.Event()

    def must_wait(self, executor: str) -> bool:
        """Whether a run of this executor has to wait for the first heartbeat."""
        return executor in self._executors and not self._known.is_set()

    async def wait(self, seconds: float = FIRST_SECONDS) -> None:
        """Until the first heartbeat, or `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._known.wait()
        except TimeoutError:
            log.warning("no heartbeat was recorded yet, so this run may not ask")

    def may_ask(self, queue: str) -> bool:
        return queue not in self._older and self._known.is_set()

    def measured(self, older: Mapping[str, str]) -> None:
        """`older`: queue → the id of a live worker that serves it and is older."""
        for queue in self._older.keys() - older.keys():
            log.info("questions are on again for queue %s", queue)
            self._problems.clear(ProblemKind.OLDER_WORKER, queue)
        for queue, worker in older.items():
            if self._older.get(queue) != worker:
                what = (
                    f"questions are off for queue {queue}: worker {worker} is older, and does not know tasks that wait"
                )
                log.warning("%s", what)
                self._problems.report(
                    ProblemKind.OLDER_WORKER, queue, what, "stop that worker, or start it again with this turbo"
                )
        self._older = dict(older)
        self._known.set()
