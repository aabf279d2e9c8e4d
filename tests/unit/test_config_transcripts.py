"""`transcripts:` of executors, `redact:`, `retention.transcript_days`."""

from pathlib import Path

import pytest
import yaml

from turbo.config.executors import ClaudeSection, CommandSection
from turbo.config.worker import ConfigError, WorkerConfig, load_worker_config


def load(tmp_path: Path, executor: dict[str, object], **more: object) -> WorkerConfig:
    path = tmp_path / "worker.yaml"
    path.write_text(yaml.safe_dump({"executors": {"one": executor}, **more}))
    return load_worker_config(path)


def test_agents_keep_transcripts_unless_told(tmp_path: Path) -> None:
    claude = load(tmp_path, {"kind": "claude"}).executors["one"]
    assert isinstance(claude, ClaudeSection)
    assert claude.transcripts
    command = load(tmp_path, {"kind": "command", "command": ["/bin/true"]}).executors["one"]
    assert isinstance(command, CommandSection)
    assert not command.transcripts
    assert load(tmp_path, {"kind": "claude"}).retention.transcript_days is None


def test_handler_with_transcripts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no output of its own"):
        load(tmp_path, {"kind": "python", "handler": "turbo.testing:noop", "transcripts": True})


@pytest.mark.parametrize("pattern", ["(", "a+", "(?:a{1,30}){1,30}"])
def test_pattern_that_cannot_be_used_is_one_error(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, {"kind": "claude"}, redact=["fine-[0-9]{4}", pattern])
    assert str(refused.value).count("redact") == 1
    assert repr(pattern) in str(refused.value)
