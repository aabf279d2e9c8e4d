"""What a run used, as the ledger `agent_usage` keeps it, and what that costs where the agent does not say."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from turbo.domain.outcome import ModelUsage, added
from turbo.domain.task import Task

NAME_BYTES = 200
"""Of an executor, an account or a model in the ledger: together with the longest task id they fit its index."""

MOST_ATTEMPTS = 2**31 - 1

PER = 1_000_000
"""Prices are for a million tokens."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens of each kind."""

    input: float
    output: float
    cache_read: float
    cache_write: float

    def of(self, usage: ModelUsage) -> float:
        """US dollars."""
        parts = (
            self.input * usage.input_tokens,
            self.output * usage.output_tokens,
            self.cache_read * usage.cache_read_tokens,
            self.cache_write * usage.cache_write_tokens,
        )
        return sum(parts) / PER


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of models, by name."""

    by_model: Mapping[str, Price] = field(default_factory=dict)

    def fill(self, usage: tuple[ModelUsage, ...]) -> tuple[ModelUsage, ...]:
        """The same, with a cost wherever the agent reported none and the model has a price."""
        return tuple(self._filled(one) for one in usage) if self.by_model else usage

    def _filled(self, usage: ModelUsage) -> ModelUsage:
        price = self.by_model.get(usage.model)
        return usage if usage.cost_usd is not None or price is None else replace(usage, cost_usd=price.of(usage))


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One row of `agent_usage`: what one run of a task used of one model, through one executor and account ('' for none).

    `input_tokens` are without cache reads. `cost_usd` None: not known."""

    task_id: str
    fencing_token: int
    executor: str
    account: str
    model: str
    attempt: int
    queue: str
    task_type: str
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float | None = None


NOTED_CHARACTERS = 4096
"""Of the texts of a MeteredRun: longer ones are not noted, and what such a run used is missing if its worker is killed."""


@dataclass(frozen=True, slots=True)
class MeteredRun:
    """What the journal notes of a program that reports its usage, for the case that its worker is killed (turbo.worker.killed_runs).

    `log`: the name of its log, beside the task's others. There the program's output begins at byte `begin`."""

    task_id: str
    fencing_token: int
    attempt: int
    queue: str
    task_type: str
    executor: str
    account: str
    log: str
    begin: int

    @classmethod
    def of(cls, task: Task, executor: str, account: str, log: str, begin: int) -> "MeteredRun | None":
        """None for what is no task's, or too long to be noted."""
        texts = (task.task_id, task.queue, task.task_type, executor, account, log)
        if not task.task_id or sum(map(len, texts)) > NOTED_CHARACTERS:
            return None
        attempt = max(0, min(task.attempt, MOST_ATTEMPTS))
        return cls(task.task_id, task.fencing_token, attempt, task.queue, task.task_type, executor, account, log, begin)


def usage_rows(
    task: Task | MeteredRun, executor: str, account: str | None, usage: Iterable[ModelUsage]
) -> tuple[UsageRow, ...]:
    """The rows of one run, a row for each executor, account and model. `executor` and `account` are the run's own: usage that
    names none is theirs."""
    attempt = max(0, min(task.attempt, MOST_ATTEMPTS))
    named = []
    for one in usage:
        whose, login = (executor, account) if one.executor is None else (one.executor, one.account)
        named.append(
            replace(one, executor=cut_name(whose), account=cut_name(login or ""), model=cut_name(one.model)),
        )
    return tuple(
        UsageRow(
            task.task_id,
            task.fencing_token,
            executor=used.executor or "",
            account=used.account or "",
            model=used.model,
            attempt=attempt,
            queue=task.queue,
            task_type=task.task_type,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            cache_read_tokens=used.cache_read_tokens,
            cache_write_tokens=used.cache_write_tokens,
            cost_usd=used.cost_usd,
        )
        for used in (total.bounded() for total in added(tuple(named)))
    )


Spent = tuple[str, float]
"""An account ('' for none), and US dollars."""


def spent_by_account(account: str | None, usage: Iterable[ModelUsage]) -> tuple[Spent, ...]:
    """What a run has spent, as far as it is known. `account`: the run's own."""
    return tuple(((account if one.executor is None else one.account) or "", one.cost_usd or 0.0) for one in usage)


def cut_name(name: str) -> str:
    """`name` in at most NAME_BYTES of UTF-8."""
    if len(name) * 4 <= NAME_BYTES:
        return name
    return name.encode("utf-8", "replace")[:NAME_BYTES].decode("utf-8", "ignore")
