"""What a fleet file renders to: plists, units and targets, and what launchctl and systemctl answer, read."""

import json
import plistlib
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.support.requirements import require
from turbo.cli.fleet import app
from turbo.fleet.instance import Host, Instance, WorkerInstance
from turbo.fleet.launchctl import _job as launchd_job
from turbo.fleet.launchd import plist
from turbo.fleet.launchd_keys import duplicate_keys, wrong_keys
from turbo.fleet.manager import JobState
from turbo.fleet.model import load_fleet
from turbo.fleet.shell import Done, DryShell, FleetError, HostShell, command
from turbo.fleet.systemctl import Systemctl
from turbo.fleet.systemctl import _job as systemd_job
from turbo.fleet.systemd import unit

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config" / "fleet.yaml"
PLISTS = sorted((ROOT / "launchd").glob("*/*.plist"))
DESIGN = """
defaults: {config: /Users/me/turbo/worker.yaml, executable: /Users/me/turbo/.venv/bin/turbo, label: com.agent-turbo,
           log_dir: /Users/me/Library/Logs/turbo, home: /Users/me, env_file: null, drain_seconds: null,
           path: [/opt/homebrew/bin, /usr/local/bin, /usr/bin, /bin], restart_throttle_seconds: 10}
hosts:
  alpha: {manager: launchd, ssh: null, workers: [{name: alpha, slots: 10, metrics_port: 9464}]}
  beta:  {manager: launchd, ssh: me@beta, workers: [{name: beta, count: 10, slots: 1, metrics_port: 9464}]}
  gamma: {manager: systemd, workers: [{name: gamma, slots: 4, metrics_port: 9464, queues: [heavy]}]}
"""


def instance(**change: object) -> Instance:
    known: dict[str, object] = {
        "host": "a",
        "manager": "launchd",
        "name": "w",
        "service": "com.agent-turbo.w",
        "executable": "/b/turbo",
        "config": "/c/worker.yaml",
        "home": "/h",
        "path": ("/usr/bin", "/bin"),
        "log_dir": "/l",
        "metrics_port": 9464,
        "slots": None,
        "queues": (),
        "env_file": None,
        "drain_seconds": 30.5,
        "throttle_seconds": 10,
    }
    return WorkerInstance(**(known | change))  # type: ignore[arg-type]


