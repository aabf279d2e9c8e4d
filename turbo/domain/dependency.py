"""What executors depend on besides their accounts: repositories and their remotes, and models that an account limits by themselves.

Each has a breaker like an account's (turbo.accounts), in `agent_accounts`, under a name that says what it is. Names of
accounts cannot have a blank (turbo.config.worker), so no two are the same.
"""

from pathlib import Path

_REPOSITORY = "repository "
_REMOTE = "remotes of "
_MODEL = " model "

LIMITED_MODELS = ("opus", "sonnet", "haiku")
"""The families of models that a service may limit by themselves, as their limits and the configuration name them."""

_BY_THEMSELVES = ("gpt-", "codex-")


def repository(path: Path) -> str:
    """The name of a repository on a host."""
    return f"{_REPOSITORY}{path}"


def remotes(path: Path) -> str:
    """The name of what a repository fetches from."""
    return f"{_REMOTE}{path}"


def of_model(account: str, model: str) -> str:
    """The name of a family of models that an account uses."""
    return f"{account}{_MODEL}{model}"


def account_behind(name: str) -> str:
    """The account of a model; any other name as it is."""
    return name if name.startswith((_REPOSITORY, _REMOTE)) else name.partition(_MODEL)[0]


def family(model: str | None) -> str | None:
    """The family of a model that a limit may name; a model of OpenAI's is one by itself. None: no known one."""
    name = (model or "").lower()
    if name.startswith(_BY_THEMSELVES):
        return name
    return next((one for one in LIMITED_MODELS if one in name), None)


def is_dependency(name: str) -> bool:
    """Whether a name in `agent_accounts` is that of a repository, its remotes or a model, not of an account."""
    return name.startswith((_REPOSITORY, _REMOTE)) or _MODEL in name


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
    return name if name.startswith((_REPOSITORY, _REMOTE)) else f"account {name.replace(_MODEL, ', model ')}"
