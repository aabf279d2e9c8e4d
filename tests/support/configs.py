"""A small worker configuration for tests that only look at one."""

from pathlib import Path
from typing import Any

from turbo.config.worker import WorkerConfig


def config_of(path: Path, *, slots: int = 2, **sections: Any) -> WorkerConfig:
    known: dict[str, Any] = {
        "worker": {"name": "alpha", "slots": slots, "state_dir": str(path / "state")},
        "metrics": {"port": 0},
        "executors": {"sh": {"kind": "command", "command": ["sh", "-c", "true"]}},
        "routes": {"default": "sh"},
    }
    return WorkerConfig.model_validate(known | sections)
