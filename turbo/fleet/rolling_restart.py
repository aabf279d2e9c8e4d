"""restart: one worker at a time, then the pages, and no further than the first that does not come back.

    running ──TERM──▶ draining ──exit, its row gone from agent_workers──▶ down ──start──▶ a new worker id of its name is up

A running process proves little: a worker that cannot reach its database runs too. So agent_workers decides. The old process
must have deleted its row, which only a drain does (a killed worker leaves its row behind), and the new one must have
registered and be up. Meanwhile the other workers keep working.
"""

import time

from turbo.client.fleet_status import WorkerLine
from turbo.fleet.instance import Instance, WorkerInstance
from turbo.fleet.manager import Job, JobState
from turbo.fleet.operate import POLL_SECONDS, Operator, ended_how, holds
from turbo.fleet.presence import Presence, rows_of
from turbo.fleet.shell import FleetError

UP_SECONDS = 60.0
"""How long a started worker may take to come up, beyond its throttle."""

GOODBYE_SECONDS = 5.0
"""How long an ended worker's row may take to disappear. The worker deletes it before it exits, so only the database can be late."""


class RollingRestart:
    def __init__(self, operator: Operator, presence: Presence | None, up_seconds: float = UP_SECONDS) -> None:
        """Without `presence` (a dry run) nothing waits."""
        self._operator = operator
        self._presence = presence
        self._up_seconds = up_seconds
        self._reported: dict[str, str] = {}

    def run(self) -> None:
        """Restart every instance. Raises FleetError with what failed, what was restarted and what was not touched."""
        instances = sorted(self._operator.instances, key=lambda one: not isinstance(one, WorkerInstance))
        for done, instance in enumerate(instances):
            try:
                self._restart(instance)
            except FleetError as error:
                raise FleetError(f"{error}; {self._how_far(instances, done)}") from None
            except KeyboardInterrupt:
                self._operator.report(
                    f"{instance.name} on {instance.host} may be down; {self._how_far(instances, done)}"
                )
                raise

    def _how_far(self, instances: list[Instance], done: int) -> str:
        rest = [instance.name for instance in instances[done + 1 :]]
        left = f"; not touched: {', '.join(rest)}" if rest else ""
        return f"{done} of {len(instances)} restarted{left} (`turbo fleet status` shows the fleet, `start` starts what is down)"

    def _restart(self, instance: Instance) -> None:
        manager = self._operator.manager(instance)
        job = manager.jobs([instance.service])[instance.service]
        if job.state is JobState.ABSENT and not self._operator.dry:
            raise FleetError(
                f"{instance.name} is not installed on {instance.host}: turbo fleet install --host {instance.host}"
            )
        if isinstance(instance, WorkerInstance):
            self._restart_worker(instance, job)
        else:
            self._restart_page(instance, job)

    def _restart_page(self, instance: Instance, job: Job) -> None:
        """It has no tasks: whoever looks at it sees it again within seconds."""
        manager = self._operator.manager(instance)
        if holds(job) or self._operator.dry:
            manager.begin_stop(instance.service)
            self._operator.down(instance)
        manager.start(instance.service)
        self._operator.report_on(instance, f"started (pid {self._operator.steady(instance)})")

    def _restart_worker(self, instance: WorkerInstance, job: Job) -> None:
        manager = self._operator.manager(instance)
        rows = self._presence.rows() if self._presence else []
        before = {row.worker_id for row in rows}
        if holds(job) or self._operator.dry:
            manager.begin_stop(instance.service)
            self._operator.down(instance, meanwhile=lambda: self._report_draining(instance, before))
            self._gone(instance, rows_of(instance.name, job.pid, rows) if job.pid else [])
            if self._operator.dry:
                self._operator.report(
                    f"# wait until the row of {instance.name}'s old process is gone from agent_workers"
                )
        manager.start(instance.service)
        pid = self._operator.steady(instance)
        if self._presence is not None:
            row = self._up(instance, before, pid)
            self._operator.report_on(instance, f"up as {row.worker_id} ({row.version})")
        else:
            self._operator.report(f"# wait until a new worker id of {instance.name} is up in agent_workers")

    def _report_draining(self, instance: WorkerInstance, before: set[str]) -> None:
        rows = self._presence.rows_or_none() if self._presence else None
        running = sum(row.running for row in rows_of(instance.name, None, rows or []) if row.worker_id in before)
        what = f"draining, {running} running" if rows is not None else "draining"
        if self._reported.get(instance.name) != what:
            self._reported[instance.name] = what
            self._operator.report_on(instance, what)

    def _gone(self, instance: WorkerInstance, old: list[WorkerLine]) -> None:
        """Wait until its old row is gone, and with it every claim."""
        ids = {row.worker_id for row in old}
        end = time.monotonic() + GOODBYE_SECONDS
        while self._presence is not None and ids:
            rows = self._presence.rows_or_none()
            if rows is not None and not ids & {row.worker_id for row in rows}:
                return
            if rows is not None and time.monotonic() > end:
                raise FleetError(
                    f"{instance.name} on {instance.host} ended without a drain: {', '.join(sorted(ids))} is still in agent_workers; "
                    f"its tasks are rescued when it is started again; see {instance.logs} there"
                )
            if time.monotonic() > end + self._up_seconds:
                raise FleetError(
                    f"the database does not answer, so it is not known whether {instance.name} has drained"
                )
            time.sleep(POLL_SECONDS)

    def _up(self, instance: WorkerInstance, before: set[str], pid: int | None) -> WorkerLine:
        assert self._presence is not None
        end = time.monotonic() + self._up_seconds + instance.throttle_seconds
        while True:
            rows = self._presence.rows_or_none()
            for row in rows_of(instance.name, pid, rows or []):
                if row.worker_id not in before and row.state in ("up", "paused"):
                    return row
            job: Job = self._operator.manager(instance).state(instance.service)
            if job.state is not JobState.RUNNING or job.pid != pid or time.monotonic() > end:
                why = (
                    f"does not stay up{ended_how(job)}"
                    if job.state is not JobState.RUNNING or job.pid != pid
                    else f"runs, and is not up in agent_workers within {self._up_seconds:.0f} s"
                    + ("" if rows is not None else " (the database does not answer)")
                )
                raise FleetError(f"{instance.name} on {instance.host} {why}; see {instance.logs} there")
            time.sleep(POLL_SECONDS)
