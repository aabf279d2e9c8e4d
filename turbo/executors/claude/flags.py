"""The CLI's flags that come from worker.yaml, for runs that may ask a person and for those that may not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from turbo.domain.question import AskPolicy
from turbo.executors.agent.desk import PLAN_TOOL, PLAN_TOOLS, HoldsCalls
from turbo.executors.claude.control import settings

_CHANNEL_FLAGS = ("--permission-prompt-tool", "--permission-prompts", "--input-format")
"""turbo sets these, or they take back what it sets."""

LEAST_USD = 0.000001
"""The CLI checks its budget after an answer, so one that is used up ends with the first."""

_HOOKLESS = ("--bare", "--safe-mode")


@dataclass(frozen=True, slots=True)
class Flags:
    """`permission_mode`: the CLI's; None: its own default."""

    permission_mode: str | None = None
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    max_turns: int | None = None
    max_budget_usd: float | None = None

    def within(self, usd_left: float | None) -> "Flags":
        """`usd_left`: what is left of the budgets that cover the run, in US dollars; None: no limit."""
        if usd_left is None or (self.max_budget_usd is not None and self.max_budget_usd <= usd_left):
            return self
        return replace(self, max_budget_usd=max(usd_left, LEAST_USD))

    def with_budget_left(self, spent: float) -> "Flags":
        """`spent`: US dollars, by earlier calls of the run. The CLI counts those of one call only, and refuses none at all."""
        if self.max_budget_usd is None or not spent:
            return self
        return replace(self, max_budget_usd=max(self.max_budget_usd - spent, LEAST_USD))

    def plain(self) -> tuple[str, ...]:
        """For a run that asks nothing."""
        return self._words(self.permission_mode, self.disallowed_tools)

    def asking(self, policy: AskPolicy, *, holds: bool, gate: str | None, planned: bool) -> tuple[str, ...]:
        """For a run with a control channel. `holds`: calls are held, by a rule of today or of an earlier run. `gate`: see
        control.py. `planned`: a person was shown a plan, so the session is in plan mode, which the configured mode would end
        before the answer comes.
        """
        plan_tools = () if PLAN_TOOL in policy.approve else PLAN_TOOLS
        # With a host that denies whatever would be asked, `default` does what `dontAsk` does, and lets questions through.
        mode = "default" if self.permission_mode == "dontAsk" else self.permission_mode
        words = self._words("plan" if planned and not plan_tools else mode, (*self.disallowed_tools, *plan_tools))
        return (*words, "--settings", settings(policy.approve, gate)) if holds else words

    def _words(self, permission_mode: str | None, disallowed_tools: Sequence[str]) -> tuple[str, ...]:
        words: list[str] = []
        if permission_mode:
            words += ["--permission-mode", permission_mode]
        if self.allowed_tools:
            words += ["--allowedTools", *self.allowed_tools]
        if disallowed_tools:
            words += ["--disallowedTools", *disallowed_tools]
        if self.max_turns is not None:
            words += ["--max-turns", str(self.max_turns)]
        if self.max_budget_usd is not None:
            words += ["--max-budget-usd", f"{self.max_budget_usd:f}"]
        return tuple(words)


def flags_of(command: Sequence[str]) -> list[str]:
    """The operator's own flags and their values, one a word."""
    return [part for word in command[1:] for part in (word.split("=", 1) if word.startswith("--") else [word])]


def check_asking(
    name: str, command: Sequence[str], policy: AskPolicy, permission_mode: str | None, held: HoldsCalls | None
) -> None:
    """Raises ValueError where `ask` could not be kept. With `approve`, that would let calls through."""
    words = flags_of(command)
    for flag in _CHANNEL_FLAGS:
        if flag in words:
            raise ValueError(f"executor {name}: {flag} in command does not go with ask, which uses the same channel")
    if not policy.approve:
        return
    if held is None:
        raise ValueError(f"executor {name}: ask.approve needs rules that hold calls")
    if permission_mode == "dontAsk" or ("--permission-mode", "dontAsk") in pairwise(words):
        raise ValueError(
            f"executor {name}: permission_mode dontAsk does not go with ask.approve: it would refuse what a person has "
            "approved; without it, turbo refuses every call that is neither allowed nor approved"
        )
    for flag in (*_HOOKLESS, "--settings"):
        if flag in words:
            raise ValueError(
                f"executor {name}: {flag} in command does not go with ask.approve, which needs the CLI's hooks and passes "
                "--settings itself; put settings into ~/.claude/settings.json"
            )
