"""From one YAML to running workers under a stand-in for launchd: ProgramArguments as the plist states them, in the plist's
environment and directory and nothing else. tests/support/launchd.py describes what launchd itself does. Nothing here ran on a Mac.
"""

import plistlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import FleetBench, free_ports, load
from tests.support.launchd import Launchd, environment_of, launchd, spawned
from tests.support.prefork import TURBO
from tests.support.size import sized
from tests.support.waiting import gone, until
from tests.support.workers import Bench
from turbo.fleet.operate import STEADY_SECONDS


@pytest.fixture
def mac(bench: Bench) -> Iterator[Launchd]:
    with launchd(bench.path / "launchd") as one:
        yield one


@pytest.fixture
def fleet(bench: Bench, mac: Launchd) -> FleetBench:
    return FleetBench(bench, bench.path / "home", (mac.bin,))


INSTANCES = sized(2, 4)
"""Of one worker, in a rolling restart."""


def host(count: int = 1, **worker: object) -> dict[str, object]:
    entry = {"name": "mac", "count": count, "metrics_port": free_ports(count)} | worker
    return {"alpha": {"manager": "launchd", "workers": [entry]}}


LABEL = "com.agent-turbo.mac"


def test_one_yaml_file_starts_workers_that_run_tasks(fleet: FleetBench, mac: Launchd) -> None:
    mac.forks = False
    fleet.write(host(slots=3))
    assert "mac on alpha: installed" in fleet.turbo("install")
    assert mac.jobs == {}, "installed is not started"
    assert "mac is not installed" not in fleet.turbo("start")
    job = mac.jobs[LABEL]
    assert job.process is not None
    fleet.bench.insert("t")
    row = fleet.bench.wait("t")
    assert row["output_data"]["output"] == {"done": "t"}
    assert environment_of(job.process.pid) == job.plist["EnvironmentVariables"]
    assert set(job.plist["EnvironmentVariables"]) == {"PATH", "HOME", "LANG"}
    assert Path(f"/proc/{job.process.pid}/cwd").readlink() == fleet.home
    assert fleet.bench.dsn not in (fleet.home / f"Library/LaunchAgents/{LABEL}.plist").read_text()
    assert "manager, agent_workers and /metrics agree" in fleet.turbo("status")
    assert fleet.bench.sql("select name, slots from agent_workers") == [("mac", 3)]
    log = fleet.home / "logs" / "mac.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert "listening on channel" in log.read_text()
    assert "mac on alpha: stopped" in fleet.turbo("stop")
    assert job.ends == [0]
    assert not job.killed


def test_every_command_can_be_repeated(fleet: FleetBench, mac: Launchd) -> None:
    fleet.write(host())
    fleet.turbo("install")
    written = (fleet.home / f"Library/LaunchAgents/{LABEL}.plist").stat().st_mtime_ns
    assert "mac on alpha: already installed" in fleet.turbo("install")
    assert (fleet.home / f"Library/LaunchAgents/{LABEL}.plist").stat().st_mtime_ns == written
    fleet.turbo("start")
    calls = len(mac.calls)
    assert "mac on alpha: already running" in fleet.turbo("start")
    assert [words[0] for words, _ in mac.calls[calls:]] == ["print"]
    assert len(mac.history[LABEL]) == 1
    fleet.turbo("stop")
    assert "mac on alpha: is down" in fleet.turbo("stop")
    fleet.turbo("uninstall")
    assert not list((fleet.home / "Library/LaunchAgents").iterdir())
    fleet.turbo("uninstall")
    assert "is not installed on alpha: turbo fleet install" in fleet.turbo("start", code=1)


def test_crashed_worker_restarts_and_its_task_runs_once_more(fleet: FleetBench, mac: Launchd) -> None:
    fleet.write(host(), restart_throttle_seconds=3)
    fleet.turbo("install")
    fleet.turbo("start")
    job = mac.jobs[LABEL]
    before = until(fleet.ids)
    fleet.bench.insert("t", {"seconds": 2})
    until(lambda: fleet.bench.runs()["t"])
    assert job.process is not None
    job.process.kill()
    until(lambda: job.ends == [-signal.SIGKILL])
    until(lambda: len(job.starts) == 2)
    assert 3 <= spawned(job)[0] < 5
    fleet.bench.wait("t")
    assert fleet.bench.runs()["t"] == 2
    assert fleet.ids()["mac"] != before["mac"]
    assert "agree" in fleet.turbo("status")


