"""A bench for the real GitHub Copilot CLI: a scrubbed home, its services on loopback, and the executor between them.

The CLI is the one that `npm install` in tests/.tools installs; TURBO_TEST_COPILOT names another.
It unpacks itself once, into a cache that all benches share.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support import copilot_api, workers
from tests.support.copilot_api import CopilotApi
from tests.support.mailboxes import Told
from tests.support.requirements import missing
from turbo.domain.mailbox import Mailbox
from turbo.domain.outcome import Outcome
from turbo.domain.run import Progress, Run
from turbo.domain.task import Task
from turbo.executors.copilot.executor import CopilotExecutor
from turbo.process.journal import Journal

OWN_KEY = {"COPILOT_PROVIDER_API_KEY": "sk-test-1234567890"}
GITHUB = {"COPILOT_GITHUB_TOKEN": "gho_test1234567890"}
MODEL = "gpt-5-mini"


def the_copilot() -> str:
    here = Path(__file__).parents[1] / ".tools" / "node_modules" / ".bin" / "copilot"
    path = os.environ.get("TURBO_TEST_COPILOT") or str(here)
    if not os.access(path, os.X_OK):
        missing(f"no Copilot CLI at {path}: run npm install in tests/.tools, or name one in TURBO_TEST_COPILOT")
    return path


def _unpacked() -> str:
    return str(Path(tempfile.gettempdir()) / f"turbo-tests-copilot-{os.getuid()}")


@dataclass
class CopilotBench:
    """A scrubbed home for the CLI, its services, and a way to run a task with both."""

    api: CopilotApi
    home: Path
    pids: list[int] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)

    def scrubbed(self, *, github: bool = False) -> dict[str, str]:
        """The environment that keeps the CLI in its scrubbed home and at the loopback service. `github`: that is GitHub; else a
        provider with a key of its own."""
        url = self.api.url
        mine = {"COPILOT_PROVIDER_BASE_URL": url, "COPILOT_OFFLINE": "true"}
        theirs = {
            "COPILOT_API_URL": url,
            "COPILOT_DEBUG_GITHUB_API_URL": url,
            "HTTPS_PROXY": url,
            "NO_PROXY": "127.0.0.1",
        }
        return {
            "HOME": str(self.home),
            "COPILOT_HOME": str(self.home / ".copilot"),
            "COPILOT_CACHE_HOME": _unpacked(),
            "GIT_CEILING_DIRECTORIES": str(self.home.parent),
            **(theirs if github else mine),
        }

    def login(self, login: dict[str, str] = OWN_KEY) -> Path:
        """An account's env file."""
        self.home.mkdir(exist_ok=True)
        env_file = self.home / "account.env"
        env_file.write_text("".join(f"{key}={value}\n" for key, value in login.items()))
        env_file.chmod(0o600)
        return env_file

    def config(self, bench: workers.Bench, slots: int = 2, poll_seconds: float = 60, **executor: Any) -> dict[str, Any]:
        """A worker's configuration whose default executor is the CLI."""
        config = bench.config(slots=slots, poll_seconds=poll_seconds)
        section = {"kind": "copilot", "command": [the_copilot()], "model": MODEL, "account": "octo"}
        config["executors"]["copilot"] = {**section, "env": self.scrubbed(), **executor}
        config["accounts"] = {"octo": {"env_file": str(self.login())}}
        config["routes"]["default"] = "copilot"
        return config

    def executor(self, login: dict[str, str] = OWN_KEY, *, github: bool = False, **settings: object) -> CopilotExecutor:
        known: dict[str, object] = {
            "command": [the_copilot()],
            "journal": Journal(self.home / "journal"),
            "env_file": self.login(login),
            "model": MODEL,
        }
        more = {**known, **settings}
        more["env"] = self.scrubbed(github=github) | dict(more.get("env", {}))  # type: ignore[call-overload]
        return CopilotExecutor("copilot", **more)  # type: ignore[arg-type]

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
        executor: CopilotExecutor,
        prompt: str = "say hello",
        *,
        messages: Mailbox | None = None,
        **fields: object,
    ) -> Outcome:
        return await executor.run(self.run(prompt, messages=messages, **fields))


@contextlib.contextmanager
def a_copilot_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CopilotBench]:
    """Its model says "hello there" until told otherwise."""
    with CopilotApi(copilot_api.text("hello there")) as api:
        yield CopilotBench(api, tmp_path_factory.mktemp("copilot"))
