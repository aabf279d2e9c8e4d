"""make tour: a small fleet at work, and its page: PostgreSQL, three workers, a scripted agent, and work of every kind.

    embedded PostgreSQL ──▶ a made-up fortnight ──▶ three workers on two "hosts" ──▶ a stream of tasks ──▶ the page's address

No login and no network are needed: scripts/tour_agent.py plays the agent. Runs until Ctrl-C; everything is removed afterwards.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import psycopg
import tour_scenes as scenes
from tour_work import Work, write_history

from turbo import Client, embedded

HERE = Path(__file__).resolve().parent
TURBO = Path(sys.executable).parent / "turbo"
FLEET = (("alpha", "alpha-1"), ("alpha", "alpha-2"), ("beta", "beta-1"))
PAUSE_SECONDS = 3.0

CONFIG = """\
worker:
  {{name: {name}, host: {host}, slots: 3, state_dir: {state}, queues: [default, reviews, experiments], drain_seconds: 3}}
metrics: {{port: 0}}
accounts:
  alpha-max: {{env_file: {alpha}}}
  beta-max: {{env_file: {beta}}}
executors:
  coder: &agent
    kind: claude
    accounts: [alpha-max, beta-max]
    command: [{agent}]
    env: {{HOME: {home}, CLAUDE_CONFIG_DIR: {home}, TOUR_PACE: "{pace}"}}
    resume: true
    workspace: {{kind: worktree, repo: {repo}}}
    check: {{command: [{python}, tests.py], rounds: 2}}
    files: ["report/*.html"]
    ask: {{within_seconds: 1800}}
  agent:
    kind: claude
    accounts: [alpha-max, beta-max]
    command: [{agent}]
    env: {{HOME: {home}, CLAUDE_CONFIG_DIR: {home}, TOUR_PACE: "{pace}"}}
    resume: true
    ask: {{approve: ["Bash(git push *)"], within_seconds: 1800}}
  program: {{kind: command, command: [{python}, {program}]}}
routes: {{default: agent, code: coder, program: program}}
retry: {{base_seconds: 2, max_seconds: 10}}
"""


class Stopped(Exception):
    """Somebody has pressed Ctrl-C, or sent TERM."""


def make_repository(repo: Path) -> None:
    """The shop that the agents work on."""
    (repo / "shop").mkdir(parents=True)
    (repo / "shop" / "cart.py").write_text(scenes.CART)
    (repo / "tests.py").write_text(scenes.TESTS)
    (repo / ".gitignore").write_text("__pycache__/\n")
    git = ["git", "-C", str(repo), "-c", "user.name=The shop", "-c", "user.email=shop@example.com"]
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "Begin the shop"]):
        subprocess.run([*git, *words], check=True, stdout=subprocess.DEVNULL)


def make_agent(scratch: Path) -> Path:
    """The scripted agent as one program; its name is not the CLI's, so no login is handed to it in another way."""
    program = scratch / "scripted-agent"
    program.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS {shlex.quote(str(HERE / "tour_agent.py"))} "$@"\n'
    )
    program.chmod(0o755)
    return program


def make_accounts(scratch: Path) -> dict[str, Path]:
    files = {}
    for name in ("alpha", "beta"):
        files[name] = scratch / f"{name}.env"
        files[name].write_text(f"TOUR_ACCOUNT={name}\n")
        files[name].chmod(0o600)
    return files


@contextlib.contextmanager
def fleet(dsn: str, scratch: Path, pace: float) -> Iterator[None]:
    """Three workers, ready."""
    make_repository(scratch / "shop")
    places = {
        "home": scratch / "home",
        "repo": scratch / "shop",
        "agent": make_agent(scratch),
        **make_accounts(scratch),
    }
    places |= {"python": Path(sys.executable), "program": HERE / "tour_program.py"}
    processes: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "TURBO_DSN": dsn}
    try:
        for host, name in FLEET:
            config = scratch / f"{name}.yaml"
            quoted = {key: json.dumps(str(path)) for key, path in {**places, "state": scratch / "state" / host}.items()}
            config.write_text(CONFIG.format(name=name, host=host, pace=pace, **quoted))
            with (scratch / f"{name}.log").open("wb") as log:
                command = [TURBO, "worker", "--config", config]
                processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        with psycopg.connect(dsn, autocommit=True) as db:
            while True:
                row = db.execute("select count(*) from agent_workers where state = 'up'").fetchone()
                if row is not None and row[0] == len(FLEET):
                    break
                if any(process.poll() is not None for process in processes):
                    raise RuntimeError("a worker ended:\n" + "".join(p.read_text() for p in scratch.glob("*.log")))
                time.sleep(0.05)
        yield
    finally:
        end(processes)


@contextlib.contextmanager
def page(dsn: str, scratch: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """The page; its first lines have a link that signs one browser in. What it keeps is in `scratch`."""
    command = [TURBO, "web", "--config", scratch / f"{FLEET[0][1]}.yaml", "--port", str(port)]
    process = subprocess.Popen(
        command, env={**os.environ, "TURBO_DSN": dsn}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        end([process])


def show_lines(process: subprocess.Popen[str]) -> None:
    """What the page prints, to our own standard output."""
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)


def end(processes: Sequence[subprocess.Popen[bytes] | subprocess.Popen[str]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def stream(client: Client, pause: float, stopped: threading.Event, shown: subprocess.Popen[str]) -> None:
    """The work, until somebody stops it or the page ends."""
    work = Work(client)
    work.first()
    for make in work.steadily():
        if stopped.wait(pause) or shown.poll() is not None:
            return
        try:
            make()
        except (ValueError, LookupError, psycopg.Error) as error:  # a task that was to be told something is over
            print(f"tour: {error}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description="A small fleet at work, and its page.")
    parser.add_argument("--pace", type=float, default=1.0, help="how slowly the agent works [default: 1]")
    parser.add_argument("--pause", type=float, default=PAUSE_SECONDS, help="seconds between tasks [default: 3]")
    parser.add_argument("--port", type=int, default=9480, help="of the page; 0: any free port [default: 9480]")
    parser.add_argument("--no-history", action="store_true", help="without the made-up fortnight")
    given = parser.parse_args()
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        if not stopped.is_set():
            stopped.set()
            raise Stopped

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)  # a second Ctrl-C changes nothing: nothing must be left behind
    try:
        tour(given, stopped)
    except Stopped:
        print("\nThe tour is over: nothing is left of it.", flush=True)
    return 0


def tour(given: argparse.Namespace, stopped: threading.Event) -> None:
    with tempfile.TemporaryDirectory(prefix="turbo-tour-") as name, embedded.temporary() as server:
        scratch = Path(name)
        quiet = {"stdout": subprocess.DEVNULL}
        subprocess.run([TURBO, "migrate"], env={**os.environ, "TURBO_DSN": server.dsn}, check=True, **quiet)
        if not given.no_history:
            with psycopg.connect(server.dsn) as db:
                write_history(db)
        with fleet(server.dsn, scratch, given.pace):
            print(f"database   {server.dsn}")
            print(f"workers    {', '.join(name for _, name in FLEET)}; their logs are in {scratch}")
            print(f"terminal   TURBO_DSN='{server.dsn}' turbo top")
            print("Ctrl-C ends the tour. The page:", flush=True)
            with page(server.dsn, scratch, given.port) as shown, Client(server.dsn) as client:
                threading.Thread(target=show_lines, args=[shown], daemon=True).start()
                stream(client, given.pause, stopped, shown)


if __name__ == "__main__":
    sys.exit(main())
