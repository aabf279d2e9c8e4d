"""status: the fleet file, the service managers, agent_workers and /metrics, side by side.

Every difference is a finding with a remedy. No single source is trusted: a manager shows a worker as running while it waits
for its database, agent_workers has rows of dead workers, and another program may listen on a port.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from turbo.client.fleet_status import WorkerLine
from turbo.domain.finding import Finding, warn
from turbo.domain.states import WorkerState
from turbo.fleet.instance import Host, Instance, WorkerInstance
from turbo.fleet.manager import Job, JobState, Manager
from turbo.fleet.operate import Operator, ended_how
from turbo.fleet.presence import Page, address, pages, rows_of
from turbo.fleet.render import service_file
from turbo.fleet.shell import FleetError


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """A worker or a page of the fleet file, as each source sees it. `manager` is None if its host did not answer; `row` and
    `page` are None if there is none."""

    host: str
    name: str
    service: str
    manager: JobState | None
    pid: int | None
    row: WorkerLine | None
    page: Page | None
    metrics: str
    """The address of its /metrics: host:port."""
    problems: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class FleetReport:
    """`problems` are those that concern no single worker; `everything` has them all. `others`: live workers in the database that
    these hosts do not run, which is no problem."""

    workers: tuple[WorkerReport, ...]
    problems: tuple[Finding, ...]
    others: tuple[WorkerLine, ...]

    @property
    def everything(self) -> list[Finding]:
        return [*self.problems, *(problem for worker in self.workers for problem in worker.problems)]


@dataclass(frozen=True, slots=True)
class _HostAnswer:
    """A host's answers. `problems`: why some are missing."""

    host: Host
    jobs: Mapping[str, Job]
    pages: Mapping[str, Page | None]
    metrics: Mapping[str, str]
    problems: tuple[Finding, ...]
    asked_pages: bool