def test_term_drains_exits_0_and_stays_down(fleet: FleetBench, mac: Launchd) -> None:
    fleet.write(host())
    fleet.turbo("install")
    fleet.turbo("start")
    job = mac.jobs[LABEL]
    fleet.bench.insert("t", {"seconds": 1})
    until(lambda: fleet.bench.runs()["t"])
    assert job.process is not None
    job.process.send_signal(signal.SIGTERM)
    until(lambda: job.ends)
    assert job.ends == [0]
    assert fleet.bench.row("t")["status"] == "completed"
    assert not job.wake.wait(1.5), "longer than the throttle"
    assert len(job.starts) == 1
    assert "mac on alpha is down" in fleet.turbo("status", code=1)
    fleet.turbo("start")  # loaded and down: the plist is read again
    assert len(mac.history[LABEL]) == 2


def test_drain_past_its_end_releases_the_task_before_the_kill(fleet: FleetBench, mac: Launchd) -> None:
    fleet.write(host(), worker={"drain_seconds": 1})
    fleet.turbo("install")
    fleet.turbo("start")
    job = mac.jobs[LABEL]
    assert job.plist["ExitTimeOut"] == 16
    fleet.bench.insert("t", {"seconds": 600})
    until(lambda: fleet.bench.runs()["t"])
    agent = fleet.bench.entries()[0]["pid"]
    fleet.turbo("stop")
    assert (job.ends, job.killed) == ([0], False)
    assert gone(agent)
    row = fleet.bench.row("t")
    assert (row["status"], row["retry_count"]) == ("pending", 0)


def test_restart_waits_for_bootout_and_retries_bootstrap(fleet: FleetBench, mac: Launchd) -> None:
    fleet.write(host())
    fleet.turbo("install")
    fleet.turbo("start")
    old = until(fleet.ids)
    fleet.bench.insert("t", {"seconds": 1})
    until(lambda: fleet.bench.runs()["t"])
    mac.calls.clear()
    said = fleet.turbo("restart")
    assert "mac on alpha: draining, " in said
    assert f"up as {fleet.ids()['mac']}" in said
    assert fleet.ids()["mac"] != old["mac"]
    verbs = mac.verbs(LABEL)
    bootout = verbs.index(("bootout", 36))
    free = verbs.index(("print", 113), bootout)
    tried = [i for i, verb in enumerate(verbs) if verb[0] == "bootstrap"]
    assert ("print", 0) in verbs[bootout:free], "it was polled while it drained"
    assert all(i > free for i in tried), "not before the label was gone"
    assert [verbs[i][1] for i in tried][-1] == 0
    assert 5 in [verbs[i][1] for i in tried], "the trap was there"
    assert fleet.bench.runs() == {"t": 1}


def roll(fleet: FleetBench) -> tuple[list[str], int]:
    """A rolling restart of all workers under load: the tasks, and the fewest workers that were up meanwhile."""
    least = 99
    with load(fleet) as ids:
        until(lambda: len(ids) > 20)
        restart = fleet.start("restart")
        while restart.runs:
            least = min(least, len(fleet.ids()))
            time.sleep(0.02)
        code, said = restart.ended()
    assert code == 0, said
    return ids, least


@pytest.mark.sized
def test_rolling_restart_under_load_loses_and_repeats_nothing(fleet: FleetBench, mac: Launchd) -> None:
    fleet.write(host(INSTANCES))
    fleet.turbo("install")
    fleet.turbo("start")
    old = until(lambda: len(fleet.ids()) == INSTANCES and fleet.ids())
    ids, least = roll(fleet)
    new = fleet.ids()
    assert set(old) == set(new) == {f"mac-{n + 1}" for n in range(INSTANCES)}
    assert not set(old.values()) & set(new.values())
    assert least == INSTANCES - 1, "one at a time"
    for task in ids:
        fleet.bench.wait(task)
    assert fleet.bench.runs() == dict.fromkeys(ids, 1)
    assert all(job.ends == [0] for jobs in mac.history.values() for job in jobs if not job.running)


@pytest.mark.sized
def test_without_the_drain_tasks_run_twice(fleet: FleetBench, mac: Launchd) -> None:
    """The control: `kickstart -k` and `pkill` do this."""
    fleet.write(host(INSTANCES))
    fleet.turbo("install")
    fleet.turbo("start")
    until(lambda: len(fleet.ids()) == INSTANCES)
    with load(fleet) as ids:
        until(lambda: len(ids) > 20)
        for job in list(mac.jobs.values()):
            assert job.process is not None
            job.process.kill()
        until(lambda: all(len(job.starts) == 2 for job in mac.jobs.values()))
    for task in ids:
        fleet.bench.wait(task)
    assert max(fleet.bench.runs().values()) == 2


