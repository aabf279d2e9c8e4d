"""What the executors need of this host: a program that is not here must not cost a task anything.

    looked for ──found──▶ open, its version logged
        └── not there ──▶ closed: one warning, its task types are left to other workers ──looked again every minute──▶ …

A host without the agent's CLI would otherwise take tasks, fail to start a program, and have them failed as poison in
five rounds. Looked again at once when a run could not be started, before its task is given back: a program may go while
the worker runs. A look is a few questions to the file system, no process.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.domain.type_filter import TypeFilter, served_types
from turbo.executors.protocol import Executor, NeedsProgram, Versioned
from turbo.runtime.service import Service

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0


class ExecutorAvailability(Service):
    name = "programs"

    def __init__(
        self,
        executors: Mapping[str, Executor],
        routes: Mapping[str, str],
        changed: Callable[[TypeFilter], None],
        *,
        seconds: float = LOOK_SECONDS,
    ) -> None:
        """`changed(types)` is told, synchronously, which task types may be claimed from now on."""
        super().__init__()
        self._executors = {name: e for name, e in executors.items() if isinstance(e, NeedsProgram)}
        self._routes = routes
        self._changed = changed
        self._seconds = seconds
        self._missing: dict[str, str] = {}
        self._unasked = {name: e for name, e in executors.items() if isinstance(e, Versioned)}

    def look(self) -> None:
        """What is missing now? Says so once, and once more when it is back."""
        missing = {name: why for name, e in self._executors.items() if (why := e.missing()) is not None}
        for name in missing.keys() - self._missing.keys():
            log.warning(
                "executor %s: %s. Its tasks are left to other workers; looked again every %g s",
                name,
                missing[name],
                self._seconds,
            )
        for name in self._missing.keys() - missing.keys():
            log.info("executor %s: what it needs is here now", name)
        changed = missing.keys() != self._missing.keys()
        self._missing = missing
        if changed:
            self._changed(served_types(self._routes, lambda executor: executor not in missing))

    def after_run(self, outcome: Outcome) -> None:
        """A run that could not be started, perhaps."""
        if outcome.kind is OutcomeKind.INFRASTRUCTURE:
            self.look()

    async def run(self) -> None:
        while True:
            for name in sorted(self._unasked.keys() - self._missing.keys()):
                await self._unasked.pop(name).version()  # which logs it
            await asyncio.sleep(self._seconds)
            self.look()