def fleet_report(operator: Operator, rows: Sequence[WorkerLine] | None) -> FleetReport:
    """Ask every host in parallel. `rows`: agent_workers, or None if the database does not answer."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        answers = list(pool.map(lambda host: _ask(operator.managers[host.name], rows), operator.hosts))
    workers: list[WorkerReport] = []
    problems: list[Finding] = []
    known_processes = {
        (i.name, answer.jobs[i.service].pid)
        for answer in answers
        for i in answer.host.workers
        if i.service in answer.jobs
    }
    free = None if rows is None else [row for row in rows if (row.name, row.pid) not in known_processes]
    for answer in answers:
        problems += answer.problems
        for instance in answer.host.instances:
            job = answer.jobs.get(instance.service)
            if isinstance(instance, WorkerInstance):
                workers.append(_worker_report(instance, answer, free if job is not None and job.pid is None else rows))
            else:
                workers.append(_page_report(instance, job))
        known = {instance.service for instance in answer.host.instances}
        for name, job in answer.jobs.items():
            if name not in known:
                state = f" and {job.state}" if job.active else ""
                problems.append(
                    warn(
                        f"{name} is installed{state} on {answer.host.name}, but not in the fleet file",
                        f"turbo fleet install --prune --host {answer.host.name}",
                    )
                )
    seen = {worker.row.worker_id for worker in workers if worker.row is not None}
    others = tuple(row for row in rows or () if row.live and row.worker_id not in seen)
    return FleetReport(tuple(workers), tuple(problems), others)


def _ask(manager: Manager, rows: Sequence[WorkerLine] | None) -> _HostAnswer:
    host = manager.host
    problems: list[Finding] = []
    jobs: dict[str, Job] = {}
    answers: dict[str, Page | None] = {}
    metrics: dict[str, str] = {}
    asked_pages = False
    try:
        jobs = manager.jobs([instance.service for instance in host.instances])
        problems += [warn(note.partition("; ")[0], note.partition("; ")[2]) for note in manager.notes()]
        for instance in host.workers:
            metrics[instance.service] = address(instance, _row(instance, jobs[instance.service], rows))
        answers = pages(manager, {name: where for name, where in metrics.items() if jobs[name].active})
        asked_pages = True
    except FleetError as error:
        what, _, do = str(error).partition("; ")
        problems.append(warn(what, do or f"fix it, then run turbo fleet status --host {host.name}"))
    return _HostAnswer(host, jobs, answers, metrics, tuple(problems), asked_pages)


def _row(instance: WorkerInstance, job: Job, rows: Sequence[WorkerLine] | None) -> WorkerLine | None:
    """The row of its process, or else the only live row with its name."""
    matches = rows_of(instance.name, job.pid, rows or [])
    return matches[0] if len(matches) == 1 else None


def _page_report(instance: Instance, job: Job | None) -> WorkerReport:
    """A page has no row and no /metrics: its service manager is all that knows it."""
    state, pid = (None, None) if job is None else (job.state, job.pid)
    problems = () if job is None else tuple(_about_job(instance, job))
    return WorkerReport(instance.host, instance.name, instance.service, state, pid, None, None, "", problems)


def _worker_report(instance: WorkerInstance, answer: _HostAnswer, rows: Sequence[WorkerLine] | None) -> WorkerReport:
    job = answer.jobs.get(instance.service)
    if job is None:
        return WorkerReport(instance.host, instance.name, instance.service, None, None, None, None, "", ())
    row, page = _row(instance, job, rows), answer.pages.get(instance.service)
    problems = tuple(_differences(instance, job, row, page, rows, answer))
    return WorkerReport(
        instance.host,
        instance.name,
        instance.service,
        job.state,
        job.pid,
        row,
        page,
        answer.metrics.get(instance.service, ""),
        problems,
    )


def _about_job(instance: Instance, job: Job) -> Iterator[Finding]:
    who, where = f"{instance.name} on {instance.host}", f"--host {instance.host}"
    if job.state is JobState.ABSENT:
        yield warn(f"{who} is not installed", f"turbo fleet install {where}")
    elif job.file is not None and job.file != service_file(instance)[1]:
        yield warn(f"{who} was installed from another fleet file, or edited", f"turbo fleet install {where}")
    if job.state in (JobState.DOWN, JobState.WAITING):
        what = f"{who} is down" if job.state is JobState.DOWN else f"{who} keeps exiting"
        do = "turbo fleet start " + where if job.state is JobState.DOWN else f"see {instance.logs} there"
        yield warn(f"{what}{ended_how(job)}", do)
    if job.state is JobState.STOPPING:
        yield warn(f"{who} is draining", f"wait, up to {instance.stop_seconds} s")


def _differences(
    instance: WorkerInstance,
    job: Job,
    row: WorkerLine | None,
    page: Page | None,
    rows: Sequence[WorkerLine] | None,
    answer: _HostAnswer,
) -> Iterator[Finding]:
    yield from _about_job(instance, job)
    if rows is not None:
        yield from _about_row(instance, job, row, rows)
    if job.state is JobState.RUNNING and answer.asked_pages:
        yield from _about_page(instance, row, page, answer.metrics[instance.service])


def _about_row(
    instance: WorkerInstance, job: Job, row: WorkerLine | None, rows: Sequence[WorkerLine]
) -> Iterator[Finding]:
    who = f"{instance.name} on {instance.host}"
    if row is None and job.state is JobState.RUNNING:
        others = rows_of(instance.name, None, rows)
        if others:
            yield warn(
                f"{who} runs as pid {job.pid}, but agent_workers has {', '.join(r.worker_id for r in others)}",
                f"a crashed worker disappears within its lease; end one that was started by hand; else see {instance.log_file} there",
            )
        else:
            yield warn(
                f"{who} runs, but agent_workers does not have it",
                f"it may be waiting for the database; see {instance.log_file} there",
            )
    if row is not None and not job.active and job.state is not JobState.STOPPING:
        yield warn(
            f"agent_workers has {row.worker_id} up, but {instance.manager} does not run {instance.name} on {instance.host}",
            f"a crashed worker disappears within its lease; if it was started by hand, end pid {row.pid} on {row.host}",
        )
    if row is None or job.state is not JobState.RUNNING:
        return
    again = f"turbo fleet restart --host {instance.host}"
    if instance.slots is not None and row.slots != instance.slots:
        yield warn(f"{who} runs with {row.slots} slots, the fleet file has {instance.slots}", again)
    if instance.queues and sorted(row.queues) != sorted(instance.queues):
        served, expected = ", ".join(row.queues), ", ".join(instance.queues)
        yield warn(f"{who} serves {served}; the fleet file has {expected}", again)
    if row.state == WorkerState.PAUSED:
        yield warn(f"{who} is paused, because every account it uses is paused", "turbo status")


def _about_page(instance: WorkerInstance, row: WorkerLine | None, page: Page | None, metrics: str) -> Iterator[Finding]:
    who = f"{instance.name} on {instance.host}"
    if page is None:
        yield warn(f"{who} runs, but no worker answers at {metrics}/metrics", f"see {instance.log_file} there")
        return
    if row is not None and (page.version, page.slots) != (row.version, row.slots):
        yield warn(
            f"{metrics} belongs to another worker than {row.worker_id}: version {page.version} with {page.slots} slots there, "
            f"{row.version} with {row.slots} in agent_workers",
            "find the program that listens on that port",
        )
    if not metrics.endswith(f":{instance.metrics_port}"):
        yield warn(
            f"{who} serves {metrics}, the fleet file has port {instance.metrics_port}",
            f"turbo fleet restart --host {instance.host}",
        )
    if row is not None and not page.listener_up:
        yield warn(f"{who} does not receive notifications, and polls instead", f"see {instance.log_file} there")
