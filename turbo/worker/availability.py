"""Executor availability: whether this host has the programs its executors need. A missing program must not cost a task anything.

    checked ──found──▶ open, its version logged
        └── missing ──▶ closed: one warning, its task types are left to other workers ──checked every minute──▶ …

A host without the agent's CLI would otherwise take tasks, fail to start a program, and have the tasks failed as poison in
five rounds. It is checked again at once when a run could not be started, before its task is given back: a program may
disappear while the worker runs. A check is a few questions to the file system, no process; where an executor has a sandbox, one is
made for real. Without it, and unless `required: false`, the executor is closed in the same way.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.domain.problem import ProblemKind
from turbo.domain.run import Running
from turbo.domain.type_filter import Routes, TypeFilter, served_types
from turbo.executors.pool import AccountPool
from turbo.executors.protocol import Executor, NeedsProgram, Versioned
from turbo.process.sandbox import Sandbox
from turbo.runtime.problems import Problems
from turbo.runtime.service import LoopService

log = logging.getLogger(__name__)

CHECK_SECONDS = 60.0


class ExecutorAvailability(LoopService):
    name = "executor availability"

    def __init__(
        self,
        executors: Mapping[str, Executor],
        routes: Routes,
        types_changed: Callable[[TypeFilter], None],
        problems: Problems,
        *,
        accounts_changed: Callable[[], None] = lambda: None,
        seconds: float = CHECK_SECONDS,
        sandboxes: Mapping[str, Sandbox] | None = None,
    ) -> None:
        """`types_changed(types)` is called, synchronously, with the task types that may be claimed from now on;
        `accounts_changed()` when other accounts of a pool can be used on this host than before. `sandboxes`: by executor."""
        super().__init__()
        self._executors = {name: e for name, e in executors.items() if isinstance(e, NeedsProgram)}
        self._routes = routes
        self._types_changed = types_changed
        self._problems = problems
        self._seconds = seconds
        self._accounts_changed = accounts_changed
        self._sandboxes = dict(sandboxes or {})
        self._unenclosed: dict[str, str] = {}
        self._missing: dict[str, str] = {}
        self._unusable: dict[tuple[str, str], str] = {}
        self._version_unknown = {name: e for name, e in executors.items() if isinstance(e, Versioned)}

    def check(self) -> None:
        """Check all programs. Logs what is missing once, and once more when it is back."""
        without = {name: why for name, one in self._sandboxes.items() if (why := one.unavailable()) is not None}
        missing = {name: f"its sandbox: {why}" for name, why in without.items() if self._sandboxes[name].rules.required}
        for name, executor in self._executors.items():
            if name not in missing and (why := executor.missing()) is not None:
                missing[name] = why
        self._report_unenclosed({name: why for name, why in without.items() if name not in missing})
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
        self._check_accounts()
        if changed:
            self._types_changed(served_types(self._routes, lambda executor: executor not in missing))

    def _report_unenclosed(self, found: dict[str, str]) -> None:
        """Executors that run their programs without the sandbox that they are to have where one can be made."""
        for name in found.keys() - self._unenclosed.keys():
            what = f"executor {name} runs its programs without a sandbox: {found[name]}"
            log.warning("%s", what)
            self._problems.report(ProblemKind.EXECUTOR, f"{name} sandbox", what, "or set sandbox.required: true")
        for name in self._unenclosed.keys() - found.keys():
            log.info("executor %s: its programs have their sandbox now", name)
            self._problems.clear(ProblemKind.EXECUTOR, f"{name} sandbox")
        self._unenclosed = found

    def _check_accounts(self) -> None:
        """What `missing` has found out about single accounts of a pool. The others go on."""
        pools = [e for name, e in self._executors.items() if isinstance(e, AccountPool) and name not in self._missing]
        unusable = {(pool.name, account): why for pool in pools for account, why in pool.unusable.items()}
        for (name, account), why in unusable.items():
            if (name, account) not in self._unusable:
                what = f"executor {name}, account {account}: {why}; its tasks go to the other accounts"
                log.warning("%s", what)
                self._problems.report(
                    ProblemKind.EXECUTOR, f"{name} {account}", what, "turbo doctor --config FILE on that host"
                )
        for name, account in self._unusable.keys() - unusable.keys():
            log.info("executor %s, account %s: what it needs is here now", name, account)
            self._problems.clear(ProblemKind.EXECUTOR, f"{name} {account}")
        changed = unusable.keys() != self._unusable.keys()
        self._unusable = unusable
        if changed:
            self._accounts_changed()

    async def review(self, _run: Running, outcome: Outcome) -> Outcome:
        """See runner.Reviewer: a run may have failed because its program is gone."""
        if outcome.kind is OutcomeKind.INFRASTRUCTURE:
            for sandbox in self._sandboxes.values():
                sandbox.trials.forget()
            self.check()
        return outcome

    async def run(self) -> None:
        self.started.set()
        while True:
            for name in sorted(self._version_unknown.keys() - self._missing.keys()):
                await self._version_unknown.pop(name).version()  # which logs it
            await asyncio.sleep(self._seconds)
            self.check()
