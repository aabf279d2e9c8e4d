"""A bench for the real Claude CLI: a scrubbed home, a loopback Messages API, and the executor between them.

The CLI is the one that `npm install` in tests/.tools installs; TURBO_TEST_CLAUDE names another.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support import messages_api, workers
from tests.support.mailboxes import Told
from tests.support.messages_api import Answer, MessagesApi
from tests.support.requirements import missing
from turbo.domain.mailbox import Mailbox
from turbo.domain.outcome import Outcome
from turbo.domain.run import Progress, Run
from turbo.domain.task import Task
from turbo.executors.claude.executor import ClaudeExecutor
from turbo.process.journal import Journal

KEY = {"ANTHROPIC_API_KEY": "sk-ant-test-1234567890"}
OAUTH = {"CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-test-1234567890"}
RESETS_AT = int(time.time()) + 7200
ALLOWED: dict[str, Any] = {"allowed_tools": ["Bash", "Read"]}


def the_cli() -> str:
    here = Path(__file__).parents[1] / ".tools" / "node_modules" / ".bin" / "claude"
    path = os.environ.get("TURBO_TEST_CLAUDE") or str(here)
    if not os.access(path, os.X_OK):
        missing(f"no Claude CLI at {path}: run npm install in tests/.tools, or name one in TURBO_TEST_CLAUDE")
    return path


@dataclass
class Bench:
    """A scrubbed home for the CLI, a Messages API, and a way to run a task with both."""

    api: MessagesApi
    home: Path
    pids: list[int] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)

    def scrubbed(self) -> dict[str, str]:
        """The environment that keeps the CLI in its scrubbed home and at the loopback API."""
        return {
            "HOME": str(self.home),
            "CLAUDE_CONFIG_DIR": str(self.home / ".claude"),
            "TMPDIR": str(self.home),
            "GIT_CEILING_DIRECTORIES": str(self.home.parent),  # what lies above is no part of the test
            "ANTHROPIC_BASE_URL": self.api.url,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
        }

    def login(self, login: dict[str, str] = KEY) -> Path:
        """An account's env file."""
        self.home.mkdir(exist_ok=True)
        env_file = self.home / "account.env"
        env_file.write_text("".join(f"{key}={value}\n" for key, value in login.items()))
        env_file.chmod(0o600)
        return env_file

    def config(self, bench: workers.Bench, slots: int = 2, poll_seconds: float = 60, **executor: Any) -> dict[str, Any]:
        """A worker's configuration whose default executor is the CLI."""
        config = bench.config(slots=slots, poll_seconds=poll_seconds)
        config["executors"]["claude"] = {
            "kind": "claude",
            "command": [the_cli()],
            "model": "sonnet",
            "env": self.scrubbed(),
            "account": "alpha",
            "allowed_tools": ["Bash"],
            "cli_max_retries": 0,
            **executor,
        }
        config["accounts"] = {"alpha": {"env_file": str(self.login())}}
        config["routes"]["default"] = "claude"
        return config

    def executor(self, login: dict[str, str] = KEY, **settings: object) -> ClaudeExecutor:
        known: dict[str, object] = {
            "command": [the_cli()],
            "journal": Journal(self.home / "journal"),
            "env_file": self.login(login),
            "model": "sonnet",
            "cli_max_retries": 0,
        }
        more = {**known, **settings}
        more["env"] = self.scrubbed() | dict(more.get("env", {}))  # type: ignore[call-overload]
        return ClaudeExecutor("claude", **more)  # type: ignore[arg-type]

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
        )

    async def do(
        self,
        executor: ClaudeExecutor,
        prompt: str = "say hello",
        *,
        messages: Mailbox | None = None,
        **fields: object,
    ) -> Outcome:
        return await executor.run(self.run(prompt, messages=messages, **fields))


@contextlib.contextmanager
def a_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Its API says "hello there" until told otherwise."""
    with MessagesApi(messages_api.text("hello there")) as api:
        yield Bench(api, tmp_path_factory.mktemp("cli"))


def bash(command: str, **more: object) -> Answer:
    return messages_api.tool("Bash", {"command": command, "description": "a test", **more})
