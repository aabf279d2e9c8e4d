"""status: what the fleet file says, what the managers say, what agent_workers says and what /metrics say, side by side.

Where two of them differ, that is a problem with a name and something to do about it. None of them is believed alone: a manager
calls a worker running that waits for its database, agent_workers has rows of the dead, and a port may be somebody else's.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from turbo.client.fleet_status import WorkerLine
from turbo.domain.finding import Finding, warn
from turbo.fleet.instance import Host, Instance
from turbo.fleet.manager import Job, JobState, Manager
from turbo.fleet.operate import Operator, ended_how
from turbo.fleet.presence import Page, address, pages, rows_of
from turbo.fleet.render import service_file
from turbo.fleet.shell import FleetError


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """A worker of the fleet file, as all of them see it. `manager` is None where its host did not answer, `row` and `page` where
    there is none."""

    host: str
    name: str
    service: str
    manager: JobState | None
    pid: int | None
    row: WorkerLine | None
    page: Page | None
    metrics: str
    """Where it was asked: host:port."""
    problems: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class FleetReport:
    """`problems` has those of no single worker; `everything` all of them. `others`: live workers of the database that these
    hosts do not run, which is no problem."""

    workers: tuple[WorkerReport, ...]
    problems: tuple[Finding, ...]
    others: tuple[WorkerLine, ...]

    @property
    def everything(self) -> list[Finding]:
        return [*self.problems, *(problem for one in self.workers for problem in one.problems)]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A host's answers. `trouble`: why there are none."""

    host: Host
    jobs: Mapping[str, Job]
    pages: Mapping[str, Page | None]
    metrics: Mapping[str, str]
    trouble: tuple[Finding, ...]
    asked_pages: bool


def standing(operator: Operator, rows: Sequence[WorkerLine] | None) -> FleetReport:
    """Ask every host, side by side. `rows`: agent_workers, or None when the database does not answer."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        asked = list(pool.map(lambda host: _ask(operator.managers[host.name], rows), operator.hosts))
    workers: list[WorkerReport] = []
    problems: list[Finding] = []
    run = {(i.name, one.jobs[i.service].pid) for one in asked for i in one.host.instances if i.service in one.jobs}
    free = None if rows is None else [row for row in rows if (row.name, row.pid) not in run]
    for one in asked:
        problems += one.trouble
        for instance in one.host.instances:
            job = one.jobs.get(instance.service)
            workers.append(_standing(instance, one, free if job is not None and job.pid is None else rows))
        known = {instance.service for instance in one.host.instances}
        for name, job in one.jobs.items():
            if name not in known:
                state = f" and {job.state}" if job.active else ""
                problems.append(
                    warn(
                        f"{name} is installed{state} on {one.host.name}, and not in the fleet file",
                        f"turbo fleet install --prune --host {one.host.name}",
                    )
                )
    seen = {one.row.worker_id for one in workers if one.row is not None}
    others = tuple(row for row in rows or () if row.live and row.worker_id not in seen)
    return FleetReport(tuple(workers), tuple(problems), others)


def _ask(manager: Manager, rows: Sequence[WorkerLine] | None) -> _Asked:
    host = manager.host
    trouble: list[Finding] = []
    jobs: dict[str, Job] = {}
    found: dict[str, Page | None] = {}
    metrics: dict[str, str] = {}
    asked_pages = False
    try:
        jobs = manager.look([one.service for one in host.instances])
        trouble += [warn(note.partition("; ")[0], note.partition("; ")[2]) for note in manager.notes()]
        for one in host.instances:
            metrics[one.service] = address(one, _row(one, jobs[one.service], rows))
        found = pages(manager, {name: where for name, where in metrics.items() if jobs[name].active})
        asked_pages = True
    except FleetError as error:
        what, _, do = str(error).partition("; ")
        trouble.append(warn(what, do or f"turbo fleet status --host {host.name}, once it is mended"))
    return _Asked(host, jobs, found, metrics, tuple(trouble), asked_pages)


def _row(one: Instance, job: Job, rows: Sequence[WorkerLine] | None) -> WorkerLine | None:
    """The row of its process; else a live one of its name that is not any other host's process."""
    found = rows_of(one.name, job.pid, rows or [])
    return found[0] if len(found) == 1 else None


