"""What a Copilot executor cannot have, and what to do instead."""

from collections.abc import Mapping
from typing import Any

_INSTEAD = "set allowed_tools, disallowed_tools or any_path of the executor instead"
_SESSION = "turbo names the session; set resume of the executor instead"
_PROMPT = "the prompt is turbo's, and goes in by stdin"

FLAGS = {
    "-p": _PROMPT,
    "--prompt": _PROMPT,
    "-i": _PROMPT,
    "--interactive": _PROMPT,
    "-s": "turbo reads the CLI's JSON",
    "--silent": "turbo reads the CLI's JSON",
    "--output-format": "turbo reads the CLI's JSON",
    "--acp": "turbo reads the CLI's JSON; to speak ACP instead, make it kind: acp",
    "--model": "set model of the executor instead",
    "--allow-all": _INSTEAD,
    "--yolo": _INSTEAD,
    "--allow-all-tools": _INSTEAD,
    "--allow-all-paths": _INSTEAD,
    "--allow-tool": _INSTEAD,
    "--deny-tool": _INSTEAD,
    "--max-ai-credits": "set max_ai_credits of the executor instead",
    "-r": _SESSION,
    "--resume": _SESSION,
    "--continue": _SESSION,
    "--session-id": _SESSION,
    "--connect": _SESSION,
    "-C": "set cwd or workspace of the executor instead",
    "--remote": "turbo turns it off: nobody but turbo steers its agents",
}
"""Words of `command` that do not go with what turbo passes, and what to do."""

KEYS = {
    "max_budget_usd": "the Copilot CLI has no limit in US dollars: set max_ai_credits, or limit runs: turbo budget set NAME --runs N",
    "max_turns": "the Copilot CLI has no limit of turns: set max_ai_credits, and timeout_seconds of the task",
    "permission_mode": f"the Copilot CLI has none: {_INSTEAD}",
    "network": "is for kind: codex: deny URLs with --deny-url in command, or run the worker in a container without network",
    "cli_max_retries": "the Copilot CLI's own retries cannot be set: remove it, they end within a minute",
    "trust_repository": "the Copilot CLI trusts directories by a flag: put --trust-folder into command",
    "ask": "a Copilot agent can neither ask a person nor hold a call until one approves it: use kind: claude for work that asks",
}
"""Keys of other agents, and what to do."""


def key_problem(section: Mapping[str, Any]) -> str | None:
    """Of the first key that a Copilot executor cannot have."""
    return next((f"{key}: {why}" for key, why in KEYS.items() if section.get(key) is not None), None)


def flag_problem(words: list[str]) -> str | None:
    """Of the first of the operator's own flags that does not go with turbo's."""
    for word in words:
        flag = word.split("=", 1)[0]
        if (instead := FLAGS.get(flag)) is not None:
            return f"contains {flag}: {instead}"
    return None
