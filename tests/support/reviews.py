"""A second agent that reviews: its executor, its requests, and what a scripted model answers in its place."""

import json
from typing import Any

from tests.support.claude import KEY, Bench, the_cli
from tests.support.messages_api import Answer, Request
from tests.support.schemas import structured
from turbo.executors.checks.loop import Checks
from turbo.executors.checks.review_prompt import REVIEW
from turbo.executors.checks.reviewer import ReviewerJudge
from turbo.executors.claude.reviewing import ClaudeReviewer
from turbo.process.environment import EnvFile
from turbo.process.journal import Journal

ACCEPTS = structured({"pass": True, "why": "nothing is missing"})


def rejects(why: str) -> Answer:
    return structured({"pass": False, "why": why})


def is_review(request: Request) -> bool:
    return REVIEW in request.everything


def reviewer(bench: Bench, login: dict[str, str] = KEY, **settings: Any) -> ClaudeReviewer:
    """With a login of its own."""
    env_file = bench.home / "reviewer.env"
    env_file.write_text("".join(f"{key}={value}\n" for key, value in login.items()))
    env_file.chmod(0o600)
    known: dict[str, Any] = {
        "command": [the_cli()],
        "journal": Journal(bench.home / "journal"),
        "env": bench.scrubbed(),
        "env_file": EnvFile(env_file),
        "model": "sonnet",
        "cli_max_retries": 0,
    }
    return ClaudeReviewer("reviewer", **{**known, **settings})


def reviewed(bench: Bench, *, rounds: int = 3, seconds: float = 60.0, **settings: Any) -> Checks:
    """A check by a reviewer."""
    agent = reviewer(bench, **settings)
    return Checks((ReviewerJudge(agent, seconds=seconds),), rounds, accounts=frozenset({agent.account}))


def reviews(bench: Bench) -> list[Request]:
    return [request for request in bench.api.requests if is_review(request)]


def in_fences(prompt: str) -> list[dict[str, Any]]:
    """The documents between fences."""
    return [json.loads(line) for line in prompt.split("\n") if line.startswith("{")]
