"""Executor availability: whether this host has the programs its executors need. A missing program must not cost a task anything.

    checked ──found──▶ open, its version logged
        └── missing ──▶ closed: one warning, its task types are left to other workers ──checked every minute──▶ …

A host without the agent's CLI would otherwise take tasks, fail to start a program, and have the tasks failed as poison in
five rounds. It is checked again at once when a run could not be started, before its task is given back: a program may
disappear while the worker runs. A check is a few questions to the file system, no process.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.domain.problem import ProblemKind
from turbo.domain.run import Running
from turbo.domain.type_filter import TypeFilter, served_types
from turbo.executors.protocol import Executor, NeedsProgram, Versioned
from turbo.runtime.problems import Problems
from turbo.runtime.service import LoopService

log = logging.getLogger(__name__)

CHECK_SECONDS = 60.0


class ExecutorAvailability(LoopService):
    name = "executor availability"

    def __init__(
        self,
        executors: Mapping[str, Executor],
        routes: Mapping[str, str],
        types_changed: Callable[[TypeFilter], None],
        problems: Problems,
        *,
        seconds: float = CHECK_SECONDS,
    ) -> None:
        """`types_changed(types)` is called, synchronously, with the task types that may be claimed from now on."""
        super().__init__()
        self._executors = {name: e for name, e in executors.items() if isinstance(e, NeedsProgram)}
        self._routes = routes
        self._types_changed = types_changed
        self._problems = problems
        self._seconds = seconds
        self._missing: dict[str, str] = {}
        self._version_unknown = {name: e for name, e in executors.items() if isinstance(e, Versioned)}

    def check(self) -> None:
        """Check all programs. Logs what is missing once, and once more when it is back."""
        missing = {name: why for name, e in self._executors.items() if (why := e.missing()) is not None}
        for name in missing.keys() - self._missing.keys():
            log.warning(
                "executor %s: %s. Its tasks are left to other workers; checked again every %g s",
                name,
                missing[name],
                self._seconds,
            )
            self._problems.report(
                ProblemKind.EXECUTOR,
                name,
                f"executor {name}: {missing[name]}; its tasks are left to other workers",
                "turbo doctor --config FILE on that host",
            )
        for name in self._missing.keys() - missing.keys():
            log.info("executor %s: what it needs is here now", name)
            self._problems.clear(ProblemKind.EXECUTOR, name)
        changed = missing.keys() != self._missing.keys()
        self._missing = missing
        if changed:
            self._types_changed(served_types(self._routes, lambda executor: executor not in missing))

    async def review(self, _run: Running, outcome: Outcome) -> Outcome:
        """See runner.Reviewer: a run may have failed because its program is gone."""
        if outcome.kind is OutcomeKind.INFRASTRUCTURE:
            self.check()
        return outcome

    async def run(self) -> None:
        self.started.set()
        while True:
            for name in sorted(self._version_unknown.keys() - self._missing.keys()):
                await self._version_unknown.pop(name).version()  # which logs it
            await asyncio.sleep(self._seconds)
            self.check()
