"""make demo: the main job on this machine, in half a minute.

Starts a real PostgreSQL from a wheel, creates the schema, runs one worker process, and inserts twenty tasks with psql. Each
task runs a program on the repository's source files. Everything is removed afterwards.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psycopg
from rich.console import Console
from rich.live import Live
from rich.table import Table

from turbo import embedded

TASKS = 20
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TURBO = Path(sys.executable).parent / "turbo"
CONFIG = """\
worker: {{name: demo, slots: 4, state_dir: "{state}"}}
metrics: {{port: 0}}
executors:
  hash: {{kind: command, command: ["{python}", "{program}"]}}
routes: {{default: hash}}
"""

console = Console(highlight=False)


def source_files() -> list[str]:
    """The repository's source files; at least one per task."""
    paths = [
        p.relative_to(ROOT).as_posix()
        for d in ("turbo", "migrations", "tests")
        for p in sorted((ROOT / d).rglob("*.*"))
    ]
    return [f for f in paths if f.endswith((".py", ".sql"))]


def insert_sql() -> str:
    """Plain SQL, as a user would type it."""
    files = source_files()
    rows = []
    for i in range(TASKS):
        mine = json.dumps({"files": files[i::TASKS]}).replace("'", "''")
        rows.append(f"('demo_{i + 1:02}', 'hash', 'Count and hash my share of the sources', '{mine}')")
    return (
        "INSERT INTO agent_tasks (task_id, task_type, task_description, input_data)\nVALUES\n  "
        + ",\n  ".join(rows)
        + ";"
    )


def show(rows: list[tuple]) -> Table:
    table = Table("task", "status", "waited", "worker", "files", "lines", "sha256", box=None, header_style="bold")
    for task_id, status, waited, worker, output in rows:
        result = (output or {}).get("output") or {}
        style = {"completed": "green", "running": "yellow", "failed": "red"}.get(status, "")
        table.add_row(
            task_id,
            f"[{style}]{status}[/]" if style else status,
            f"{waited * 1000:.1f} ms" if waited is not None else "",
            worker or "",
            str(result.get("files", "")),
            str(result.get("lines", "")),
            str(result.get("sha256", ""))[:12],
        )
    return table


def read(db: psycopg.Connection) -> list[tuple]:
    return db.execute(
        "select task_id, status, extract(epoch from started_at - run_after)::float8, assigned_worker_id, output_data"
        " from agent_tasks order by task_id"
    ).fetchall()


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="turbo-demo-") as scratch, embedded.temporary() as server:
        dsn = server.dsn
        psql = server.bin_dir / "psql"
        environment = {**os.environ, "TURBO_DSN": dsn}
        console.print(f"[bold]PostgreSQL[/] {embedded.major(server.bin_dir)} on {dsn}")
        subprocess.run([TURBO, "migrate"], env=environment, check=True)
        config = Path(scratch) / "worker.yaml"
        config.write_text(
            CONFIG.format(state=Path(scratch) / "state", python=sys.executable, program=HERE / "hash_sources.py")
        )
        log = Path(scratch) / "worker.log"
        with psycopg.connect(dsn, autocommit=True) as db, log.open("wb") as log_file:
            db.execute("listen turbo_demo")
            worker = subprocess.Popen([TURBO, "worker", "--config", config], env=environment, stderr=log_file)
            try:
                address = wait_for_worker(db, worker, log)
                console.print(f"[bold]worker[/] up, pid {worker.pid}; inserting {TASKS} tasks through {psql.name}")
                subprocess.run([psql, "-q", dsn], input=insert_sql(), text=True, check=True)
                rows = follow(db, worker)
                pickup_of_one_by_one(db, psql, dsn)
                metrics = urllib.request.urlopen(f"http://{address}/metrics", timeout=5).read().decode()
                console.print("\n[bold]metrics[/]")
                shown = ("turbo_claims_total", "turbo_tasks_finished_total", "turbo_listener_up", "turbo_slots")
                print("\n".join(f"  {line}" for line in metrics.splitlines() if line.startswith(shown)))
            finally:
                worker.terminate()
                worker.wait(timeout=60)
    done = sum(row[1] == "completed" for row in rows)
    console.print(f"\n[bold]{done} of {TASKS}[/] tasks completed; the worker drained and exited {worker.returncode}")
    return 0 if done == TASKS and worker.returncode == 0 else 1


def wait_for_worker(db: psycopg.Connection, worker: subprocess.Popen, log: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and worker.poll() is None:
        row = db.execute("select metrics_address from agent_workers where idle").fetchone()
        if row is not None:
            return row[0]
        time.sleep(0.02)
    raise SystemExit(f"the worker did not come up; its log:\n{log.read_text()}")


def follow(db: psycopg.Connection, worker: subprocess.Popen) -> list[tuple]:
    deadline = time.monotonic() + 60
    live = Live(console=console, refresh_per_second=20) if console.is_terminal else None
    if live:
        live.start()
    try:
        seen: dict[str, str] = {}
        while True:
            rows = read(db)
            if live:
                live.update(show(rows))
            else:
                for row in rows:
                    if seen.get(row[0]) != row[1]:
                        seen[row[0]] = row[1]
                        print(f"  {row[0]}  {row[1]}", flush=True)
            if (
                all(row[1] in ("completed", "failed") for row in rows)
                or time.monotonic() > deadline
                or worker.poll() is not None
            ):
                break
            time.sleep(0.02)
    finally:
        if live:
            live.stop()
    if not live:
        console.print(show(rows), width=140)
    return rows


def pickup_of_one_by_one(db: psycopg.Connection, psql: Path, dsn: str) -> None:
    """Measure from insert to claim, for tasks inserted while the worker is idle."""
    files = source_files()[:1]
    script = "\n".join(
        f"INSERT INTO agent_tasks (task_id, task_type, task_description, input_data)"
        f" VALUES ('pickup_{i:02}', 'hash', 'One file', '{json.dumps({'files': files})}');\nSELECT pg_sleep(0.05);"
        for i in range(40)
    )
    subprocess.run([psql, "-q", "-o", os.devnull, dsn], input=script, text=True, check=True)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        rows = [r for r in read(db) if r[0].startswith("pickup_")]
        if len(rows) == 40 and all(r[1] == "completed" for r in rows):
            break
        time.sleep(0.05)
    waits = [row[2] * 1000 for row in rows if row[2] is not None]
    console.print(
        f"\n[bold]pickup[/] (runnable → claimed), {len(waits)} single inserts into an idle worker:"
        f" p50 {percentile(waits, 0.5):.1f} ms, p99 {percentile(waits, 0.99):.1f} ms"
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
