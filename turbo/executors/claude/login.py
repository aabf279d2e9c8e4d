"""The account's login, kept out of the environment of the CLI and of the shells that its agent starts.

    CLAUDE_CODE_OAUTH_TOKEN, ANTHROPIC_API_KEY ──pipe──▶ the CLI reads it once ──▶ only in the CLI's memory

The CLI passes ANTHROPIC_API_KEY on to the agent's shells, and both can be read in /proc/PID/environ. It also takes them from
a descriptor whose number is in a variable (measured: 2.1.330 and 2.1.197). The pipe is empty once the CLI has started.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath

DESCRIPTORS = {
    "CLAUDE_CODE_OAUTH_TOKEN": "CLAUDE_CODE_OAUTH_TOKEN_FILE_DESCRIPTOR",
    "ANTHROPIC_API_KEY": "CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR",
}
"""The CLI's variables for a login, and those for a descriptor from which it reads the same."""


def takes_descriptors(command: Sequence[str]) -> bool:
    """Whether the command is the CLI itself. A wrapper (docker, sudo, ssh) may close descriptors, so it gets variables."""
    return "claude" in PurePath(command[0]).name


def without_login(environment: Mapping[str, str]) -> dict[str, str]:
    """For programs that are not the CLI: git, and the commands that prepare a worktree."""
    return {name: value for name, value in environment.items() if name not in DESCRIPTORS}


class Login:
    """How one executor's command gets its login."""

    def __init__(self, command: Sequence[str]) -> None:
        self._by_descriptor = takes_descriptors(command)

    def split(self, environment: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """The environment of the CLI, and what it is to read from descriptors."""
        if not self._by_descriptor:
            return dict(environment), {}
        handed = {variable: environment[name] for name, variable in DESCRIPTORS.items() if environment.get(name)}
        return without_login(environment), handed
