"""Benches for real agents over ACP, each against a loopback service of the form that it speaks.

The CLIs are those that `npm ci` in tests/.tools installs; TURBO_TEST_OPENCODE, TURBO_TEST_GEMINI and TURBO_TEST_QWEN name others.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support import completions_api, workers
from tests.support.acp import AcpBench
from tests.support.completions_api import CompletionsApi
from tests.support.messages_api import Answer, MessagesApi, Request
from tests.support.requirements import missing
from turbo.config.acp import builtin_profile
from turbo.executors.acp.executor import AcpExecutor
from turbo.process.journal import Journal

KEY = "sk-test-1234567890"
OPENCODE_MODEL = "loop/fake"


def the_agent(name: str) -> str:
    here = Path(__file__).parents[1] / ".tools" / "node_modules" / ".bin" / name
    path = os.environ.get(f"TURBO_TEST_{name.upper()}") or str(here)
    if not os.access(path, os.X_OK):
        missing(f"no {name} at {path}: run npm ci in tests/.tools, or name one in TURBO_TEST_{name.upper()}")
    return path


@dataclass
class RealBench(AcpBench):
    """`home` is the agent's scrubbed home, which later tests of a module share; `work` is one test's own."""

    api: MessagesApi = field(default_factory=CompletionsApi)
    agent: str = "opencode"
    model: str = OPENCODE_MODEL

    def scrubbed(self) -> dict[str, str]:
        """The environment that keeps the agent in its scrubbed home and at the loopback service."""
        return {"HOME": str(self.home), **_POINTED[self.agent](self.api.url, self.home)}

    def command(self) -> list[str]:
        return [the_agent(self.agent), *builtin_profile(self.agent).command[1:]]

    def executor(self, scenario: str = "", **settings: Any) -> AcpExecutor:
        del scenario
        known: dict[str, Any] = {
            "journal": Journal(self.home / "journal"),
            "profile": builtin_profile(self.agent),
            "model": self.model,
        }
        more = {**known, **settings}
        more["env"] = self.scrubbed() | dict(more.get("env", {}))
        command = more.pop("command", self.command())
        return AcpExecutor(self.agent, command, **more)

    def section(self, **executor: Any) -> dict[str, Any]:
        """Of worker.yaml."""
        known = {
            "kind": "acp",
            "profile": self.agent,
            "command": self.command(),
            "model": self.model,
            "env": self.scrubbed(),
            "account": self.agent,
        }
        return {**known, **executor}

    def config(self, bench: workers.Bench, slots: int = 2, **executor: Any) -> dict[str, Any]:
        """A worker's configuration whose default executor is the agent."""
        config = bench.config(slots=slots, poll_seconds=0.5)
        config["executors"][self.agent] = self.section(**executor)
        config["accounts"] = {self.agent: {}}
        config["routes"]["default"] = self.agent
        return config


def _opencode(url: str, _home: Path) -> dict[str, str]:
    model = {"name": "fake", "limit": {"context": 100_000, "output": 10_000}}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "loop",
        "options": {"baseURL": f"{url}/v1", "apiKey": KEY},
        "models": {"fake": model},
    }
    config = {
        "provider": {"loop": provider},
        "enabled_providers": ["loop"],
        "model": OPENCODE_MODEL,
        "small_model": OPENCODE_MODEL,
    }
    return {"OPENCODE_CONFIG_CONTENT": json.dumps(config), "OPENCODE_DISABLE_MODELS_FETCH": "1"}


def _gemini(url: str, home: Path) -> dict[str, str]:
    settings = home / ".gemini" / "settings.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps({"security": {"auth": {"selectedType": "gemini-api-key"}}}))
    return {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": url}


def _qwen(url: str, home: Path) -> dict[str, str]:
    settings = home / ".qwen" / "settings.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps({"security": {"auth": {"selectedType": "openai"}}}))
    return {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_MODEL": "fake"}


_POINTED = {"opencode": _opencode, "gemini": _gemini, "qwen": _qwen}


def _titled(request: Request) -> Answer | None:
    """OpenCode asks for a title of each session, beside the turn."""
    return None if request.body.get("tools") else completions_api.text("A title")


@contextlib.contextmanager
def an_opencode_bench(home: Path) -> Iterator[RealBench]:
    """Its service says "hello there" until told otherwise."""
    with CompletionsApi(completions_api.text("hello there")) as api:
        api.decide = _titled
        yield RealBench(home, api=api)


@pytest.fixture(scope="module")
def opencode_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("opencode")
