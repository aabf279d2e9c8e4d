"""The section `check:` of an executor: what its work must pass before a task is completed."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from turbo.config.loader import LONGEST_SECONDS, Real, Section, Whole
from turbo.domain.check import MOST_ROUNDS, ROUNDS, SECONDS, CheckPolicy, Requirement
from turbo.domain.finding import Finding, fail
from turbo.domain.states import Level

MOST_PATTERNS = 200
PATTERN_CHARACTERS = 1000


class CheckSection(Section):
    """What a run has done is checked before its task is completed (docs/how-to/checked-work.md)."""

    command: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Program and arguments, run without a shell in the directory where the agent worked: [make, test]. Exit code 0 "
        "passes. It gets none of the account's secrets.",
    )
    executor: str | None = Field(
        default=None,
        description="The executor whose agent reviews the work, with read-only tools, instead of a command.",
    )
    seconds: Real = Field(default=SECONDS, gt=0, le=LONGEST_SECONDS, description="Time limit of one check.")
    rounds: Whole = Field(
        default=ROUNDS,
        ge=0,
        le=MOST_ROUNDS,
        description="How often the agent gets what a check found, and another turn, before the task fails as unverified.",
    )
    requires: list[Literal["commit", "changes", "clean"]] = Field(
        default=[],
        description="What must be true of the workspace: a commit was made, a file was changed, nothing is uncommitted.",
    )
    protect: list[str] = Field(
        default=[],
        max_length=MOST_PATTERNS,
        description="Patterns of files in the workspace that the agent may not change, add or delete: tests/**. One that begins "
        "with ! exempts files.",
    )
    baseline: bool = Field(
        default=False, description="Also run the command before the agent's first turn, and record what it found."
    )

    @model_validator(mode="before")
    @classmethod
    def _section(cls, section: Any) -> Any:
        if not isinstance(section, Mapping | CheckSection):
            raise ValueError("is a section: write command: [make, test] below it")
        return section

    @model_validator(mode="after")
    def _checks_something(self) -> "CheckSection":
        if self.command is not None and self.executor is not None:
            raise ValueError("has both command and executor: keep one of them")
        if self.command is None and self.executor is None and not self.requires and not self.protect:
            raise ValueError("checks nothing: write command: [make, test], executor, requires or protect")
        if self.baseline and self.command is None:
            raise ValueError("baseline is for a command, which runs once before the agent; there is none")
        return self

    @field_validator("command")
    @classmethod
    def _argv(cls, command: list[str] | None) -> list[str] | None:
        if command is not None and (not command[0].strip() or any("\0" in part for part in command)):
            raise ValueError("is not a command: write the program and its arguments as a list, [make, test]")
        return command

    @field_validator("requires")
    @classmethod
    def _once(cls, requires: list[str]) -> list[str]:
        if len(set(requires)) != len(requires):
            raise ValueError("names something twice")
        return requires

    @field_validator("protect")
    @classmethod
    def _patterns(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            plain = pattern.removeprefix("!")
            if not plain.strip() or "\0" in plain or len(plain) > PATTERN_CHARACTERS:
                raise ValueError(f"{pattern!r:.200} is not a pattern: write tests/**, *.lock, !tests/data/**")
            if plain.startswith(("/", "!", ":")) or ".." in plain.split("/"):
                raise ValueError(f"{pattern!r:.200} must count from the top of the workspace: tests/**, not /tests/**")
        if patterns and all(pattern.startswith("!") for pattern in patterns):
            raise ValueError("has only exemptions, so it protects nothing")
        return patterns

    @property
    def policy(self) -> CheckPolicy:
        return CheckPolicy(
            command=tuple(self.command or ()),
            executor=self.executor,
            seconds=self.seconds,
            rounds=self.rounds,
            requires=tuple(Requirement(name) for name in self.requires),
            protect=tuple(self.protect),
            baseline=self.baseline,
        )


def check_problems(at: str, section: CheckSection, kinds: Mapping[str, str], *, workspace: bool) -> Iterator[Finding]:
    """What cannot work. `kinds`: of all executors, by name."""
    for key in ("requires", "protect"):
        if getattr(section, key) and not workspace:
            what = "is about a workspace: add workspace: to the executor, or remove it"
            yield fail(what, subject=f"{at}.check.{key}")
    if section.executor is not None and section.executor not in kinds:
        known = ", ".join(kinds)
        yield fail(f"no executor {section.executor!r}; known: {known}", subject=f"{at}.check.executor")


def check_warnings(at: str, section: CheckSection, *, converses: bool) -> Iterator[Finding]:
    """What has no effect. `converses`: the executor's agent can be told what a check found."""
    if not converses and "rounds" in section.model_fields_set and section.rounds:
        what = "has no effect: a program cannot be told what the check found, so the first check decides"
        yield Finding(Level.WARN, what, subject=f"{at}.check.rounds")
