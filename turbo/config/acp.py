"""What is known of an agent that speaks the Agent Client Protocol: its profile, as data.

    profile: opencode                                  one of PROFILES, a file each in turbo/config/agents/
    profile: {name: goose, resume: load, failures: […]}    an operator's own, as `turbo agents probe` prints it

A profile chooses nothing for a task. It says how one agent is started, spoken to and understood; what the agent may do is in the
executor's own section. Phrases are compared without regard to case, and never as patterns.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, field_validator, model_validator

from turbo.config.loader import LONGEST_SECONDS, Real, Section, Whole
from turbo.domain.finding import Finding, fail

MOST_TELLS = 100
Phrase = Annotated[str, Field(min_length=3, max_length=300)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]


class ToldBy(StrEnum):
    """What a failure of an agent means, as a profile names it."""

    LOGIN = "login"
    LIMIT = "limit"
    CREDITS = "credits"
    MODEL = "model"
    TOO_LONG = "too_long"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    BAD_REQUEST = "bad_request"
    REFUSED = "refused"
    FAILED = "failed"
    MISCONFIGURED = "misconfigured"


class FailureTell(Section):
    """How one failure shows. All that is given must hold; of several phrases one. The first tell that applies decides."""

    means: ToldBy = Field(
        description="What it is: login, limit, credits, model, too_long, rate_limited, unavailable, …"
    )
    code: list[Annotated[Whole, Field(ge=-(2**31), le=2**31 - 1)]] = Field(
        default=[], max_length=20, description="JSON-RPC error codes, one of them."
    )
    data: dict[str, str] = Field(
        default={}, max_length=5, description="Values in the error's data, by dotted path: {errorName: APIError}."
    )
    text: list[Phrase] = Field(
        default=[], max_length=50, description="Phrases in the error's message or data, one of them."
    )
    said: list[Phrase] = Field(
        default=[],
        max_length=50,
        description="How the agent's last message begins, one of them, although it says end_turn.",
    )
    logged: list[Phrase] = Field(
        default=[], max_length=50, description="Phrases in the last lines of its standard error, one of them."
    )
    unused: bool = Field(default=False, description="Only where the answer reports no usage.")

    @model_validator(mode="after")
    def _tells_something(self) -> "FailureTell":
        if not (self.code or self.data or self.text or self.said or self.logged):
            raise ValueError("tells nothing: give code, data, text, said or logged")
        return self


class Holding(Section):
    """What makes the agent ask for permission before every call that a rule of `ask.approve` could hold."""

    env: dict[str, str] = Field(default={}, description="Variables for it.")
    mode: str | None = Field(default=None, description="Its mode.")


def _below_home(path: str) -> str:
    """Raises ValueError."""
    if not path.strip("/.") or path.startswith(("/", "~")) or not {".", "..", ""}.isdisjoint(path.split("/")):
        raise ValueError(f"{path!r} must name a directory below HOME, as .qwen and .local/share/opencode do")
    return path


class AcpProfile(Section):
    """One agent. `name` is part of the ids of its sessions."""

    name: Name = Field(description="Names the agent in agent_session_id: acp:NAME:….")
    command: list[str] = Field(default=[], description="How it is started, where the executor has no command.")
    version: list[str] = Field(default=["--version"], description="Arguments with which it prints its version.")
    env: dict[str, str] = Field(default={}, description="Variables that the executor's env may replace.")
    state: list[Annotated[str, AfterValidator(_below_home)]] = Field(
        default=[],
        max_length=20,
        description="Directories below HOME with its sessions and its login: it may write there in a sandbox.",
    )
    logins: list[str] = Field(
        default=[], description="Variables that hold a login: other programs of a run do not get them."
    )
    resume: Literal["resume", "load", "none"] | None = Field(
        default=None, description="How a session goes on. null: as the agent says it can."
    )
    model: str | None = Field(
        default=None,
        description="How the model is set: set_model, or option:ID for session/set_config_option, or env:NAME.",
    )
    mode: str | None = Field(default=None, description="How the mode is set: set_mode, or option:ID.")
    needs_model: bool = Field(default=False, description="The executor has to name a model.")
    holding: Holding | None = Field(
        default=None, description="What makes it ask before every call. null: no call can be held for a person."
    )
    tells_failures: bool = Field(
        default=False,
        description="end_turn means success: a failure of its service is an error, or shows in failures.",
    )
    failures: list[FailureTell] = Field(default=[], max_length=MOST_TELLS, description="How its failures show.")
    usage: Literal["result", "meta_quota", "meta_usage", "none"] = Field(
        default="result",
        description="Where the tokens of a turn are: the result's usage, its _meta.quota, or _meta.usage of updates.",
    )
    tells_cost: bool = Field(default=False, description="Its usage_update has the cost of the session in US dollars.")
    retries_in_silence: bool = Field(
        default=False,
        description="It tries a request of its service again without a word: silence then means that the service is away.",
    )
    messages: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = Field(
        default=None,
        description="Messages in a row without a call of a tool, after which it is taken to be caught in a loop. null: any number.",
    )
    ignores_term: bool = Field(default=False, description="TERM does not end it, so KILL follows soon.")
    stop_seconds: Real = Field(
        default=5.0, gt=0, le=LONGEST_SECONDS, description="How long it may take to obey session/cancel."
    )

    @field_validator("model", "mode")
    @classmethod
    def _way(cls, way: str | None) -> str | None:
        known = way in (None, "set_model", "set_mode")
        if not known and not (way or "").startswith(("option:", "env:", "arg:")):
            raise ValueError(f"{way!r}: write set_model, set_mode, option:ID, env:NAME or arg:FLAG")
        return way

    @model_validator(mode="after")
    def _sets_its_mode(self) -> "AcpProfile":
        if self.holding is not None and self.holding.mode is not None and self.mode is None:
            raise ValueError("holding.mode needs mode: how the mode is set, set_mode or option:ID")
        return self


PROFILES = ("opencode", "gemini", "qwen")
"""Those that come with turbo, held to the real agents by tests."""


@cache
def builtin_profile(name: str) -> AcpProfile:
    """Raises KeyError."""
    if name not in PROFILES:
        raise KeyError(name)
    text = (files("turbo.config") / "agents" / f"{name}.yaml").read_text(encoding="utf-8")
    return AcpProfile.model_validate(yaml.safe_load(text))


def chosen_profile(value: Any) -> Any:
    """`profile:` of an executor: the name of a built-in one becomes that one."""
    if not isinstance(value, str):
        return value
    try:
        return builtin_profile(value)
    except KeyError:
        known = ", ".join(PROFILES)
        raise ValueError(
            f"no profile {value!r}; known: {known}. For another agent write a section, as turbo agents probe prints it, or leave it "
            "out and add check:"
        ) from None


KINDS = ("read", "edit", "delete", "move", "search", "execute", "think", "fetch", "switch_mode", "other")
"""Kinds of calls of tools, as the protocol names them."""

Permission = Literal["allow", "inside", "deny"]


class Permissions(Section):
    """What becomes of the agent's requests for permission, by the kind of the call. inside: allowed where every path that the call
    names lies in the directory of the run."""

    read: Permission = Field(
        default="allow", description="allow, inside or deny. inside: only below the directory of the run."
    )
    edit: Permission = Field(default="inside", description="Changes of files.")
    delete: Permission = Field(default="inside", description="Deletions of files.")
    move: Permission = Field(default="inside", description="Renames of files.")
    search: Permission = Field(default="allow", description="Searches.")
    execute: Permission = Field(
        default="deny", description="Commands. Where a command writes cannot be seen, so inside means deny."
    )
    think: Permission = Field(default="allow", description="Thoughts.")
    fetch: Permission = Field(default="deny", description="Requests to other hosts.")
    switch_mode: Permission = Field(default="deny", description="A change of the agent's own mode.")
    other: Permission = Field(default="deny", description="What the agent calls by no kind.")


def acp_problems(
    at: str, profile: AcpProfile | None, *, checked: bool, asks: bool, approves: bool, sets: Mapping[str, object]
) -> Iterator[Finding]:
    """What cannot work. `checked`: a check decides. `asks`: it has `ask`, and `approves` with rules. `sets`: model and mode."""
    if not checked and (profile is None or not profile.tells_failures):
        who = (
            "an agent without a profile"
            if profile is None
            else f"the profile {profile.name}, which does not tell failures,"
        )
        yield fail(
            f"{who} needs check: such an agent may say that it is done although its service refused it, so a check has to decide; or "
            f"name a profile that tells failures: {', '.join(PROFILES)}",
            subject=f"{at}.check",
        )
    if asks and not approves:
        yield fail(
            "an agent over ACP cannot ask questions, only for the approval of calls: add approve, or remove ask",
            subject=f"{at}.ask",
        )
    if approves and (profile is None or profile.holding is None or profile.resume in (None, "none")):
        what = (
            "needs a profile with holding and resume"
            if profile is None
            else f"the profile {profile.name} has no holding, or no resume"
        )
        yield fail(
            f"{what}: this agent cannot hold a call, go on later and show that it is the same call; remove approve",
            subject=f"{at}.ask.approve",
        )
    if profile is not None and profile.needs_model and sets.get("model") is None:
        what = f"is needed: without one, {profile.name} chooses a service by itself; write provider/model, as that service names it"
        yield fail(what, subject=f"{at}.model")
    for key in ("model", "mode"):
        if sets.get(key) is not None and (profile is None or getattr(profile, key) is None):
            yield fail(
                f"turbo does not know how this agent takes its {key}: add it to profile as {key}: set_{key} or option:{key}",
                subject=f"{at}.{key}",
            )
