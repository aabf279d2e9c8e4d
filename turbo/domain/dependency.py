"""What executors depend on besides their accounts: repositories and their remotes.

Each has a breaker like an account's (turbo.accounts), in `agent_accounts`, under a name that says what it is. Names of
accounts cannot have a blank (turbo.config.worker), so no two are the same.
"""

from pathlib import Path

_REPOSITORY = "repository "
_REMOTE = "remotes of "


def repository(path: Path) -> str:
    """The name of a repository on a host."""
    return f"{_REPOSITORY}{path}"


def remotes(path: Path) -> str:
    """The name of what a repository fetches from."""
    return f"{_REMOTE}{path}"


def is_dependency(name: str) -> bool:
    """Whether a name in `agent_accounts` is that of a repository or its remotes, not of an account."""
    return name.startswith((_REPOSITORY, _REMOTE))


def advice(name: str) -> str:
    """What to do if it is unavailable on a host."""
    if name.startswith(_REPOSITORY):
        what = "the repository on that host"
    elif name.startswith(_REMOTE):
        what = "the git host, and that host's way and login to it"
    else:
        what = "the service, and that host's network"
    return f"check {what}; it is probed every minute, and its tasks go on when it is back"


def described(name: str) -> str:
    """For a sentence: `account max`, `repository /srv/project`."""
    return name if is_dependency(name) else f"account {name}"
