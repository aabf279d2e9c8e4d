"""`run_as`: programs of another user, started by a root worker and by one that may sudo.

What the user gets and what it cannot reach; that its programs end with all their descendants, however their run ends.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import psutil
import pytest
import yaml
from psycopg import conninfo

from tests.support import users
from tests.support.users import Cast, User
from tests.support.waiting import gone, until
from tests.support.workers import Bench, WorkerProcess

PROGRAM = r"""
case $1 in
who)
    id -u; id -G; pwd; cat >task; ls; umask
    tr '\n\0' ' \n' </proc/self/environ | cut -d= -f1 | sort | tr '\n' ' '; echo
    echo "$HOME|$USER|$LOGNAME|$TOKEN"
    ;;
attack)
    worker=$2; state=$3; shift 3
    for path in /proc/$worker/environ /proc/$PPID/environ /proc/$worker/mem "$@"; do
        head -c 1 "$path" >/dev/null 2>&1 && echo "read $path"
        [ -w "$path" ] && echo "may write $path"
    done
    ls "$state" >/dev/null 2>&1 && echo "listed $state"
    kill -0 "$worker" 2>/dev/null && echo "may signal $worker"
    touch "$state/workers/x" 2>/dev/null && echo "wrote"
    tr '\0' '\n' </proc/self/environ | grep -E '^(TURBO_DSN|PG|PASSFILE)' && echo "has the dsn"
    echo "tried $#"
    ;;
linger)
    sleep 1000 &
    setsid sleep 1000 &
    (setsid sh -c 'setsid sleep 1000 >/dev/null 2>&1 & exit 0' &)
    [ "$2" = stopped ] && kill -STOP $$
    [ "$2" = leaving ] && exit 0
    sleep 1000
    ;;
esac
"""


@dataclass
class Stage:
    """A worker of `cast.worker` on a bench, whose executor runs PROGRAM as `cast.agents`."""

    cast: Cast
    bench: Bench
    dsn: str
    started: list[tuple["subprocess.Popen[bytes]", WorkerProcess]] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.cast.worker.home / "state"

    def config(self, **executor: object) -> dict[str, Any]:
        program = self.cast.agents.write("program.sh", PROGRAM)
        command = ["/bin/sh", str(program), "{input[do]}"]
        section = {"kind": "command", "command": command, "run_as": self.cast.agents.name, "grace_seconds": 1}
        config = self.bench.config(state_dir=str(self.state), drain_seconds=0)
        return config | {"executors": {"x": section | executor}, "routes": {"default": "x"}}

    def start(self, config: dict[str, Any] | None = None) -> WorkerProcess:
        file = self.cast.worker.write(f"worker{len(self.started)}.yaml", yaml.safe_dump(config or self.config()))
        log = self.cast.worker.home / f"worker{len(self.started)}.log"
        with log.open("wb") as out:
            command = [sys.executable, "-c", "from turbo.cli.main import main; main()", "worker", "--config", str(file)]
            process = self.cast.worker.popen(command, {"TURBO_DSN": self.dsn, "PGAPPNAME": "secret"}, out)
        worker = WorkerProcess(process, log, self.state)  # type: ignore[arg-type]
        self.started.append((process, worker))
        self.bench.workers.append(worker)
        return worker.listening()

    def kin(self) -> list[psutil.Process]:
        """The `sleep`s of the agents' user."""
        return [process for process in self.cast.agents.processes() if name_of(process) == "sleep"]

    def lingering(self, task: str, how: str = "running") -> list[psutil.Process]:
        count = 3 if how in ("leaving", "stopped") else 4
        self.bench.insert(task, {"do": "linger", "how": how}, timeout_seconds=600)
        return until(lambda: len(self.kin()) == count and self.kin(), 30, self.bench.logs)


def name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture(params=["root", "sudo"], scope="module")
def cast(request: pytest.FixtureRequest) -> Iterator[Cast]:
    with users.cast(request.param) as one:
        yield one


@pytest.fixture
def stage(cast: Cast, bench: Bench) -> Iterator[Stage]:
    login = f"worker_{os.getpid()}_{cast.worker.name.replace('-', '_')}"
    with psycopg.connect(bench.dsn, autocommit=True) as db:
        db.execute(f"drop role if exists {login}")
        db.execute(f"create role {login} login superuser password 'secret-of-the-worker'")
    dsn = conninfo.make_conninfo(bench.dsn, user=login, password="secret-of-the-worker")
    try:
        yield Stage(cast, bench, dsn)
    finally:
        bench.close()
        with psycopg.connect(bench.dsn, autocommit=True) as db:
            db.execute(f"drop role {login}")


def output(row: dict[str, Any]) -> list[str]:
    return str(row["output_data"]["output"]).splitlines()


