"""A bench for agents over ACP: the scripted one (tests/support/programs/acp_agent.py), and the executor around it."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.mailboxes import Told
from turbo.config.acp import AcpProfile, Permissions
from turbo.domain.mailbox import Mailbox
from turbo.domain.outcome import Outcome
from turbo.domain.run import Progress, Run
from turbo.domain.task import Task
from turbo.executors.acp.executor import AcpExecutor
from turbo.process.journal import Journal

AGENT = Path(__file__).parent / "programs" / "acp_agent.py"
SCRIPTED: dict[str, Any] = {
    "name": "scripted",
    "mode": "set_mode",
    "model": "option:model",
    "resume": "resume",
    "holding": {"mode": "ask"},
    "tells_failures": True,
    "messages": 50,
    "stop_seconds": 1,
    "failures": [
        {"means": "login", "said": ["Error: Authentication failed"], "unused": True},
        {"means": "limit", "text": ["usage limit"]},
        {"means": "credits", "text": ["payment required"]},
        {"means": "model", "data": {"reason.kind": "model"}},
        {"means": "too_long", "code": [-32077]},
        {"means": "rate_limited", "text": ["too many requests"]},
        {"means": "bad_request", "text": ["invalid request"]},
        {"means": "refused", "text": ["by our policy"]},
        {"means": "unavailable", "code": [-32603], "text": ["overloaded"]},
    ],
}


def scripted(**more: Any) -> AcpProfile:
    return AcpProfile.model_validate({**SCRIPTED, **more})


def command_of(scenario: str, directory: Path) -> list[str]:
    return [sys.executable, str(AGENT), scenario, str(directory)]


@dataclass
class AcpBench:
    """`home` has the agent's sessions, and what it received. `work`: the directory of its runs [default: in `home`]."""

    home: Path
    work: Path = Path()
    pids: list[int] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.work == Path():
            self.work = self.home / "work"

    def executor(self, scenario: str, **settings: Any) -> AcpExecutor:
        known: dict[str, Any] = {"journal": Journal(self.home / "journal"), "profile": scripted(), "leave_seconds": 1.0}
        return AcpExecutor("agent", command_of(scenario, self.home), **{**known, **settings})

    def run(self, prompt: str = "say hello", *, messages: Mailbox | None = None, **fields: Any) -> Run:
        known: dict[str, Any] = {"task_id": "t_1", "task_type": "analysis", "timeout_seconds": 30.0}
        return Run(
            task=Task(task_description=prompt, **{**known, **fields}),
            work_dir=self.work,
            log_path=self.work.parent / "logs" / "attempt.log",
            started=self.pids.append,
            progress=self.progress.append,
            session_started=self.sessions.append,
            messages=messages or Told().mailbox,
        )

    async def do(self, executor: AcpExecutor, prompt: str = "say hello", **fields: Any) -> Outcome:
        return await executor.run(self.run(prompt, **fields))

    @property
    def received(self) -> list[dict[str, Any]]:
        """All that the agent was sent."""
        path = self.home / "received.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def requests(self, method: str) -> list[dict[str, Any]]:
        return [one["params"] for one in self.received if one.get("method") == method]

    @property
    def prompts(self) -> list[str]:
        return [params["prompt"][0]["text"] for params in self.requests("session/prompt")]


ALL_DENIED = Permissions(read="deny", search="deny", think="deny")
