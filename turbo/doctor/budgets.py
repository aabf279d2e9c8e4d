"""Do budgets hold, and can they ever be spent?"""

from collections.abc import Collection, Mapping
from typing import Any

from turbo.client.budget_status import BUDGETS_LISTED, budget_troubles, findings
from turbo.config.executors import CodexSection, CopilotSection, ExecutorSection
from turbo.config.worker import WorkerConfig
from turbo.doctor.check import Check
from turbo.doctor.session import Session
from turbo.domain.finding import Finding, fail, ok, warn
from turbo.domain.type_filter import executors_of

COSTLESS = frozenset({"command", "python"})
"""Kinds of executors that report no cost, and no tokens that a price could be for."""


def checks(session: Session, config: WorkerConfig | None) -> list[Check]:
    return [Check("budgets", lambda: _budgets(session, config), ("schema",))]


def _budgets(session: Session, config: WorkerConfig | None) -> Finding:
    rows = session.rows("budgets")
    if config is not None and (costless := [row["name"] for row in rows if never_spent(row, config)]):
        return fail(
            f"budget {costless[0]} is in US dollars, and the executors of this worker that it covers report no cost",
            "limit its runs: turbo budget set NAME --runs N",
        )
    found = findings(budget_troubles(session.statement("status/budgets", {"limit": BUDGETS_LISTED})), 0)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        return warn(f"{found[0].what}{more}", found[0].do or "turbo budget list")
    return ok(f"{len(rows)} budget{'s' if len(rows) != 1 else ''}" if rows else "there are no budgets")


def never_spent(budget: Mapping[str, Any], config: WorkerConfig) -> bool:
    """Whether a budget has a limit in US dollars alone, and covers executors of this worker, of which none reports a cost."""
    if not budget["only_usd"] or budget["queue"] not in (None, *config.worker.queues):
        return False
    if budget["task_type"] is None and budget["account"] is None:
        return False  # it may be meant for the executors of other workers
    routes = config.executors_by_type
    by_type = routes if budget["task_type"] is None else {"": executors_of(routes, budget["task_type"])}
    covered = [
        section
        for name in {name for route in by_type.values() for name in route}
        if (section := config.executors.get(name)) is not None
        and budget["account"] in (None, getattr(section, "account", None))
    ]
    return bool(covered) and all(_costless(section, config.prices) for section in covered)


def _costless(section: ExecutorSection, prices: Collection[str]) -> bool:
    """Whether no run of it has a cost: none is reported, and its model has no price."""
    if isinstance(section, CodexSection | CopilotSection):
        models = [model for model in (section.model, *section.fallback_models) if model is not None]
        return not any(model in prices for model in models) if models else not prices
    return section.kind in COSTLESS