def _standing(one: Instance, asked: _Asked, rows: Sequence[WorkerLine] | None) -> WorkerReport:
    job = asked.jobs.get(one.service)
    if job is None:
        return WorkerReport(one.host, one.name, one.service, None, None, None, None, "", ())
    row, page = _row(one, job, rows), asked.pages.get(one.service)
    problems = tuple(_differences(one, job, row, page, rows, asked))
    return WorkerReport(
        one.host, one.name, one.service, job.state, job.pid, row, page, asked.metrics.get(one.service, ""), problems
    )


def _differences(
    one: Instance, job: Job, row: WorkerLine | None, page: Page | None, rows: Sequence[WorkerLine] | None, asked: _Asked
) -> Iterator[Finding]:
    who, where = f"{one.name} on {one.host}", f"--host {one.host}"
    if job.state is JobState.ABSENT:
        yield warn(f"{who} is not installed", f"turbo fleet install {where}")
    elif job.file is not None and job.file != service_file(one)[1]:
        yield warn(f"{who} is installed by another fleet file, or was edited", f"turbo fleet install {where}")
    if job.state in (JobState.DOWN, JobState.WAITING):
        what = f"{who} is down" if job.state is JobState.DOWN else f"{who} keeps ending"
        do = "turbo fleet start " + where if job.state is JobState.DOWN else f"see {one.logs} there"
        yield warn(f"{what}{ended_how(job)}", do)
    if job.state is JobState.STOPPING:
        yield warn(f"{who} is draining", f"wait, up to {one.stop_seconds} s")
    if rows is not None:
        yield from _about_row(one, job, row, rows)
    if job.state is JobState.RUNNING and asked.asked_pages:
        yield from _about_page(one, row, page, asked.metrics[one.service])


def _about_row(one: Instance, job: Job, row: WorkerLine | None, rows: Sequence[WorkerLine]) -> Iterator[Finding]:
    who = f"{one.name} on {one.host}"
    if row is None and job.state is JobState.RUNNING:
        others = rows_of(one.name, None, rows)
        if others:
            yield warn(
                f"{who} runs as pid {job.pid}, but agent_workers has {', '.join(r.worker_id for r in others)}",
                f"one that crashed is gone within its lease; one started by hand: end it; else see {one.log_file} there",
            )
        else:
            yield warn(
                f"{who} runs, and agent_workers does not know it",
                f"it waits for the database? See {one.log_file} there",
            )
    if row is not None and not job.active and job.state is not JobState.STOPPING:
        yield warn(
            f"agent_workers has {row.worker_id} up, but {one.manager} does not run {one.name} on {one.host}",
            f"one that crashed is gone within its lease; one started by hand: end pid {row.pid} on {row.host}",
        )
    if row is None or job.state is not JobState.RUNNING:
        return
    again = f"turbo fleet restart --host {one.host}"
    if one.slots is not None and row.slots != one.slots:
        yield warn(f"{who} runs with {row.slots} slots, the fleet file says {one.slots}", again)
    if one.queues and sorted(row.queues) != sorted(one.queues):
        served, said = ", ".join(row.queues), ", ".join(one.queues)
        yield warn(f"{who} serves {served}; the fleet file says {said}", again)
    if row.state == "paused":
        yield warn(f"{who} is paused: every account it uses is", "turbo status")


def _about_page(one: Instance, row: WorkerLine | None, page: Page | None, metrics: str) -> Iterator[Finding]:
    who = f"{one.name} on {one.host}"
    if page is None:
        yield warn(f"{who} runs, but no worker answers at {metrics}/metrics", f"see {one.log_file} there")
        return
    if row is not None and (page.version, page.slots) != (row.version, row.slots):
        yield warn(
            f"{metrics} is another worker's than {row.worker_id}: version {page.version} with {page.slots} slots there, "
            f"{row.version} with {row.slots} in agent_workers",
            "who listens on that port?",
        )
    if not metrics.endswith(f":{one.metrics_port}"):
        yield warn(
            f"{who} serves {metrics}, the fleet file says port {one.metrics_port}",
            f"turbo fleet restart --host {one.host}",
        )
    if row is not None and not page.listener_up:
        yield warn(f"{who} does not hear notifications, and polls", f"see {one.log_file} there")
