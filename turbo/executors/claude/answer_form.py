"""An agent that answers in JSON: by a tool of the CLI, or as its last message (turbo.executors.claude.structured says which)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.executors.checks.judge import UNFIT
from turbo.executors.claude.ended import EndedRun

TOOL = "StructuredOutput"
FLAG = "--json-schema"
REFUSED = "error_max_structured_output_retries"
"""The subtype of the result when the CLI has refused five answers."""

WORDS_CHARACTERS = 1500


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What makes an agent answer in JSON: `flags` for its CLI, `words` for its prompt, in place of asking for an account. Without
    words it answers in text."""

    flags: tuple[str, ...] = ()
    words: str = ""

    def of(self, ended: EndedRun, outcome: Outcome) -> Outcome:
        """The outcome of a turn, with the answer as the agent has given it, or with why its CLI took none."""
        if not self.words or ended.result is None:
            return outcome
        if outcome.kind is OutcomeKind.SUCCEEDED and ended.result.structured is not None:
            return replace(outcome, output=ended.result.structured, truncated=False)
        if ended.result.subtype == REFUSED:
            return Outcome(OutcomeKind.SUCCEEDED, extra={UNFIT: ended.text.strip()[:WORDS_CHARACTERS]})
        return outcome


IN_TEXT = AnswerForm()


def tool_is_barred(disallowed_tools: Sequence[str], flags: Sequence[str]) -> bool:
    """Whether the operator's rules keep the agent from the tool. `flags`: the words of the executor's own command."""
    named = [
        rule.partition("(")[0].strip() for word in (*disallowed_tools, *_denied(flags)) for rule in word.split(",")
    ]
    return any(name in ("*", TOOL) for name in named)


def _denied(flags: Sequence[str]) -> Iterator[str]:
    denies = False
    for word in flags:
        if word.startswith("--"):
            denies = word in ("--disallowedTools", "--disallowed-tools")
        elif denies:
            yield from word.split()
