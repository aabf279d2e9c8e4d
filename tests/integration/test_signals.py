"""What a worker does with each signal that a person, a terminal or a supervisor may send it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from tests.support.prefork import TURBO
from tests.support.shell import Shell
from tests.support.waiting import until
from tests.support.workers import AS_A_SHELL_DOES, Bench

PLAIN = ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGIO", "SIGXCPU")

GROUP_LEADER = "import os, sys; os.setpgid(0, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""As a shell starts a job. The kernel ignores TSTP where nobody of the session could continue the process: setsid, a CI."""

DEAF = """if True:
    import os, signal, sys
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    os.execv(sys.argv[1], sys.argv[1:])
"""


def test_signals_without_a_meaning_are_logged_and_ignored(bench: Bench) -> None:
    bench.program = (sys.executable, "-c", GROUP_LEADER, TURBO, "worker", "--config")
    worker = bench.start().listening()
    for name in PLAIN:
        if hasattr(signal, name):
            worker.kill(getattr(signal, name))
            worker.said(f"{name} has no meaning here")
    for number in (signal.SIGPIPE, signal.SIGWINCH, signal.SIGURG):
        worker.kill(number)
    worker.kill(signal.SIGHUP)
    worker.said("SIGHUP: ")
    worker.kill(signal.SIGTSTP)
    process = psutil.Process(worker.pid)
    until(lambda: process.status() == psutil.STATUS_STOPPED, what="Ctrl-Z stops it")
    worker.kill(signal.SIGCONT)
    worker.said("continued after a stop")
    bench.insert("t", task_type="noop")
    bench.wait("t")
    assert "draining" not in worker.log
    assert worker.stop() == 0


@pytest.mark.parametrize("name", ["SIGQUIT", "SIGPWR"])
def test_quit_drains_and_a_second_one_ends_the_runs(bench: Bench, name: str) -> None:
    if not hasattr(signal, name):
        pytest.skip(f"no {name} on this system")
    worker = bench.start(drain_seconds=600).listening()
    bench.insert("t", {"gate": str(bench.path / "gate")})
    until(lambda: bench.runs()["t"])
    worker.kill(getattr(signal, name))
    worker.said("draining")
    assert bench.row("t")["status"] == "running"
    worker.kill(getattr(signal, name))
    assert worker.process.wait(timeout=30) == 0
    assert bench.row("t")["status"] == "pending"
    assert bench.row("t")["infra_count"] == 0


def test_hangup_opens_the_log_file_again(bench: Bench) -> None:
    log = bench.path / "logs" / "turbo.log"
    worker = bench.start(None, "--log-file", str(log))
    until(lambda: log.exists() and "listening on channel" in log.read_text())
    log.rename(log.with_suffix(".1"))
    worker.kill(signal.SIGHUP)
    until(lambda: log.exists() and "SIGHUP: " in log.read_text(), what="a new file, before anything else is logged")
    assert "SIGHUP: " not in log.with_suffix(".1").read_text()
    assert worker.stop() == 0


def test_hangup_stays_ignored_under_nohup(bench: Bench) -> None:
    bench.program = ("nohup", TURBO, "worker", "--config")
    worker = bench.start().listening()
    worker.kill(signal.SIGHUP)
    worker.kill(signal.SIGUSR1)
    worker.said("SIGUSR1")
    assert "SIGHUP" not in worker.log
    assert worker.stop() == 0


def test_worker_drains_when_its_terminal_is_gone(bench: Bench, shell: Shell) -> None:
    file = bench.path / "worker.yaml"
    file.write_text(yaml.safe_dump(bench.config()))
    terminal = shell.terminal("worker", "--config", file)
    try:
        terminal.said("listening on channel")
        os.close(terminal._ours)
        assert terminal.process.wait(30) == 0
        assert bench.sql("select worker_id from agent_workers") == [], "it said goodbye"
    finally:
        terminal.kill()


def test_inherited_dispositions_lose_no_exit_code(bench: Bench) -> None:
    """A parent that ignores SIGCHLD, or blocks TERM, passes that on. The kernel then drops the status of every child."""
    bench.program = (sys.executable, "-c", DEAF, TURBO, "worker", "--config")
    worker = bench.start().listening()
    bench.insert("t", {"exit": 3}, max_retries=0)
    assert "exit code 3" in bench.wait("t", "failed")["error_message"]
    worker.kill(signal.SIGUSR1)
    worker.said("SIGUSR1")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(timeout=30) == 0


def test_signal_during_the_start_does_not_end_it(bench: Bench) -> None:
    """HUP and USR1 while the configuration is read: sent over and over until it listens."""
    bench.program = AS_A_SHELL_DOES
    worker = bench.start()
    process = psutil.Process(worker.pid)
    until(lambda: process.num_threads() >= 1 and Path(f"/proc/{worker.pid}/cmdline").read_bytes().count(b"worker"))
    until(lambda: _catches(worker.pid, signal.SIGHUP))
    while "listening on channel" not in worker.log:
        assert worker.process.poll() is None, worker.log
        worker.kill(signal.SIGHUP)
        worker.kill(signal.SIGUSR1)
    assert worker.stop() == 0


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal, which /proc shows."""
    line = next(part for part in Path(f"/proc/{pid}/status").read_text().splitlines() if part.startswith("SigCgt"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def test_signals_are_documented(bench: Bench) -> None:
    del bench
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    for word in ("HUP", "QUIT", "USR1", "nohup", "PID 1"):
        assert word in text
    assert "HUP" in subprocess.run([TURBO, "worker", "--help"], capture_output=True, text=True).stdout
