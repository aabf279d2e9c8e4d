"""The `notify:` section of worker.yaml: the targets that subscriptions may name. A row names one, and chooses nothing of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from turbo.config.loader import Real, Section, Whole, home
from turbo.domain.finding import Finding, fail
from turbo.domain.states import Level

LONGEST_DELIVERY = 60.0
"""Seconds. A subscription's lease is longer."""

MOST_FOLDED = 100
URL_VARIABLE = "TURBO_WEBHOOK_URL"
SECRET_VARIABLE = "TURBO_WEBHOOK_SECRET"  # noqa: S105


class _Target(Section):
    env_file: str | None = Field(default=None, description="File of KEY=VALUE lines with its secrets, mode 0600.")
    timeout_seconds: Real = Field(
        default=10, gt=0, le=LONGEST_DELIVERY, description="A delivery that takes longer has failed."
    )
    fold_over: Annotated[Whole, Field(ge=1, le=1000)] | None = Field(
        default=10,
        description="More events than this that wait go together, up to 100 in a body. null: each has its own.",
    )
    include: list[Literal["output"]] = Field(
        default=[], description="[output]: the body also has what a completed task has put out."
    )
    _expand = field_validator("env_file", mode="after")(lambda v: home(v))


class CommandTarget(_Target):
    kind: Literal["command"] = Field(description="A program.")
    command: list[str] = Field(
        min_length=1, description="Program and arguments, without a shell; it gets the event as JSON on standard input."
    )
    env: dict[str, str] = Field(default={}, description="Its environment, besides HOME, PATH and the like.")

    @field_validator("command")
    @classmethod
    def _program(cls, command: list[str]) -> list[str]:
        if not command[0]:
            raise ValueError("names no program")
        if any("\0" in word for word in command):
            raise ValueError("contains a NUL character")
        return [home(command[0]) or "", *(home(word) or "" for word in command[1:])]

    @field_validator("env")
    @classmethod
    def _variables(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if name in ("TURBO_DSN", "TURBO_LISTEN_DSN") or name.startswith("PG"):
                raise ValueError(f"has {name}, which gives access to turbo's own database: programs must not have it")
        return env


class WebhookTarget(_Target):
    kind: Literal["webhook"] = Field(description="A POST over HTTP.")
    url: str | None = Field(
        default=None,
        description=f"https://… Where the address itself is a secret, leave it out: {URL_VARIABLE} in env_file.",
    )
    format: Literal["json", "slack", "text"] = Field(
        default="json", description='json: the event; slack: {"text": a line}; text: the line alone.'
    )
    private: bool = Field(
        default=False,
        description="true: the address may be private, loopback or link-local, and plain http.",
    )

    @field_validator("url")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        if url is not None:
            check_url(url)
        return url


NotifySection = Annotated[CommandTarget | WebhookTarget, Field(discriminator="kind")]


def check_url(url: str) -> None:
    """Raises ValueError: it is no address of a webhook."""
    parts = urlsplit(url)  # its own ValueError says what is wrong
    _ = parts.port
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not the address of a webhook: write https:// and a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("has a user or a password in it, which end up in logs: the secret belongs in env_file")
    if any(not "!" <= char <= "~" for char in url):
        raise ValueError("has characters that an address cannot have: encode them (%20)")


def notify_problems(notify: Mapping[str, CommandTarget | WebhookTarget]) -> Iterator[Finding]:
    """Errors of `turbo config check`; `subject` is the key path."""
    for name, target in notify.items():
        at = f"notify.{name}"
        if not name.strip() or len(name) > 200 or any(not char.isprintable() for char in name):
            yield fail("a target has a name that can be printed, of at most 200 characters", subject=at)
        if isinstance(target, WebhookTarget):
            if target.url is None and target.env_file is None:
                yield fail(f"has no url, and no env_file that could hold one ({URL_VARIABLE})", subject=at)
            elif target.url is not None and urlsplit(target.url).scheme == "http" and not target.private:
                yield fail(
                    "is plain http: everybody on the way reads it. Write https, or private: true in a network of your own",
                    subject=f"{at}.url",
                )


def notify_warnings(notify: Mapping[str, CommandTarget | WebhookTarget]) -> Iterator[Finding]:
    for name, target in notify.items():
        if isinstance(target, WebhookTarget) and target.format == "json" and target.env_file is None:
            what = f"no env_file with {SECRET_VARIABLE}: the receiver cannot tell whether a request is turbo's"
            yield Finding(Level.WARN, what, subject=f"notify.{name}")


def resolved(target: CommandTarget | WebhookTarget, directory: Path) -> CommandTarget | WebhookTarget:
    """With the program's path counted from the directory of worker.yaml, if it is relative; a bare name is looked up on PATH."""
    if isinstance(target, CommandTarget) and "/" in target.command[0]:
        return target.model_copy(update={"command": [str(directory / target.command[0]), *target.command[1:]]})
    return target
