"""From one YAML file, over a real ssh, to workers under a real systemd user manager on another machine
(tests/support/systemd.py)."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.fleet import FleetBench, free_ports, load
from tests.support.requirements import require
from tests.support.systemd import Machine, machine
from tests.support.waiting import until
from tests.support.workers import Bench

ODD = 'ho me\'s $x 100%h "q"'
"""A directory whose name has all that sh, ssh and systemd take for something else."""
UNIT = "com.agent-turbo.gamma"
PAGE = "com.agent-turbo.web"


@pytest.fixture
def gamma(bench: Bench) -> Iterator[Machine]:
    require("curl")
    with machine(bench.path / "machine", bench.path / ODD) as one:
        yield one


@pytest.fixture
def fleet(bench: Bench, gamma: Machine) -> FleetBench:
    return FleetBench(bench, gamma.home, (gamma.ssh_bin,))


def host(count: int = 1, **worker: object) -> dict[str, dict[str, object]]:
    entry = {"name": "gamma", "count": count, "metrics_port": free_ports(count)} | worker
    return {"gamma": {"manager": "systemd", "ssh": "root@there", "address": "127.0.0.1", "workers": [entry]}}


def main_pid(gamma: Machine, unit: str = UNIT) -> int:
    return int(gamma.run(f"systemctl --user show --value -p MainPID {unit}").stdout)


def test_one_yaml_file_starts_workers_on_another_machine(fleet: FleetBench, gamma: Machine) -> None:
    fleet.write(host(slots=3))
    assert "gamma on gamma: installed" in fleet.turbo("install")
    assert gamma.run(f"systemctl --user is-enabled {UNIT}").stdout.strip() == "enabled"
    assert main_pid(gamma) == 0, "installed is not started"
    assert "gamma on gamma: started (pid " in fleet.turbo("start")
    fleet.bench.insert("t")
    assert fleet.bench.wait("t")["output_data"]["output"] == {"done": "t"}
    raw = gamma.run(f"cat /proc/{main_pid(gamma)}/environ").stdout
    environment = dict(pair.split("=", 1) for pair in raw.split("\0") if pair)
    assert {k: environment[k] for k in ("PATH", "HOME", "LANG")} == {
        "PATH": "/usr/bin:/bin",
        "HOME": str(fleet.home),
        "LANG": "C.UTF-8",
    }
    assert "TURBO_DSN" not in environment
    assert gamma.run(f"readlink /proc/{main_pid(gamma)}/cwd").stdout.strip() == str(fleet.home)
    said = fleet.turbo("status")
    assert "manager, agent_workers and /metrics agree" in said
    assert fleet.ids()["gamma"] in said
    assert "gamma on gamma: already installed" in fleet.turbo("install")
    assert "gamma on gamma: already running" in fleet.turbo("start")
    assert "gamma on gamma: stopped" in fleet.turbo("stop")
    assert fleet.bench.sql("select count(*) from agent_workers") == [(0,)]
    assert "gamma on gamma is down" in fleet.turbo("status", code=1)
    fleet.turbo("uninstall")
    assert gamma.run(f"systemctl --user is-enabled {UNIT}", check=False).returncode != 0
    assert "is not installed" in fleet.turbo("status", code=1)


def test_page_is_a_service_of_its_host(fleet: FleetBench, gamma: Machine) -> None:
    metrics = free_ports(2)
    port = metrics + 1
    hosts = host(metrics_port=metrics)
    hosts["gamma"]["web"] = {"port": port}
    fleet.write(hosts)
    assert "web on gamma: installed" in fleet.turbo("install")
    fleet.turbo("start")
    asked = f"curl -fs --retry 50 --retry-connrefused --retry-delay 1 http://127.0.0.1:{port}/healthz"
    assert gamma.run(asked).stdout
    assert "web on gamma: already running" in fleet.turbo("start")
    until(fleet.ids, what=fleet.logs)
    assert "manager, agent_workers and /metrics agree" in fleet.turbo("status")
    old = main_pid(gamma, PAGE)
    assert "web on gamma: started (pid " in fleet.turbo("restart")
    killed = main_pid(gamma, PAGE)
    assert killed not in (0, old)
    gamma.run(f"kill -KILL {killed}")
    until(lambda: main_pid(gamma, PAGE) not in (0, killed))
    assert gamma.run(asked).stdout
    assert "web on gamma: stopped" in fleet.turbo("stop")
    assert gamma.run(f"systemctl --user show --value -p Result {PAGE}").stdout.strip() == "success"
    assert "web on gamma is down" in fleet.turbo("status", code=1)


def test_crashed_worker_restarts_and_a_drained_one_does_not(fleet: FleetBench, gamma: Machine) -> None:
    fleet.write(host(), restart_throttle_seconds=2)
    fleet.turbo("install")
    fleet.turbo("start")
    old = until(fleet.ids)
    gamma.run(f"kill -KILL {main_pid(gamma)}")
    until(lambda: fleet.ids().get("gamma") not in (None, old["gamma"]))
    assert gamma.run(f"systemctl --user show --value -p NRestarts {UNIT}").stdout.strip() == "1"
    gamma.run(f"kill -TERM {main_pid(gamma)}")
    until(lambda: gamma.run(f"systemctl --user is-active {UNIT}", check=False).stdout.strip() == "inactive")
    assert gamma.run(f"systemctl --user show --value -p Result {UNIT}").stdout.strip() == "success"
    assert "gamma on gamma is down" in fleet.turbo("status", code=1)


@pytest.mark.parametrize("guarded", [True, False])
def test_stop_signals_only_the_worker_so_agents_finish(fleet: FleetBench, gamma: Machine, guarded: bool) -> None:
    fleet.write(host())
    fleet.turbo("install")
    if not guarded:  # the control: systemd's default
        drop_in = fleet.home / ".config/systemd/user" / f"{UNIT}.service.d" / "mode.conf"
        drop_in.parent.mkdir()
        drop_in.write_text("[Service]\nKillMode=control-group\n")
        gamma.run("systemctl --user daemon-reload")
    fleet.turbo("start")
    until(fleet.ids)
    fleet.bench.insert("t", {"seconds": 2, "children": 2}, max_retries=0)
    until(lambda: fleet.bench.runs()["t"])
    gamma.run(f"systemctl --user stop {UNIT}")
    assert fleet.bench.row("t")["status"] == ("completed" if guarded else "failed")
    left = [p for p in psutil.Process(gamma.pid).children(recursive=True) if p.name() == "sleep"]
    assert not left, "nothing survives its worker"


def test_rolling_restart_over_ssh_loses_and_repeats_nothing(fleet: FleetBench, gamma: Machine) -> None:
    fleet.write(host(2))
    fleet.turbo("install")
    fleet.turbo("start")
    old = until(lambda: len(fleet.ids()) == 2 and fleet.ids())
    with load(fleet) as ids:
        until(lambda: len(ids) > 20)
        fleet.turbo("restart")
    assert not set(old.values()) & set(fleet.ids().values())
    for task in ids:
        fleet.bench.wait(task)
    assert fleet.bench.runs() == dict.fromkeys(ids, 1)


def test_remote_problem_is_one_clear_line(fleet: FleetBench, gamma: Machine) -> None:
    gamma.run("echo TURBO_DSN= >/run/turbo.env")  # its /run is not ours
    fleet.write(host(), env_file="/run/turbo.env")
    said = fleet.turbo("install", code=1)
    assert "gamma: gamma cannot start: " in said
    assert "mode 0644 lets other users read its secrets: run chmod 600" in said
    gamma.run("chmod 600 /run/turbo.env")
    fleet.file.write_text(fleet.file.read_text().replace("/bin/turbo", "/bin/trubo"))
    assert "no program " in fleet.turbo("install", code=1)
    assert not (fleet.home / ".config").exists()
    gamma.stop_sshd()
    said = fleet.turbo("stop", code=1)
    assert "gamma cannot be reached: ssh: connect to host 127.0.0.1 port " in said
    assert len(said.splitlines()) == 1


def test_rendered_units_pass_systemd_verify(bench: Bench, tmp_path: Path) -> None:
    analyze = require("systemd-analyze")
    fleet = FleetBench(bench, tmp_path / ODD)
    fleet.write(host(2, queues=["heavy", "default"]), path=["/usr/bin", "/opt/a b/%h"])
    fleet.turbo("render", "--out", str(tmp_path / "out"))
    units = sorted((tmp_path / "out" / "gamma").iterdir())
    assert [unit.name for unit in units] == [f"{UNIT}-{i}.service" for i in (1, 2)]
    verify = [analyze, "--user", "verify"]
    environment = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([*verify, *units], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done
    broken = tmp_path / "broken.service"
    shutil.copy(units[0], broken)
    broken.write_text(broken.read_text().replace("Restart=on-failure", "Restrat=on-failure"))
    assert "Restrat" in subprocess.run([*verify, broken], env=environment, capture_output=True, text=True).stderr
