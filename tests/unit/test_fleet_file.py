"""fleet.yaml: what is read, what is filled in, and how a mistake is told."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from turbo.cli.config import app
from turbo.config.worker import ConfigError
from turbo.fleet.model import Fleet, load_fleet
from turbo.fleet.operate import chosen, reachable

EXAMPLE = Path(__file__).parents[2] / "config" / "fleet.yaml"
LEAST: dict[str, Any] = {
    "defaults": {"config": "/c/worker.yaml", "executable": "/b/turbo", "home": "/h"},
    "hosts": {"a": {"manager": "launchd", "workers": [{"name": "w"}]}},
}


def load(tmp_path: Path, change: dict[str, Any] | None = None, **defaults: object) -> Fleet:
    """LEAST with another `hosts.a` and other defaults."""
    tree = {
        "defaults": LEAST["defaults"] | defaults,
        "hosts": {"a": LEAST["hosts"]["a"] | (change or {})},
    }
    return load_text(tmp_path, yaml.safe_dump(tree))


def load_text(tmp_path: Path, text: str) -> Fleet:
    file = tmp_path / "fleet.yaml"
    file.write_text(text)
    return load_fleet(file)


def test_example_is_valid() -> None:
    fleet = load_fleet(EXAMPLE)
    assert [host.name for host in fleet.hosts] == ["alpha", "beta", "gamma"]
    assert all(host.notes == () for host in fleet.hosts)


def test_nearest_setting_wins(tmp_path: Path) -> None:
    worker = {"name": "w", "env_file": "~/w.env", "drain_seconds": 3}
    one = load(
        tmp_path, {"home": "/Users/me", "drain_seconds": 5, "workers": [worker]}, drain_seconds=7, env_file="/d.env"
    )
    instance = one.hosts[0].workers[0]
    assert (instance.home, instance.env_file, instance.drain_seconds) == ("/Users/me", "/Users/me/w.env", 3)
    assert instance.stop_seconds == 18
    assert instance.log_file == "/Users/me/Library/Logs/turbo/w.log"


def test_count_makes_names_and_ports(tmp_path: Path) -> None:
    worker = {"name": "b", "count": 10, "slots": 1, "metrics_port": 9464, "queues": ["x", "y"]}
    instances = load(tmp_path, {"workers": [worker]}).hosts[0].workers
    assert [i.name for i in instances] == [f"b-{n}" for n in range(1, 11)]
    assert [i.metrics_port for i in instances] == list(range(9464, 9474))
    assert instances[1].service == "com.agent-turbo.b-2"
    assert instances[1].arguments == (
        *("/b/turbo", "worker", "--config", "/c/worker.yaml", "--name", "b-2", "--slots", "1", "--queue", "x"),
        *("--queue", "y", "--metrics-port", "9465", "--log-file", "/h/Library/Logs/turbo/b-2.log"),
    )


@pytest.mark.parametrize(
    ("worker_yaml", "said", "drain", "noted"),
    [
        (None, None, 30, True),
        ("worker: {drain_seconds: 1800}", None, 1800, False),
        ("worker: {name: x}", None, 30, False),
        ("worker: {drain_seconds: '${DRAIN:-1800}'}", None, 30, True),
        ("worker: {drain_seconds: 20}", 40, 40, False),
        (None, 40, 40, False),
    ],
)
def test_drain_seconds_come_from_the_file_or_the_worker(
    tmp_path: Path, worker_yaml: str | None, said: float | None, drain: float, noted: bool
) -> None:
    config = tmp_path / "worker.yaml"
    if worker_yaml is not None:
        config.write_text(worker_yaml)
    host = load(tmp_path, config=str(config), drain_seconds=said).hosts[0]
    assert host.workers[0].drain_seconds == drain
    assert any("30 s is assumed" in note for note in host.notes) == noted


@pytest.mark.parametrize(
    ("change", "defaults", "says"),
    [
        ({"worker": []}, {}, "hosts.a.worker: unknown key; did you mean 'workers'?"),
        ({"workers": [{"name": "w", "slot": 1}]}, {}, "hosts.a.workers.0.slot: unknown key; did you mean 'slots'?"),
        ({}, {"excutable": "/x"}, "defaults.excutable: unknown key; did you mean 'executable'?"),
        ({"manager": "lanchd"}, {}, "hosts.a.manager: must be 'launchd' or 'systemd' (found 'lanchd')"),
        ({}, {"executable": "turbo"}, "defaults.executable: 'turbo' is not absolute"),
        ({}, {"executable": "./bin/turbo"}, "defaults.executable: './bin/turbo' is not absolute"),
        ({}, {"executable": None}, "hosts.a: executable is missing: write defaults.executable, or hosts.a.executable"),
        ({}, {"path": ["bin"]}, "defaults.path: 'bin' is not absolute"),
        ({}, {"path": ["/a:/b"]}, "defaults.path: '/a:/b' contains a colon: write one directory per item"),
        ({"home": "~/x"}, {}, "hosts.a.home: '~/x' is not absolute"),
        ({"ssh": "-oProxyCommand=x"}, {}, "hosts.a.ssh: write [user@]host"),
        ({"workers": [{"name": "-w"}]}, {}, "hosts.a.workers.0.name: '-w': letters, digits"),
        ({"workers": []}, {}, "hosts.a.workers: list should have at least 1 item"),
        (
            {"workers": [{"name": "w"}, {"name": "v"}]},
            {},
            "hosts.a.workers.1.metrics_port: 9464 is given to both w and v",
        ),
        (
            {"workers": [{"name": "w", "count": 3}, {"name": "v", "metrics_port": 9466}]},
            {},
            "hosts.a.workers.1.metrics_port: 9466 is given to both w-3 and v",
        ),
        (
            {"workers": [{"name": "w", "count": 2}, {"name": "W-2", "metrics_port": 1}]},
            {},
            "hosts.a.workers.1.name: 'W-2' is the name of two workers of a",
        ),
        (
            {"workers": [{"name": "w", "count": 10, "metrics_port": 65530}]},
            {},
            "10 workers from 65530 on exceed port 65535",
        ),
        ({"workers": [{"name": "w", "queues": ["No!"]}]}, {}, "workers.0.queues: 'No!' is not a queue name"),
        ({"web": {"name": "W"}}, {}, "hosts.a.web.name: 'W' is the name of a worker of a, too"),
        ({"web": {"port": 9464}}, {}, "hosts.a.web.port: 9464 is the metrics port of w; the page needs its own"),
        ({"web": {"drain_seconds": 3}}, {}, "hosts.a.web.drain_seconds: unknown key"),
        ({"web": {"name": "../w"}}, {}, "hosts.a.web.name: '../w': letters, digits"),
    ],
)
def test_mistake_is_one_line_with_its_place(
    tmp_path: Path, change: dict[str, Any], defaults: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, change, **defaults)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "defaults: {dsn: 'postgresql://me:geheim@h/d'}",
        "defaults: {env: {PGPASSWORD: geheim}}",
        "defaults: {env: {ANTHROPIC_API_KEY: geheim}}",
        "defaults: {config: 'postgresql://me:geheim@h/d'}",
        "defaults: {config: 'host=h password=geheim'}",
        "defaults: {drain_seconds: 'postgresql://h/d?password=geheim'}",
        "defaults: {executable: '/x/turbo --dsn postgresql://u:geheim@h/db'}",
        "defaults: {executable: '/x/turbo --dsn=host=h password=geheim'}",
        "defaults: {executable: '/x/turbo --dsn postgresql://h/db?user=u&%70assword=geheim'}",
        "defaults: {home: '/x host=h sslpassword=geheim'}",
        "defaults: {home: '/x host=h oauth_client_secret=geheim'}",
        "defaults: {env_file: 'PGPASSWORD=geheim'}",
        "defaults: {label: 'postgresql:u:geheim@beta'}",
        "defaults: {home: '${PATH:-postgresql://u:geheim@h/db}'}",
        "hosts: {a: {address: 'me:geheim@beta'}}",
        "hosts: {sk-ant-api03-geheimgeheimgeheim: {manager: systemd, workers: [{name: w}], home: '${TURBO_UNSET}'}}",
        "'postgresql://u:geheim@h/db': 1",
        "hosts: {a: {ssh: 'me:geheim@there'}}",
        "hosts: {a: {workers: [{name: sk-ant-oat01-geheimgeheimgeheim}]}}",
    ],
)
def test_secret_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_text(tmp_path, text)
    lines = str(error.value).splitlines()
    assert "geheim" not in str(error.value)
    if "ssh" in text:
        assert any("hosts.a.ssh: write [user@]host" in line for line in lines)
    else:
        assert sum("put it in the env_file" in line for line in lines) == 1


@pytest.mark.parametrize(
    "value", ["*geheim", "!geheim x", "!!python/object:geheim x", "!!int geheim", "&geheim 1\nb: &geheim 2"]
)
def test_secret_that_looks_like_yaml_is_not_repeated(tmp_path: Path, value: str) -> None:
    """A password that nobody quoted. worker.yaml is read by the same function."""
    with pytest.raises(ConfigError, match=r"fleet\.yaml") as error:
        load_text(tmp_path, f"password: {value}\n")
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["/opt/tokens", "/home/me@work", "${TURBO_X:-/h}", "/srv/${TURBO_X:-me}@x", "/h/passwords", "/a-sk-b"]
)
def test_ordinary_text_is_no_secret(tmp_path: Path, text: str) -> None:
    load(tmp_path, executable=f"{text}/turbo")


def test_password_from_the_environment_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "postgresql://me:geheim@h/d")
    with pytest.raises(ConfigError) as error:
        load(tmp_path, {"label": "${WHERE}"})
    assert "geheim" not in str(error.value)


def test_env_file_readable_by_others_is_refused(tmp_path: Path) -> None:
    env_file = tmp_path / "turbo.env"
    env_file.touch()
    env_file.chmod(0o640)
    with pytest.raises(ConfigError, match=r"defaults\.env_file: .*mode 0640 lets other users read .*: run chmod 600 /"):
        load(tmp_path, env_file=str(env_file))
    env_file.chmod(0o600)
    load(tmp_path, env_file=str(env_file))


def test_stop_time_shorter_than_the_drain_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "worker.yaml"
    config.write_text("worker: {drain_seconds: 1800}")
    with pytest.raises(
        ConfigError, match=r"w would be killed in mid-drain: 60 here, but .* has worker.drain_seconds 1800"
    ):
        load(tmp_path, config=str(config), drain_seconds=60)


def test_two_hosts_cannot_both_be_this_machine(tmp_path: Path) -> None:
    tree = yaml.safe_load(yaml.safe_dump(LEAST))
    tree["hosts"]["b"] = tree["hosts"]["a"]
    tree["hosts"]["c"] = tree["hosts"]["a"] | {"ssh": "me@c"}
    fleet = load_text(tmp_path, yaml.safe_dump(tree))
    with pytest.raises(LookupError, match="a and b have no `ssh`, but only one can be this machine"):
        reachable(chosen(fleet, []))
    reachable(chosen(fleet, ["b", "c"]))
    with pytest.raises(LookupError, match=r"no host 'd' in .*; known: a, b, c"):
        chosen(fleet, ["d"])


def test_config_check_recognises_the_kind_of_file(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert "valid: 4 workers on alpha, beta, gamma" in run(app, ["check", str(EXAMPLE)]).output
    assert "executors" in run(app, ["check", str(EXAMPLE.with_name("worker.yaml"))]).output
    for name, text in (("x.yaml", "hosts: {}\nexecuters: {}"), ("fleet.yaml", "hots: {}")):
        (tmp_path / name).write_text(text)
        assert "hosts" in str(run(app, ["check", str(tmp_path / name)]).exception)


def test_json_schemas_describe_every_key() -> None:
    for kind, key in (("fleet", "hosts"), ("worker", "executors")):
        schema = json.loads(CliRunner().invoke(app, ["schema", kind]).stdout)
        assert key in schema["properties"]
