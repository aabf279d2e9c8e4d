"""The section `ask:` of an executor: whether its runs may ask a person, and what happens until somebody answers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from turbo.config.loader import LONGEST_SECONDS, Real, Section
from turbo.domain.finding import Finding, fail
from turbo.domain.question import AskPolicy, Then

MOST_RULES = 200


class AskSection(Section):
    """Runs may ask a person. The run ends, and its task waits without a slot until somebody answers."""

    questions: bool = Field(default=True, description="The agent, program or handler may ask questions.")
    approve: list[str] = Field(
        default=[],
        max_length=MOST_RULES,
        description="Permission rules, such as `Bash(git push *)`: a person must approve the calls that they match. For kind: claude.",
    )
    within_seconds: Annotated[Real, Field(gt=0, le=LONGEST_SECONDS)] | None = Field(
        default=None, description="How long an answer is waited for. null: for ever."
    )
    then: Literal["proceed", "fail"] = Field(
        default="proceed",
        description="When nobody has answered in time: go on without an answer (an approval is denied), or fail the task.",
    )
    remind_seconds: Annotated[Real, Field(ge=1, le=LONGEST_SECONDS)] | None = Field(
        default=None, description="Write `reminded` into the audit trail, again and again after this long. null: never."
    )

    @model_validator(mode="before")
    @classmethod
    def _not_a_flag(cls, section: Any) -> Any:
        if not isinstance(section, Mapping | AskSection):
            raise ValueError("is a section: write ask: {} for its defaults, or leave it out to deny questions")
        return section

    @model_validator(mode="after")
    def _fails_some_day(self) -> "AskSection":
        if self.then == "fail" and self.within_seconds is None:
            raise ValueError("then: fail needs within_seconds: without it, an answer is waited for for ever")
        return self

    @field_validator("approve")
    @classmethod
    def _rules(cls, rules: list[str]) -> list[str]:
        if any(not rule.strip() for rule in rules):
            raise ValueError("contains an empty rule")
        return rules

    @property
    def policy(self) -> AskPolicy:
        return AskPolicy(self.questions, tuple(self.approve), self.within_seconds, Then(self.then), self.remind_seconds)


def without_approvals(at: str, name: str, kind: str, section: AskSection | None) -> Iterator[Finding]:
    """For an executor that can neither hold a call of a tool nor go on with it."""
    if section is not None and section.approve:
        yield fail(
            f"executor {name} (kind: {kind}) cannot hold a call until a person approves it; only kind: claude can",
            subject=f"{at}.ask.approve",
        )


def with_permission_mode(
    at: str, name: str, section: AskSection | None, mode: str | None, command: Sequence[str]
) -> Iterator[Finding]:
    """For the Claude CLI, which refuses in the mode dontAsk what a person has approved. `command` may name the mode, too."""
    if section is None or not section.approve:
        return
    flags = [b if a == "--permission-mode" else a.removeprefix("--permission-mode=") for a, b in _with_next(command)]
    if mode == "dontAsk" or "dontAsk" in flags:
        yield fail(
            f"executor {name} has permission_mode dontAsk, which refuses what a person has approved; choose another mode: turbo "
            "refuses every call that is neither allowed nor approved",
            subject=f"{at}.ask.approve",
        )


def _with_next(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield from zip(words, [*words[1:], ""], strict=True)
