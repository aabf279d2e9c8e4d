"""What an operator should know about a `claude` section that is valid, for `turbo config check` and `turbo doctor`."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from turbo.config.executors import ClaudeSection
from turbo.domain.finding import Finding, warn
from turbo.executors.claude.login import takes_descriptors

_OBEYED = ("--mcp-config", "--settings", "--plugin-dir")
"""Flags that name files which the CLI obeys."""


def notes(name: str, section: ClaudeSection) -> Iterator[Finding]:
    """One finding for each, with the key in its text."""
    at = f"executors.{name}"
    if section.trust_repository:
        yield warn(
            f"{at}.trust_repository is true: the CLI obeys .claude/settings.json and .mcp.json of its working directory. "
            "Who can write there can run programs as the worker's user, and send the account's login to any server",
            "set it to false, unless everybody who can commit there may do that",
        )
    else:
        yield from _distrusted(at, section.command)
    if section.logins and not takes_descriptors(section.command):
        yield warn(
            f"{at}.command: {section.command[0]} does not have claude in its name, so it gets the login in its environment, where the "
            "agent can read it",
            "call the CLI itself, if you can",
        )


def _distrusted(at: str, command: Sequence[str]) -> Iterator[Finding]:
    words = [part for word in command for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for flag, value in pairwise(words):
        if flag == "--setting-sources" and {"project", "local"} & {source.strip() for source in value.split(",")}:
            yield warn(
                f"{at}.command: --setting-sources {value} has no effect, because trust_repository is false",
                "remove the flag, or set trust_repository: true",
            )
        if flag in _OBEYED and not value.startswith(("/", "~", "{")):
            yield warn(
                f"{at}.command: {flag} {value} is looked up in the working directory, and obeyed",
                "use an absolute path, unless everybody who can commit there may run programs as the worker's user",
            )
