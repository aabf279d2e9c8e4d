"""The output of `turbo fleet status`: problems first, then one line per worker."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from turbo import db
from turbo.cli import output, timestamps
from turbo.cli.output import Column
from turbo.domain.finding import Finding, warn

if TYPE_CHECKING:
    import psycopg

    from turbo.fleet.status_report import FleetReport, WorkerReport

WORKERS = (
    Column("HOST"),
    Column("WORKER", flexible=True, least=12),
    Column("MANAGER"),
    Column("PID", drop=3, right=True),
    Column("WORKER ID", drop=4, flexible=True),
    Column("STATE"),
    Column("BUSY", right=True),
    Column("BEAT", drop=2, right=True),
    Column("UP", drop=5, right=True),
    Column("METRICS", drop=1),
    Column("VERSION", drop=6),
)


OTHERS_NAMED = 20


def show(report: "FleetReport", unreachable: "psycopg.Error | None", *, as_json: bool) -> int:
    """Print the report and return the exit code. `unreachable`: why agent_workers could not be read."""
    problems = list(report.everything)
    if unreachable is not None:
        why = db.why_unreachable(unreachable)
        problems.insert(0, warn(f"agent_workers cannot be read: {why}", "give --dsn, or set TURBO_DSN"))
    if as_json:
        output.print_json(
            {
                "problems": [_problem(finding) for finding in problems],
                "workers": [{**asdict(w), "problems": list(map(_problem, w.problems))} for w in report.workers],
                "others": [asdict(w) for w in report.others],
            }
        )
        return 1 if problems else 0
    for problem in problems:
        output.mark("warn", problem.what, problem.do)
    if not problems:
        output.mark("ok", "manager, agent_workers and /metrics agree")
    output.echo()
    output.table(WORKERS, [_line(worker) for worker in report.workers])
    if report.others:
        names = ", ".join(f"{row.worker_id} on {row.host}" for row in report.others[:OTHERS_NAMED])
        more = len(report.others) - OTHERS_NAMED
        output.notice(f"also in agent_workers: {names}{f', and {more} more' if more > 0 else ''}")
    return 1 if problems else 0


def _problem(finding: Finding) -> dict[str, str]:
    return {"what": finding.what, "do": finding.do}


def _line(worker: "WorkerReport") -> tuple[object, ...]:
    row, page = worker.row, worker.page
    return (
        worker.host,
        worker.name,
        worker.manager or "?",
        worker.pid,
        row.worker_id if row else "",
        row.state if row else "",
        f"{row.running}/{row.slots}" if row else "",
        timestamps.duration(row.silent_seconds) if row else "",
        timestamps.duration(row.up_seconds) if row else "",
        worker.metrics if page else "",
        row.version if row else page.version if page else "",
    )
