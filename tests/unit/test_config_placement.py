"""worker.labels and worker.stay_seconds: what is filled in, what counts, and how a mistake is told."""

import platform
from pathlib import Path

import pytest

from turbo.config.worker import ConfigError, WorkerConfig, load_worker_config
from turbo.host.labels import host_labels

LEAST = "executors: {x: {kind: command, command: [cat]}}\n"


def load(tmp_path: Path, worker: str) -> WorkerConfig:
    file = tmp_path / "worker.yaml"
    file.write_text(f"worker: {worker}\n{LEAST}")
    return load_worker_config(file)


@pytest.mark.parametrize(
    ("system", "machine", "known"),
    [
        ("Linux", "x86_64", ("linux", "x86_64")),
        ("Linux", "aarch64", ("linux", "arm64")),
        ("Darwin", "arm64", ("macos", "arm64")),
        ("Linux", "AMD64", ("linux", "x86_64")),
    ],
)
def test_known_labels_have_one_name_everywhere(monkeypatch, tmp_path, system, machine, known):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert host_labels("mac-1") == {"os": known[0], "arch": known[1], "host": "mac-1"}
    assert load(tmp_path, "{host: mac-1}").worker.all_labels == host_labels("mac-1")


def test_values_become_text_and_configured_ones_count(tmp_path):
    config = load(tmp_path, '{host: h, labels: {os: nixos, xcode: 16, swift: 5.9, gpu: true, tag: "1.10", host: h}}')
    labels = config.worker.all_labels
    assert (labels["os"], labels["xcode"], labels["swift"], labels["gpu"], labels["tag"], labels["host"]) == (
        "nixos", "16", "5.9", "true", "1.10", "h",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        ("[os]", "worker.labels"),
        ("macos", "worker.labels"),
        ("{os: {name: macos}}", "'os' is an object: the value of a label is a text, a number, true or false"),
        ("{os: [macos]}", "'os' is a list"),
        ("{os: null}", "'os' is null"),
        ('{" ": x}', "a label has a name"),
        ("{host: elsewhere}", "worker.labels.host"),
        (f"{{{', '.join(f'l{n}: x' for n in range(101))}}}", "has 101 labels, more than 100"),
        (f"{{os: {'x' * 201}}}", "at most 200 characters"),
    ],
    ids=["a list", "a text", "nested", "list value", "null", "no name", "host", "many", "long"],
)
def test_bad_labels_are_one_clear_error(tmp_path, labels, what):
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, f"{{host: here, labels: {labels}}}")
    assert what in str(refused.value)


@pytest.mark.parametrize(
    ("seconds", "fine"), [("0", True), ("0.5", True), ("-1", False), (".nan", False), ("soon", False)]
)
def test_stay_seconds_is_a_time(tmp_path, seconds, fine):
    if fine:
        assert load(tmp_path, f"{{stay_seconds: {seconds}}}").worker.stay_seconds == float(seconds)
        return
    with pytest.raises(ConfigError, match=r"worker\.stay_seconds"):
        load(tmp_path, f"{{stay_seconds: {seconds}}}")
