"""What a program can read of the worker that runs it: nothing secret in its environment and its arguments."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from psycopg import conninfo

from tests.support import workers
from tests.support.prefork import TURBO
from tests.support.waiting import until
from tests.support.workers import WorkerProcess
from turbo import Client
from turbo.doctor.surroundings import of_worker
from turbo.process.concealment import concealed

SECRET = "hush-hush-4711"

LOOK = "tr '\\0' '\\n' </proc/$PPID/environ; echo; tr '\\0' '\\n' </proc/$PPID/cmdline; env"

AFTER = """
import ctypes, os, subprocess, sys
from turbo.process.concealment import conceal_environment, conceal_option
conceal_environment()
conceal_option("--dsn", sys.argv)
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
assert getenv(b"PGPASSWORD") == os.environb[b"PGPASSWORD"] == b"hush-hush-4711"
assert os.environ["EMPTY"] == "" and os.environb[b"BYTES"] == b"\\xff\\xfe"
os.environ["PGPASSWORD"] = "another"
assert getenv(b"PGPASSWORD") == b"another"
assert "hush" in sys.argv[2]
inherited = subprocess.run(["env"], capture_output=True, check=True).stdout
assert b"MY_OWN=hush-hush-4711" in inherited and b"PGPASSWORD=another" in inherited
conceal_environment()
input()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_program_finds_no_secret_of_its_worker(dsn: str, tmp_path: Path) -> None:
    with workers.bench(dsn, tmp_path) as bench:
        config = bench.config()
        config["database"] = {"dsn": "${ELSEWHERE}"}
        config["executors"]["look"] = {"kind": "command", "command": ["/bin/sh", "-c", LOOK]}
        config["routes"]["look"] = "look"
        file, log = tmp_path / "worker.yaml", tmp_path / "worker.log"
        file.write_text(yaml.safe_dump(config))
        with_password = conninfo.make_conninfo(dsn, password=SECRET)
        env = {
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "TURBO_DSN": "", "ELSEWHERE": with_password, "PGPASSWORD": SECRET, "ANTHROPIC_API_KEY": SECRET, "LC_TIME": "C",
        }  # fmt: skip
        with log.open("wb") as out:  # not a fork of another process, whose block of strings it would have
            process = subprocess.Popen(
                [TURBO, "worker", "--config", file, "--dsn", with_password],
                env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        worker = WorkerProcess(process, log, tmp_path / "state")  # type: ignore[arg-type]
        bench.workers.append(worker)
        worker.listening()
        with Client(dsn) as client:
            task = client.submit("look", task_type="look").task_id
            until(lambda: client.get(task).status == "completed")
            seen = str(client.get(task).output_data)
        assert "PGPASSWORD=****" in seen
        assert "LC_TIME=C" in seen
        assert "--dsn" in seen
        assert SECRET not in seen
        assert "--dsn contains a password" in worker.log
        assert SECRET not in worker.log
        for child in (process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))):
            assert SECRET.encode() not in Path(f"/proc/{child}/environ").read_bytes()
            assert SECRET.encode() not in Path(f"/proc/{child}/cmdline").read_bytes()
        rows = [{"worker_id": worker.worker_id, "name": "w", "host": "here", "pid": process.pid}]
        found = of_worker(rows, "here", "w").variables
        assert found["LC_TIME"] == "C"
        assert not any(concealed(value) for value in found.values())


def test_concealed_values_stay_in_use_by_the_process(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "HOME": str(tmp_path)}
    secret = [
        f"postgresql://me:{SECRET}@h/db",
        f"password={SECRET}",
        f"postgresql://h/db?user=u&%70assword={SECRET}",
        f"host=h oauth_client_secret={SECRET}",
        f"host=h {SECRET}",
        f"host=h user='u password={SECRET}'",
        f"dbname=postgresql://u:{SECRET}",
        f"host=h options='-c x.y={SECRET}'",
    ]
    plain = "host=h dbname=d passfile=/p"
    words = [*(f"--dsn={dsn}" for dsn in secret[1:]), "--dsn", plain, "other=1"]
    process = subprocess.Popen(
        [sys.executable, "-c", AFTER, "--dsn", secret[0], *words],
        env={**env, "PGPASSWORD": SECRET, "MY_OWN": SECRET, "EMPTY": "", "BYTES": os.fsdecode(b"\xff\xfe")},
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    watched = psutil.Process(process.pid)
    until(lambda: process.poll() is not None or concealed(watched.environ().get("MY_OWN", "")))
    assert process.poll() is None, process.communicate()[1]
    until(lambda: process.poll() is not None or "hush" not in " ".join(watched.cmdline()[3:]))
    shown = watched.environ()
    assert "hush" not in str(shown)
    assert shown["HOME"] == str(tmp_path)
    assert watched.cmdline()[-2:] == [plain, "other=1"]
    _, problems = process.communicate("\n", timeout=30)
    assert process.returncode == 0, problems


def test_parent_that_still_shows_the_password_is_named(tmp_path: Path) -> None:
    """As sudo does, which stays: nobody else can overwrite its arguments."""
    file = tmp_path / "worker.yaml"
    file.write_text(yaml.safe_dump({"worker": {"state_dir": str(tmp_path / "state")}, "metrics": {"port": 0},
                                    "executors": {"x": {"kind": "command", "command": ["true"]}}}))  # fmt: skip
    away = f"host=127.0.0.1 port=1 dbname=d user=u password={SECRET}"
    with (tmp_path / "log").open("wb") as out:
        shell = subprocess.Popen(
            ["/bin/sh", "-c", '"$@" & wait', "sh", TURBO, "worker", "--config", file, "--dsn", away],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        until(lambda: "waiting for the database" in (tmp_path / "log").read_text())
        log = (tmp_path / "log").read_text()
        assert f"can read the database's password in the arguments of process {shell.pid} (sh)" in log
        assert log.count("the arguments of process") == 1
        assert SECRET not in log
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait()
        until(
            lambda: not [p for p in psutil.process_iter(["cmdline"]) if str(file) in " ".join(p.info["cmdline"] or [])]
        )
