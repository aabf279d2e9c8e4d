"""turbo as its users run it: `turbo worker` with a python handler, everything on (trail, fence, metrics, spool directory)."""

import os
import subprocess
import sys
import tempfile
from importlib import metadata, util
from pathlib import Path

from benchmarks.contender import ROOT, Contender

CONFIG = """
worker: {{name: bench, slots: {slots}, state_dir: {state}}}
metrics: {{port: 0}}
executors: {{noop: {{kind: python, handler: "benchmarks.ledger:noop"}}}}
routes: {{default: noop}}
"""


def version() -> str:
    loop = f", uvloop {metadata.version('uvloop')}" if util.find_spec("uvloop") else ""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return f"turbo {metadata.version('agent-turbo')} ({commit.stdout.strip() or 'no git'}), psycopg {metadata.version('psycopg')}{loop}"


CONTENDERS = [
    Contender(
        name="turbo",
        module="turbo",
        packages=("agent-turbo",),
        insert="insert into agent_tasks (task_description) values ('x')",
        fill="insert into agent_tasks (task_description) select 'x' from generate_series(1, %(n)s)",
        pending="select exists (select from agent_tasks where status in ('pending', 'scheduled', 'running'))",
        settings=lambda slots: f"`turbo worker`, defaults, slots: {slots}, a python handler",
        jobs=40_000,
        version_of=version,
    )
]

if __name__ == "__main__":
    turbo = str(Path(sys.executable).parent / "turbo")
    environment = {**os.environ, "TURBO_DSN": os.environ["BENCH_DSN"]}
    if sys.argv[1] == "setup":
        subprocess.run([turbo, "migrate"], env=environment, check=True, stdout=subprocess.DEVNULL)
    else:
        home = Path(tempfile.mkdtemp(prefix="turbo-bench-", dir=os.environ.get("BENCH_HOME")))
        config = home / "worker.yaml"
        config.write_text(CONFIG.format(slots=os.environ["BENCH_SLOTS"], state=home / "state"))
        os.execve(turbo, [turbo, "worker", "--config", str(config)], environment)
