"""A bench for the real Codex CLI: a scrubbed home, a loopback Responses API, and the executor between them.

The CLI is the one that `npm install` in tests/.tools installs; TURBO_TEST_CODEX names another.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support import responses_api, workers
from tests.support.mailboxes import Told
from tests.support.requirements import missing
from tests.support.responses_api import ResponsesApi
from turbo.domain.headroom import UsageWindow
from turbo.domain.mailbox import Mailbox
from turbo.domain.outcome import Outcome
from turbo.domain.run import Progress, Run
from turbo.domain.task import Task
from turbo.executors.codex.executor import CodexExecutor
from turbo.process.journal import Journal

CODEX_KEY = {"CODEX_API_KEY": "sk-test-1234567890"}
CODEX_RESETS_AT = int(time.time()) + 7200
MODEL = "gpt-5.5"
ASKING_MODEL = "gpt-6-luna"
"""A model that is offered a tool to ask with. The CLI knows it without asking the service."""

PROVIDER = """
model_provider = "loop"
[model_providers.loop]
name = "loop"
base_url = "{url}/v1"
wire_api = "responses"
requires_openai_auth = true
request_max_retries = {retries}
stream_max_retries = {retries}
"""


def the_codex() -> str:
    here = Path(__file__).parents[1] / ".tools" / "node_modules" / ".bin" / "codex"
    path = os.environ.get("TURBO_TEST_CODEX") or str(here)
    if not os.access(path, os.X_OK):
        missing(f"no Codex CLI at {path}: run npm install in tests/.tools, or name one in TURBO_TEST_CODEX")
    return path


@dataclass
class CodexBench:
    """A scrubbed home for the CLI, a Responses API, and a way to run a task with both."""

    api: ResponsesApi
    home: Path
    pids: list[int] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    windows: list[tuple[UsageWindow, ...]] = field(default_factory=list)

    def scrubbed(self, retries: int = 0) -> dict[str, str]:
        """The environment that keeps the CLI in its scrubbed home and at the loopback API. `retries`: the CLI's own."""
        codex_home = self.home / ".codex"
        codex_home.mkdir(parents=True, exist_ok=True)
        (self.home / "tmp").mkdir(exist_ok=True)
        if not (config := codex_home / "config.toml").exists():
            config.write_text(PROVIDER.format(url=self.api.url, retries=retries))
        return {
            "HOME": str(self.home),
            "CODEX_HOME": str(codex_home),
            "TMPDIR": str(self.home / "tmp"),  # a CODEX_HOME below it would be warned of
            "GIT_CEILING_DIRECTORIES": str(self.home.parent),
        }

    def login(self, login: dict[str, str] = CODEX_KEY) -> Path:
        """An account's env file."""
        self.home.mkdir(exist_ok=True)
        env_file = self.home / "account.env"
        env_file.write_text("".join(f"{key}={value}\n" for key, value in login.items()))
        env_file.chmod(0o600)
        return env_file

    def section(self, **executor: Any) -> dict[str, Any]:
        """Of worker.yaml."""
        section = {
            "kind": "codex",
            "command": [the_codex()],
            "model": MODEL,
            "env": self.scrubbed(),
            "account": "gamma",
        }
        return {**section, **executor}

    def config(self, bench: workers.Bench, slots: int = 2, poll_seconds: float = 60, **executor: Any) -> dict[str, Any]:
        """A worker's configuration whose default executor is the CLI."""
        config = bench.config(slots=slots, poll_seconds=poll_seconds)
        config["executors"]["codex"] = self.section(**executor)
        config["accounts"] = {"gamma": {"env_file": str(self.login())}}
        config["routes"]["default"] = "codex"
        return config

    def executor(self, login: dict[str, str] = CODEX_KEY, *, retries: int = 0, **settings: object) -> CodexExecutor:
        known: dict[str, object] = {
            "command": [the_codex()],
            "journal": Journal(self.home / "journal"),
            "env_file": self.login(login),
            "model": MODEL,
        }
        more = {**known, **settings}
        more["env"] = self.scrubbed(retries) | dict(more.get("env", {}))  # type: ignore[call-overload]
        return CodexExecutor("codex", **more)  # type: ignore[arg-type]

    def run(self, prompt: str = "say hello", *, messages: Mailbox | None = None, **fields: object) -> Run:
        """A run of a worker has a mailbox in any case."""
        known: dict[str, object] = {"task_id": "t_1", "task_type": "analysis", "timeout_seconds": 60.0}
        task = Task(task_description=prompt, **{**known, **fields})  # type: ignore[arg-type]
        return Run(
            task=task,
            work_dir=self.home / "work",
            log_path=self.home / "attempt.log",
            started=self.pids.append,
            progress=self.progress.append,
            session_started=self.sessions.append,
            messages=messages or Told().mailbox,
            windows=self.windows.append,
        )

    async def do(
        self,
        executor: CodexExecutor,
        prompt: str = "say hello",
        *,
        messages: Mailbox | None = None,
        **fields: object,
    ) -> Outcome:
        return await executor.run(self.run(prompt, messages=messages, **fields))


@contextlib.contextmanager
def a_codex_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodexBench]:
    """Its API says "hello there" until told otherwise."""
    with ResponsesApi(responses_api.text("hello there")) as api:
        yield CodexBench(api, tmp_path_factory.mktemp("codex"))
