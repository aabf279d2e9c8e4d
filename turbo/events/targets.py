"""Targets: where notices go, as worker.yaml configures them.

notice ──▶ target ──taken──▶ done
             └── DeliveryFailed: the text says why; it is delivered again later
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from turbo.config.loader import ConfigError
from turbo.config.notify import CommandTarget, WebhookTarget
from turbo.domain.event import Notice
from turbo.events.command_target import CommandDelivery
from turbo.events.failure import DeliveryFailed
from turbo.events.webhook_target import WebhookDelivery
from turbo.process.journal import Journal

__all__ = ["DeliveryFailed", "Target", "build_targets"]


class Target(Protocol):
    """One entry of `notify`."""

    fold_over: int | None
    """More events than this go together."""
    with_output: bool

    @abstractmethod
    async def deliver(self, notice: Notice) -> None:
        """Returns once the target has taken it. Ends within its time limit. Raises DeliveryFailed."""

    def missing(self) -> str | None:
        """Why nothing could be delivered from this host now, or None."""

    def secrets(self) -> Iterable[str]:
        """What must not stand in a notice, nor in an error."""


def build_targets(
    notify: Mapping[str, CommandTarget | WebhookTarget], journal: Journal, logs: Path
) -> dict[str, Target]:
    """By name. `logs`: a directory for what the commands print. Raises ConfigError: an env file that cannot be used, for example."""
    targets: dict[str, Target] = {}
    for name, section in notify.items():
        try:
            targets[name] = _target(name, section, journal=journal, logs=logs)
        except ValueError as error:  # EnvironmentRefused is
            raise ConfigError(f"notify.{name}: {error}") from None
    return targets


def _target(name: str, section: CommandTarget | WebhookTarget, *, journal: Journal, logs: Path) -> Target:
    if isinstance(section, WebhookTarget):
        return WebhookDelivery(name, section)
    return CommandDelivery(name, section, journal, logs)