def test_launchd_folder_holds_the_rendered_example(tmp_path: Path) -> None:
    """`turbo fleet render --file config/fleet.yaml --out launchd` after a change."""
    result = CliRunner().invoke(app, ["render", "--file", str(EXAMPLE), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    made = {p.relative_to(tmp_path): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    kept = {p.relative_to(ROOT / "launchd"): p.read_text() for p in (ROOT / "launchd").rglob("*") if p.is_file()}
    del kept[Path("README.md")]
    assert made == kept


def test_rendered_files_are_where_promised(tmp_path: Path) -> None:
    file, out = tmp_path / "fleet.yaml", tmp_path / "out"
    file.write_text(DESIGN)
    for _ in range(2):
        assert CliRunner().invoke(app, ["render", "--file", str(file), "--out", str(out)]).exit_code == 0
    names = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    beta = {f"beta/com.agent-turbo.beta-{i}.plist" for i in range(1, 11)}
    assert names == beta | {"alpha/com.agent-turbo.alpha.plist", "gamma/com.agent-turbo.gamma.service", "targets.json"}
    targets = json.loads((out / "targets.json").read_text())
    assert len(targets) == 12
    assert {"targets": ["beta:9473"], "labels": {"host": "beta", "worker": "beta-10"}} in targets
    job = plistlib.loads((out / "alpha/com.agent-turbo.alpha.plist").read_bytes())
    assert job["ExitTimeOut"] == 45
    assert job["EnvironmentVariables"] == {
        "PATH": "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/Users/me",
        "LANG": "en_US.UTF-8",
    }
    assert "TimeoutStopSec=45\n" in (out / "gamma/com.agent-turbo.gamma.service").read_text()
    file.write_text(DESIGN.replace("count: 10", "count: 9"))
    said = CliRunner().invoke(app, ["render", "--file", str(file), "--out", str(out)]).output
    assert "beta/com.agent-turbo.beta-10.plist is no longer in" in said


@pytest.mark.parametrize("manager", ["launchd", "systemd"])
def test_page_is_rendered_beside_its_workers(tmp_path: Path, manager: str) -> None:
    page = "web: {port: 9480, read_only: true, env_file: ~/web.env}"
    file, out = tmp_path / "fleet.yaml", tmp_path / "out"
    file.write_text(DESIGN.replace("gamma: {manager: systemd,", f"gamma: {{manager: {manager}, {page},"))
    assert CliRunner().invoke(app, ["render", "--file", str(file), "--out", str(out)]).exit_code == 0
    page_file = next((out / "gamma").glob("com.agent-turbo.web.*"))
    if manager == "launchd":
        job = plistlib.loads(page_file.read_bytes())
        words, stop = " ".join(job["ProgramArguments"]), job["ExitTimeOut"]
    else:
        words = page_file.read_text()
        stop = 15 if "TimeoutStopSec=15\n" in words else None
    assert "turbo web --config /Users/me/turbo/worker.yaml --no-link --port 9480 --read-only" in words
    assert "--env-file /Users/me/web.env" in words
    assert stop == 15
    assert len(json.loads((out / "targets.json").read_text())) == 12, "a page has no metrics"


@pytest.mark.parametrize(
    ("hosts", "address"),
    [
        ({"a": {}}, "127.0.0.1:9464"),
        ({"a": {}, "b": {}}, "a:9464"),
        ({"a": {"ssh": "ssh://me@there:2222"}}, "there:9464"),
        ({"a": {"ssh": "me@[::1]"}}, "[::1]:9464"),
        ({"a": {"ssh": "me@there", "address": "10.0.0.7"}}, "10.0.0.7:9464"),
    ],
)
def test_prometheus_targets_carry_the_host(tmp_path: Path, hosts: dict[str, dict[str, str]], address: str) -> None:
    least = {"manager": "launchd", "workers": [{"name": "w"}]}
    file = tmp_path / "fleet.yaml"
    tree = {
        "defaults": {"config": "/c", "executable": "/b", "home": "/h"},
        "hosts": {name: least | host for name, host in hosts.items()},
    }
    file.write_text(yaml.safe_dump(tree))
    result = CliRunner().invoke(app, ["render", "--file", str(file), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "targets.json").read_text())[0]["targets"] == [address]


@pytest.mark.parametrize("file", PLISTS, ids=lambda file: file.name)
def test_plist_has_only_launchd_keys_and_each_once(file: Path) -> None:
    text = file.read_text()
    job = plistlib.loads(text.encode())
    assert duplicate_keys(text) == []
    assert list(wrong_keys(job)) == []
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert "ProcessType" not in job
    assert set(job["EnvironmentVariables"]) == {"PATH", "HOME", "LANG"}
    paths = [job["WorkingDirectory"], job["StandardErrorPath"], job["ProgramArguments"][0]]
    assert all(path.startswith("/") for path in [*paths, *job["EnvironmentVariables"]["PATH"].split(":")])
    plutil = require("plistutil")
    done = subprocess.run([plutil, "-i", file, "-f", "xml"], capture_output=True)
    assert plistlib.loads(done.stdout) == job


def test_settings_that_launchd_ignores_are_found() -> None:
    job = plistlib.loads(plist(instance()).encode())
    job |= {"KeepAllive": True, "ThrottleInterval": "10", "RunAtLoad": 1, "ProgramArguments": ["/x", 1]}
    job["KeepAlive"] = {"SucessfulExit": False}
    job["SoftResourceLimits"] = {"NumberOfFiles": True}
    assert list(wrong_keys(job)) == [
        "ProgramArguments.1 is not of type str",
        "RunAtLoad is not of type bool",
        "KeepAlive.SucessfulExit is not a key of launchd",
        "ThrottleInterval is not of type int",
        "SoftResourceLimits.NumberOfFiles is not of type int",
        "KeepAllive is not a key of launchd",
    ]
    assert list(wrong_keys({"KeepAlive": True})) == []
    twice = plist(instance()).replace("<key>HOME</key>", "<key>PATH</key>")
    assert plistlib.loads(twice.encode())["EnvironmentVariables"]["PATH"] == "/h", "plistlib says nothing"
    assert duplicate_keys(twice) == ["PATH"]


def test_odd_words_arrive_unchanged() -> None:
    odd = 'a b\'s "c" $HOME %h 100% \\x & <y> ;'
    one = instance(home=f"/{odd}", config=f"/{odd}/w.yaml", manager="systemd")
    assert plistlib.loads(plist(one).encode())["WorkingDirectory"] == f"/{odd}"
    text = unit(one)
    assert f"WorkingDirectory=/{odd.replace('%', '%%')}\n" in text
    escaped = odd.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    assert f'Environment="HOME=/{escaped}"\n' in text
    assert f'--config "/{escaped.replace("$", "$$")}/w.yaml" --name' in text


def test_line_reaches_the_host_as_one_word_in_any_shell() -> None:
    host = Host("b", "launchd", "me@b", "b", (instance(),), "l")
    line = "printf '%s|' \"$0\" 'it''s' \\$x"
    argv = command(host, line)
    assert argv[:2] == ["ssh", "-T"]
    assert argv[-3:-1] == ["--", "me@b"]
    assert "BatchMode=yes" in argv
    assert any(word.startswith("ConnectTimeout=") for word in argv)
    here = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=True).stdout
    for shell in filter(None, map(shutil.which, ("sh", "bash", "zsh", "dash"))):
        there = subprocess.run([shell, "-c", argv[-1]], capture_output=True, text=True, check=True).stdout
        assert there == here == "/bin/sh|its|$x|"


def test_dry_shell_prints_pasteable_commands() -> None:
    said: list[str] = []
    shell = DryShell(Host("b", "launchd", None, "b", (instance(),), "l"), said.append)
    assert shell.run("launchctl print x", assume=Done(3)).code == 3
    assert said == ["launchctl print x"]


def test_silent_host_is_one_clear_line() -> None:
    shell = HostShell(Host("b", "launchd", None, "b", (instance(),), "l"), seconds=0.2)
    with pytest.raises(FleetError, match=r"b did not answer within 0 s to: sleep 5"):
        shell.run("sleep 5")


@pytest.mark.parametrize(
    ("said", "state", "pid", "why"),
    [
        ("Could not find service\n\nended 113\n", JobState.DOWN, None, ""),
        (
            "x = {\n\tstate = running\n\tpid = 47\n\tlast exit code = (never exited)\n}\n\nended 0\n",
            JobState.RUNNING,
            47,
            "",
        ),
        ("x = {\n\tstate = not running\n\tlast exit code = 0\n}\n\nended 0\n", JobState.DOWN, None, ""),
        ("x = {\n\tstate = spawn scheduled\n\tlast exit code = 2\n}\n\nended 0\n", JobState.WAITING, None, "exit 2"),
        (
            "x = {\n\tstate = waiting\n\tlast terminating signal = Killed: 9\n}\n\nended 0\n",
            JobState.WAITING,
            None,
            "Killed: 9",
        ),
    ],
)
def test_launchctl_print_is_parsed(said: str, state: JobState, pid: int | None, why: str) -> None:
    job = launchd_job(said)
    assert (job.state, job.pid, job.why) == (state, pid, why)
    assert job.loaded == said.endswith("ended 0\n")


@pytest.mark.parametrize(
    ("said", "state", "why"),
    [
        ({"ActiveState": "active", "MainPID": "7", "Result": "success"}, JobState.RUNNING, ""),
        ({"ActiveState": "activating", "SubState": "auto-restart", "MainPID": "0", "Result": "exit-code", "ExecMainStatus": "2"},
         JobState.WAITING, "exit 2"),
        ({"ActiveState": "deactivating", "MainPID": "7", "Result": "success"}, JobState.STOPPING, ""),
        ({"ActiveState": "failed", "MainPID": "0", "Result": "timeout"}, JobState.DOWN, "timeout"),
        ({"ActiveState": "inactive", "MainPID": "0", "Result": "success"}, JobState.DOWN, ""),
    ],
)  # fmt: skip
def test_systemctl_show_is_parsed(said: dict[str, str], state: JobState, why: str) -> None:
    assert (systemd_job(said).state, systemd_job(said).why) == (state, why)


class Answers:
    """A shell that answers from a list, for what no machine here says."""

    dry = False

    def __init__(self, *answers: Done) -> None:
        self.host = load_fleet(EXAMPLE).hosts[2]
        self._answers = list(answers)

    def run(self, line: str, *, stdin: str | None = None, assume: Done = Done()) -> Done:  # noqa: B008
        return self._answers.pop(0)


def test_disabled_linger_and_a_missing_manager_are_reported() -> None:
    assert "loginctl enable-linger" in Systemctl(Answers(Done(0, "Linger=no\n"))).notes()[0]
    assert Systemctl(Answers(Done(0, "Linger=yes\n"))).notes() == []
    bus = Done(1, "", "Failed to connect to bus: No medium found\n")
    with pytest.raises(
        FleetError, match="no systemd manager runs for this user; run once there: loginctl enable-linger"
    ):
        Systemctl(Answers(bus)).state("com.agent-turbo.gamma")
    with pytest.raises(FleetError, match="no systemctl there; if it is another machine, set `ssh`"):
        Systemctl(Answers(Done(127))).state("com.agent-turbo.gamma")
