"""The environment of a check's program: the executor's, without the account's secrets. It runs what the agent wrote."""

from collections.abc import Mapping

from turbo.domain.task import Task
from turbo.process.environment import ChildEnvironment
from turbo.process.identity import Identity

LOGINS = frozenset(
    {
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "CLAUDE_CODE_OAUTH_TOKEN",
        "OPENAI_API_KEY",
        "CODEX_API_KEY",
        "COPILOT_GITHUB_TOKEN",
        "COPILOT_PROVIDER_API_KEY",
        "COPILOT_PROVIDER_BEARER_TOKEN",
        "COPILOT_PROVIDER_HEADERS",
    }
)
"""Variables with a login of an agent, which may stand in `env` as well."""


class CheckEnvironment:
    """`env`: the executor's. Raises EnvironmentRefused."""

    def __init__(self, env: Mapping[str, str], *, owner: str, run_as: Identity | None = None) -> None:
        self._environment = ChildEnvironment(env, owner=owner, run_as=run_as)

    def __call__(self, task: Task) -> dict[str, str]:
        """For the check of a task's work."""
        found = self._environment.for_task(task)
        return {name: value for name, value in found.items() if name not in LOGINS}