def test_program_has_the_users_rights_and_no_others(stage: Stage) -> None:
    agents, worker_user = stage.cast.agents, stage.cast.worker
    token = worker_user.write("account.env", "TOKEN=\"it's $HOME\\n\\\\ secret\"\n", 0o600)
    pgpass = worker_user.write(".pgpass", "*:*:*:*:x\n", 0o600)
    config = stage.config(account="login", command=["/bin/sh", str(agents.home / "program.sh"), "{input[do]}"])
    config["accounts"] = {"login": {"env_file": str(token)}}
    worker = stage.start(config)
    stage.bench.insert("who", {"do": "who"})
    uid, groups, cwd, files, umask, names, home, *rest = output(stage.bench.wait("who"))
    assert uid == str(agents.uid)
    assert set(groups.split()) == {str(agents.gid), "60"}, "its primary and supplementary groups"
    assert (Path(cwd).name, Path(cwd).is_relative_to(agents.home), files) == ("who", True, "task")
    assert Path(cwd).stat().st_mode & 0o077 == 0
    known = {"HOME", "LOGNAME", "PATH", "SHELL", "TOKEN", "TURBO_ATTEMPT", "TURBO_RUN", "TURBO_TASK_ID", "TURBO_TASK_TYPE", "USER"}
    assert set(names.split()) <= known | {"LANG", "LC_CTYPE", "TERM", "TZ", "PWD", "OLDPWD", "SHLVL", "_"}, "no SUDO_*, and nothing of the worker's"
    assert [home, *rest] == [f"{agents.home}|{agents.name}|{agents.name}|it's $HOME", "\\ secret"]
    assert umask

    log = stage.bench.row("who")["output_data"]["log"]
    spool = stage.state / "workers" / worker.worker_id / "spool"
    targets = [stage.state, log, spool, token, pgpass, stage.state / "tasks", stage.state / "workers" / worker.worker_id / "journal"]
    config["executors"]["x"]["command"] += [str(worker.pid), str(stage.state), *map(str, targets)]
    worker.stop()
    config["executors"]["x"]["command"] = ["/bin/sh", str(agents.home / "program.sh"), "attack", "{input[pid]}", *map(str, [stage.state, *targets])]
    worker = stage.start(config)
    stage.bench.insert("attack", {"pid": worker.pid})
    assert output(stage.bench.wait("attack")) == [f"tried {len(targets)}"]
    said = subprocess.run(["journalctl", "-q", "-t", "sudo"], capture_output=True, text=True).stdout if os.path.exists("/run/systemd/journal") else ""
    assert "secret" not in said


@pytest.mark.parametrize("how", ["timeout", "cancel", "drain", "leaving", "stopped"])
def test_program_ends_with_its_descendants(stage: Stage, how: str) -> None:
    config = stage.config(command=["/bin/sh", str(stage.cast.agents.home / "program.sh"), "{input[do]}", "{input[how]}"])
    worker = stage.start(config)
    if how == "leaving":
        stage.bench.insert("t", {"do": "linger", "how": how})
        stage.bench.wait("t")
    else:
        stage.lingering("t", how)
        if how == "timeout":
            stage.bench.insert("short", {"do": "linger", "how": how}, timeout_seconds=1)
            until(lambda: len(stage.kin()) == 8, 20, stage.bench.logs)
            stage.bench.wait("short", "failed")
            assert len(stage.kin()) == 4, "and nobody else's"
            worker.stop()
        elif how == "drain":
            assert worker.stop() == 0, worker.log
        else:
            stage.bench.sql("update agent_tasks set status = 'cancelled' where task_id = 't'")
            stage.bench.wait("t", "cancelled")
    assert stage.kin() == [], worker.log
    assert not list(stage.state.glob("workers/*/journal/*.json"))
    assert "still running after KILL" not in worker.log


@pytest.mark.parametrize("watched", [True, False], ids=["watcher", "next worker"])
def test_killed_worker_leaves_no_program(stage: Stage, watched: bool) -> None:
    config = stage.config(command=["/bin/sh", str(stage.cast.agents.home / "program.sh"), "{input[do]}", "{input[how]}"])
    worker = stage.start(config)
    stage.lingering("t")
    if not watched:
        (watcher,) = [p for p in psutil.Process(worker.pid).children() if "turbo.process.reaper" in " ".join(p.cmdline())]
        watcher.kill()
    worker.kill()
    until(lambda: gone(worker.pid))
    if watched:
        until(lambda: not stage.kin(), 20, lambda: "\n".join(str(f.read_text()) for f in stage.state.glob("workers/*/watcher.log")))
        return
    assert len(stage.kin()) == 4, "they live until somebody ends them"
    config["executors"]["y"] = {"kind": "python", "handler": "turbo.testing:noop"}
    config["routes"] = {"default": "y"}
    next_worker = stage.start(config)
    assert stage.kin() == [], next_worker.log
    assert "processes that dead worker" in next_worker.log
