"""`notify:` in worker.yaml: targets that are refused, with the reason."""

from pathlib import Path

import pytest
import yaml

from turbo.config.worker import ConfigError, WorkerConfig, load_worker_config


def load(path: Path, **target: object) -> WorkerConfig:
    file = path / "worker.yaml"
    executors = {"x": {"kind": "command", "command": ["true"]}}
    file.write_text(yaml.safe_dump({"executors": executors, "routes": {"default": "x"}, "notify": {"desk": target}}))
    return load_worker_config(file)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ({"kind": "webhook"}, "has no url"),
        ({"kind": "webhook", "url": "http://hooks.example.com"}, "private: true"),
        ({"kind": "webhook", "url": "ftp://hooks.example.com"}, "write https://"),
        ({"kind": "webhook", "url": "https://me:pw@hooks.example.com"}, "user or a password"),
        ({"kind": "webhook", "url": "https://hooks.example.com/a b"}, "encode"),
        ({"kind": "webhook", "url": "https://h.example", "timeout_seconds": 61}, "timeout_seconds"),
        ({"kind": "webhook", "url": "https://h.example", "include": ["prompt"]}, "include"),
        ({"kind": "command", "command": []}, "command"),
        ({"kind": "command", "command": "notify-me"}, "command"),
        ({"kind": "command", "command": ["x"], "env": {"PGPASSWORD": "x"}}, "PGPASSWORD"),
        ({"kind": "mail"}, "kind"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_target_that_cannot_be_used_is_refused(tmp_path: Path, target: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, **target)
    assert why in str(refused.value)
    assert "notify.desk" in str(refused.value)
    assert "pw@" not in str(refused.value)


def test_relative_program_counts_from_the_file(tmp_path: Path) -> None:
    target = load(tmp_path, kind="command", command=["./me", "a"]).notify["desk"]
    assert target.model_dump()["command"] == [str(tmp_path / "me"), "a"]
    unsigned = load(tmp_path, kind="webhook", url="https://h.example")
    assert [w.subject for w in unsigned.warnings()] == ["notify.desk"]
