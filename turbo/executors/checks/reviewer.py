"""A second agent reviews the work: it reads the task, the answer and the changes, and says whether they pass.

    task, answer, diff ──▶ an agent that can only read ──{pass, why}──▶ passed | rejected, and why
        └── no verdict: its login, its limit, its service, or it has not answered: nothing is said about the work

What does not come to a verdict is not the fault of the agent whose work it was: the task goes back, and comes to the review again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from turbo.domain.check import WHY_CHARACTERS, CheckResult, cut_at_start
from turbo.domain.outcome import ModelUsage, Outcome
from turbo.domain.run import Run
from turbo.executors.checks.judge import Delivery, Judgement, NotMade
from turbo.executors.checks.review_prompt import review_prompt
from turbo.executors.checks.workspace import examined

DIFF_BYTES = 128 * 1024

MOST_RESTS = 10
"""In a row, without a verdict: each review costs money, and what keeps it from one may be its own settings."""


@dataclass(frozen=True, slots=True)
class Review:
    """What is to be reviewed: `prompt` for the agent, in `directory`. `log_path`: for what its CLI prints. `seconds`: its time.
    `used`: by the run so far."""

    run: Run
    directory: Path
    prompt: str
    log_path: Path
    seconds: float
    progress: Callable[[str], None]
    used: tuple[ModelUsage, ...] = ()


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A verdict. `log`: the file with all that the agent said."""

    passed: bool
    why: str
    usage: tuple[ModelUsage, ...] = ()
    log: str | None = None


class ReviewingAgent(Protocol):
    """An agent that can only read. `account`: whose login it uses, which is the name of a breaker."""

    name: str
    account: str

    async def review(self, review: Review) -> Reviewed | NotMade | Outcome:
        """Its verdict, or why there is none; an Outcome names its account. Never raises for what its agent did; raises OSError."""
        ...

    def missing(self) -> str | None:
        """Why it could review nothing on this host now, or None."""
        ...


class ReviewerJudge:
    """`seconds`: how long a review may take."""

    def __init__(self, reviewer: ReviewingAgent, *, seconds: float) -> None:
        self._reviewer = reviewer
        self._seconds = seconds

    @property
    def account(self) -> str:
        """Whose login the reviews use."""
        return self._reviewer.account

    async def judge(self, delivery: Delivery) -> Judgement | NotMade | Outcome:
        """See `Judge`."""
        name = self._reviewer.name
        delivery.progress(name)
        diff = None
        if delivery.workspace is not None:
            seen = await examined(delivery, CheckResult.REJECTED, delivery.workspace.diff(DIFF_BYTES))
            if isinstance(seen, Judgement | Outcome):
                return seen
            diff = seen
        earlier = await delivery.run.messages.earlier() if delivery.run.messages is not None else ()
        found = await self._reviewer.review(
            Review(
                delivery.run,
                delivery.directory,
                review_prompt(delivery.run, delivery.outcome.output, diff, earlier),
                delivery.log_path,
                self._seconds,
                lambda text: delivery.progress(f"{name}: {text}" if text else name),
                delivery.used,
            )
        )
        if isinstance(found, NotMade):
            return replace(found, account=self.account, most=MOST_RESTS)
        if isinstance(found, Outcome):
            return replace(found, session_id=None)
        if found.passed:
            return Judgement(by=name, usage=found.usage, log=found.log)
        short = found.why[:WHY_CHARACTERS] or "the reviewer gave no reason"
        whole = cut_at_start(found.why) if len(found.why) > len(short) else ""
        return Judgement(CheckResult.REJECTED, short, output=whole, by=name, usage=found.usage, log=found.log)

    def missing(self) -> str | None:
        """See `Judge`."""
        why = self._reviewer.missing()
        return None if why is None else f"reviewer {self._reviewer.name}: {why}"
