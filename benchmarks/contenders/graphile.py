"""graphile-worker (Node), plain and with its local queue, each tuned as its page on performance says."""

import json
import shutil
from pathlib import Path

from benchmarks.contender import Contender

HERE = Path(__file__).parent / "node"
PACKAGE = HERE / "node_modules" / "graphile-worker" / "package.json"


def missing() -> str | None:
    if shutil.which("node") is None:
        return "there is no node here"
    return None if PACKAGE.exists() else "graphile-worker is not installed: npm ci in benchmarks/contenders/node"


def version() -> str:
    return f"graphile-worker {json.loads(PACKAGE.read_text())['version']}"


def _one(name: str, variant: str, settings: str, jobs: int) -> Contender:
    return Contender(
        name=name,
        module="graphile",
        variant=variant,
        packages=(),
        insert="select graphile_worker.add_job('noop')",
        fill="select graphile_worker.add_jobs(array(select row('noop', null, null, null, null, null, null, null)"
        "::graphile_worker.job_spec from generate_series(1, %(n)s)))",
        pending="select exists (select from graphile_worker.jobs)",
        settings=lambda slots: settings.format(slots=slots, pool=slots + 1),
        jobs=jobs,
        program=("node", str(HERE / "graphile.mjs")),
        version_of=version,
        missing=missing,
        throughput_only=variant == "local",
    )


CONTENDERS = [
    _one("graphile-worker", "", "concurrentJobs: {slots}, maxPoolSize: {pool}", 6_000),
    _one(
        "graphile-worker (local queue)",
        "local",
        "concurrentJobs: {slots}, maxPoolSize: {pool}, localQueue: {{size: 500}}, completeJobBatchDelay: 0, failJobBatchDelay: 0",
        60_000,
    ),
]
