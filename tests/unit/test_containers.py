"""The image and the containers of config/docker: what they name exists, and what they print and write stays on the machine.

They were built where a Docker engine is: the workflow `test`. Here is what can be held without one.
"""

import re
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from turbo.config.worker import load_worker_config

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "config" / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
COMMANDS = (ROOT / "docs" / "reference" / "commands.md").read_text()


def test_mounted_files_exist() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), (name, source)
            elif not source.startswith("/"):
                assert source in COMPOSE["volumes"], (name, source)


def test_image_is_built_from_what_is_there() -> None:
    kept = [line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / path).exists() for path in kept)
    packaged = re.findall(r"^(\w+) = \"turbo/examples/", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {*packaged, "turbo", "migrations", "pyproject.toml", "constraints.txt", "README.md"} <= set(kept)
    assert (DOCKER / COMPOSE["x-turbo"]["build"]["context"]).resolve() == ROOT
    assert (ROOT / COMPOSE["x-turbo"]["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("name", ["worker", "web"])
def test_commands_have_their_flags(name: str) -> None:
    command, *words = SERVICES[name]["command"]
    section = COMMANDS.split(f"\n## turbo {command}\n")[-1].partition("\n## ")[0]
    assert section != COMMANDS
    assert all(word in section for word in words if word.startswith("--"))


def test_workers_file_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBO_DSN", "host=postgres")
    config = load_worker_config(DOCKER / "worker.yaml")
    probed = [shlex.join(SERVICES[name]["healthcheck"]["test"]) for name in ("worker", "web")]
    assert f":{config.metrics.port}/healthz" in probed[0]
    assert f":{config.web.port}/healthz" in probed[1]
    assert config.worker.drain_seconds < int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    scraped = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"][0]["dns_sd_configs"][0]
    assert (scraped["names"], scraped["port"]) == (["worker"], config.metrics.port)


def test_only_the_loopback_reaches_a_container() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_login_is_made_once_and_for_nobody_else(tmp_path: Path) -> None:
    (script,) = SERVICES["login"]["command"]
    script = script.replace("$$", "$").replace("/login", str(tmp_path)).replace("chown turbo", "true")
    env = tmp_path / "turbo.env"
    texts = []
    for _ in range(2):
        assert subprocess.run(["sh", "-euc", script], capture_output=True, timeout=30).stdout == b""
        texts.append(env.read_text())
    assert texts[0] == texts[1]
    password = (tmp_path / "password").read_text()
    assert texts[0] == f"TURBO_DSN=postgresql://postgres:{password}@postgres/postgres\n"
    assert len(password) == 48
    assert {stat.S_IMODE(path.stat().st_mode) for path in (env, tmp_path / "password")} == {0o600}