@pytest.mark.parametrize("late", [False, True], ids=["at once", "once it had seemed steady"])
def test_rolling_restart_stops_at_the_first_failed_worker(fleet: FleetBench, mac: Launchd, late: bool) -> None:
    program, slow = fleet.home / "turbo", fleet.home / "slow"
    fleet.write(host(3), executable=str(program))
    program.write_text(
        f'#!/bin/sh\n[ "$1" = worker ] && [ -e {slow} ] && sleep {STEADY_SECONDS + 1}\nexec {TURBO} "$@"\n'
    )
    program.chmod(0o755)
    fleet.turbo("install")
    fleet.turbo("start")
    old = until(lambda: len(fleet.ids()) == 3 and fleet.ids())
    fleet.config.write_text(fleet.config.read_text() + "wroker: {}\n")
    if late:
        slow.touch()
    said = fleet.turbo("restart", code=1)
    assert "mac-1 on alpha does not stay up (exit 2)" in said
    assert "0 of 3 restarted; not touched: mac-2, mac-3" in said
    assert "mac-1.stderr.log" in said
    assert "unknown key; did you mean 'worker'?" in (fleet.home / "logs" / "mac-1.stderr.log").read_text()
    assert {name: fleet.ids().get(name) for name in ("mac-2", "mac-3")} == {n: old[n] for n in ("mac-2", "mac-3")}
    assert "cannot start" in fleet.turbo("install", code=1)


def test_rolling_restart_stops_when_a_worker_does_not_register(fleet: FleetBench, mac: Launchd) -> None:
    fleet.write(host(2))
    fleet.turbo("install")
    fleet.turbo("start")
    until(lambda: len(fleet.ids()) == 2)
    version = fleet.bench.sql("select max(version) from turbo_migrations")[0][0]
    fleet.bench.sql(
        "insert into turbo_migrations (version, name, checksum, turbo_version) select v, 'n', 'c', '9'"
        " from generate_series(%s::int, %s::int) v",
        version + 1,
        version + 2,
    )
    said = fleet.turbo("restart", "--up-within", "2", code=1)
    assert "mac-1 on alpha runs, and is not up in agent_workers within 2 s" in said
    assert "not touched: mac-2" in said
    assert "mac-1 on alpha runs, but agent_workers does not have it" in fleet.turbo("status", code=1)


def test_status_names_what_differs(fleet: FleetBench, mac: Launchd) -> None:
    fleet.write(host(2, slots=2))
    fleet.turbo("install")
    fleet.turbo("start")
    until(lambda: len(fleet.ids()) == 2)
    text = (
        fleet.file.read_text()
        .replace("count: 2", "count: 1")
        .replace("slots: 2", "slots: 5")
        .replace("name: mac", "name: mac-1")
    )
    fleet.file.write_text(text)
    said = fleet.turbo("status", code=1)
    assert "com.agent-turbo.mac-2 is installed and running on alpha, but not in the fleet file" in said
    assert "mac-1 on alpha was installed from another fleet file, or edited" in said
    assert "mac-1 on alpha runs with 2 slots, the fleet file has 5" in said
    assert "also in agent_workers: mac-2-" in said
    assert "com.agent-turbo.mac-2 installed but no longer in the fleet file" in fleet.turbo("install")
    assert "com.agent-turbo.mac-2 on alpha: removed" in fleet.turbo("install", "--prune")
    fleet.turbo("restart")
    assert "agree" in fleet.turbo("status")
    assert list(mac.jobs) == ["com.agent-turbo.mac-1"]
    plist = plistlib.loads((fleet.home / "Library/LaunchAgents/com.agent-turbo.mac-1.plist").read_bytes())
    assert "5" in plist["ProgramArguments"]


def test_status_without_a_database_asks_the_other_hosts(fleet: FleetBench, mac: Launchd) -> None:
    fleet.write(host())
    fleet.turbo("install")
    fleet.turbo("start")
    until(fleet.ids)
    fleet.environment["TURBO_DSN"] = "postgresql://nobody@127.0.0.1:1/none"
    said = fleet.turbo("status", code=1)
    assert "agent_workers cannot be read: " in said
    assert "mac" in said.splitlines()[-1]
    assert "running" in said.splitlines()[-1]
    assert "cannot reach the database" in fleet.turbo("restart", code=1)
    assert len(mac.history[LABEL]) == 1


def test_dry_run_prints_commands_and_runs_none(fleet: FleetBench, mac: Launchd) -> None:
    fleet.write(host(2))
    for verb in ("install", "start", "restart", "stop", "status", "uninstall"):
        said = fleet.turbo(verb, "--dry-run")
        assert "com.agent-turbo.mac-2" in said, verb
    assert 'launchctl bootout "gui/$(id -u)/com.agent-turbo.mac-1"' in fleet.turbo("restart", "--dry-run")
    assert "launchctl bootstrap" in fleet.turbo("start", "--dry-run")
    assert mac.calls == []
    assert not (fleet.home / "Library").exists()
