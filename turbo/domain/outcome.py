"""How one run ended: a closed type, decided by the executor, read by everything after it.

`OutcomeKind` is also the label `outcome` of the metrics and `detail.outcome` of the audit trail; `FailureKind` is
`agent_tasks.failure_kind` and the label `reason` of `turbo_retries_total`.
"""

import math
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum

from turbo.domain.check import Checked
from turbo.domain.kept import Kept
from turbo.domain.question import Asked


class OutcomeKind(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # counts as an attempt
    TIMED_OUT = "timed_out"  # wall clock or silence; counts as an attempt
    CANCELLED = "cancelled"  # ended on request: a cancel, a hand edit, a drain, a lost lease
    AUTH_FAILED = "auth_failed"  # uncounted
    USAGE_LIMITED = "usage_limited"  # uncounted; `resets_at`: until when
    UNAVAILABLE = "unavailable"  # a service, a remote or a repository is away or overloaded; uncounted
    INFRASTRUCTURE = "infrastructure"  # uncounted, except towards the poison cap
    ASKED = "asked"  # a person is asked; uncounted. The answer goes to the next run


class FailureKind(StrEnum):
    ERROR = "error"
    TIMED_OUT = "timed_out"
    SILENT = "silent"
    NO_ROUTE = "no_route"
    POISON = "poison"
    AUTH = "auth"
    USAGE_LIMIT = "usage_limit"
    UNAVAILABLE = "unavailable"
    INFRASTRUCTURE = "infrastructure"
    REFUSED = "refused"
    MAX_TURNS = "max_turns"
    BUDGET = "budget"
    BAD_REQUEST = "bad_request"
    UNANSWERED = "unanswered"  # nobody answered in time, or it asked too often
    NEEDS = "needs"  # a task that it needs did not complete; only of cancelled tasks
    UNVERIFIED = "unverified"  # its check did not pass, and no round is left


MOST_TOKENS, MOST_USD = 10**12, 1e6
"""What one run can use of a model, of each kind of tokens and in US dollars: more counts as that much, so that sums fit a bigint."""


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What one model used in one run. Tokens are counts, `input_tokens` those that were not read from a cache. `cost_usd` is in US
    dollars, as the CLI reported it, or from the prices of worker.yaml; None: not known. `executor` and `account`: who used it, if
    that is not the run's own executor; None: it is."""

    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float | None = None
    executor: str | None = None
    account: str | None = None

    def document(self) -> dict[str, object]:
        """As `output_data.usage` has it."""
        return {k: v for k, v in asdict(self).items() if v is not None or k not in ("executor", "account")}

    def bounded(self) -> "ModelUsage":
        """The same, with no less than nothing, and no more than MOST_TOKENS and MOST_USD."""

        def tokens(count: int) -> int:
            return min(max(count, 0), MOST_TOKENS)

        cost = self.cost_usd
        return replace(
            self,
            input_tokens=tokens(self.input_tokens),
            output_tokens=tokens(self.output_tokens),
            cache_read_tokens=tokens(self.cache_read_tokens),
            cache_write_tokens=tokens(self.cache_write_tokens),
            cost_usd=None if cost is None or math.isnan(cost) else min(max(cost, 0.0), MOST_USD),
        )


def added(*usages: tuple[ModelUsage, ...]) -> tuple[ModelUsage, ...]:
    """What several calls have used, by model and by whose it is, in the order in which these first came."""
    total: dict[tuple[str, str | None, str | None], ModelUsage] = {}
    for one in (used for usage in usages for used in usage):
        whose = (one.model, one.executor, one.account)
        known = total.get(whose)
        total[whose] = one if known is None else _sum(known, one)
    return tuple(total.values())


def _sum(a: ModelUsage, b: ModelUsage) -> ModelUsage:
    return replace(
        a,
        input_tokens=a.input_tokens + b.input_tokens,
        output_tokens=a.output_tokens + b.output_tokens,
        cache_read_tokens=a.cache_read_tokens + b.cache_read_tokens,
        cache_write_tokens=a.cache_write_tokens + b.cache_write_tokens,
        cost_usd=sum_costs(a.cost_usd, b.cost_usd),
    )


def sum_costs(left: float | None, right: float | None) -> float | None:
    """What is known of both."""
    return right if left is None else left if right is None else left + right


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one run.

    `output` is any JSON value (it becomes `output_data.output`); `error` is text for a person, shown in
    `error_message`; `final` means that a further attempt cannot help (bad request, no route): it fails at once.
    `uncounted` means that the task goes back as it was, because its account is paused for the same reason.
    `session_id` is the agent's session, to be resumed by a retry; '' forbids that, None leaves it open.
    `resets_at` is Unix seconds. `needs_credits`: the limit ends only when somebody pays. `limited_model`: the limit is one of this
    family of models; None: of all. `account` names whose login, limit or service it was; None: the executor's own. `away` names
    what is unavailable (turbo.domain.dependency); None: the service of that account. `rest_seconds`: of a kind `unavailable` that
    is `uncounted`: there is nothing to probe, so the task itself rests that long. `asked` is what the kind `asked` asks. `portable`:
    another host can have the directory as the run has left it; None: its executor goes on nowhere else. `kept`: files to store before
    the result is. `extra` is merged into `output_data` beside `output` (a workspace, turns).
    """

    kind: OutcomeKind
    output: object = None
    error: str | None = None
    failure_kind: FailureKind | None = None
    final: bool = False
    uncounted: bool = False
    truncated: bool = False
    session_id: str | None = None
    usage: tuple[ModelUsage, ...] = ()
    resets_at: float | None = None
    needs_credits: bool = False
    limited_model: str | None = None
    account: str | None = None
    away: str | None = None
    rest_seconds: float | None = None
    log: str | None = None
    asked: Asked | None = None
    checked: Checked | None = None
    portable: bool | None = None
    kept: Kept | None = None
    extra: dict[str, object] = field(default_factory=dict)

    @classmethod
    def succeeded(cls, output: object = None, *, truncated: bool = False) -> "Outcome":
        return cls(OutcomeKind.SUCCEEDED, output=output, truncated=truncated)

    @classmethod
    def failed(cls, error: str, kind: FailureKind = FailureKind.ERROR, *, final: bool = False) -> "Outcome":
        return cls(OutcomeKind.FAILED, error=error, failure_kind=kind, final=final)

    @classmethod
    def unavailable(cls, error: str, away: str | None = None) -> "Outcome":
        return cls(OutcomeKind.UNAVAILABLE, error=error, failure_kind=FailureKind.UNAVAILABLE, away=away)

    @classmethod
    def asks(cls, asked: Asked, *, session_id: str | None = None) -> "Outcome":
        return cls(OutcomeKind.ASKED, asked=asked, session_id=session_id)

    @classmethod
    def infrastructure(cls, error: str) -> "Outcome":
        return cls(OutcomeKind.INFRASTRUCTURE, error=error, failure_kind=FailureKind.INFRASTRUCTURE)


Probe = Callable[[], Awaitable[Outcome]]
"""One minimal real call: succeeded, auth_failed, usage_limited or unavailable; anything else means "cannot tell"."""
