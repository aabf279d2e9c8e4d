"""turbo: an event-driven worker fleet for coding agents over PostgreSQL.

`from turbo import Client` (and `AsyncClient`, `NewTask`, …): the user's side of the queue. `Ask`: what a python handler raises
to ask a person. They are imported on first use: `import turbo` alone loads neither psycopg nor anything else.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # what type checkers know without the import of typing
if TYPE_CHECKING:
    from turbo.client.async_client import AsyncClient
    from turbo.client.budget import BudgetLine, BudgetRefused, MayNotBudget, UnknownBudget
    from turbo.client.client import Client
    from turbo.client.costs import CostLine, Costs, CostsBy, UnknownTimezone
    from turbo.client.graph import (
        Blocked,
        Dependents,
        Graph,
        GraphEdge,
        GraphNode,
        MessageLine,
        Refused,
        Related,
        Relations,
        Told,
    )
    from turbo.client.limit import KeyLimit, LimitRefused, MayNotLimit, UnknownLimit
    from turbo.client.models import (
        Action,
        AmbiguousTask,
        Changed,
        RunView,
        Submitted,
        TaskFilter,
        TaskLine,
        TaskRow,
        TaskStatus,
        UnknownTask,
    )
    from turbo.client.new_task import BadField, NewTask
    from turbo.client.questions import AnswerRefused, MayNotAnswer, NotWaiting, OpenQuestion
    from turbo.client.schedule import (
        MayNotSchedule,
        Schedule,
        ScheduleExists,
        ScheduleRefused,
        ScheduleTask,
        UnknownSchedule,
    )
    from turbo.client.subscription import (
        MayNotSubscribe,
        Subscription,
        SubscriptionExists,
        SubscriptionRefused,
        UnknownSubscription,
    )
    from turbo.client.transcript import TranscriptLine
    from turbo.domain.asking import Ask

__all__ = [
    "Action",
    "AmbiguousTask",
    "AnswerRefused",
    "Ask",
    "AsyncClient",
    "BadField",
    "Blocked",
    "BudgetLine",
    "BudgetRefused",
    "Changed",
    "Client",
    "CostLine",
    "Costs",
    "CostsBy",
    "Dependents",
    "Graph",
    "GraphEdge",
    "GraphNode",
    "KeyLimit",
    "LimitRefused",
    "MayNotAnswer",
    "MayNotBudget",
    "MayNotLimit",
    "MayNotSchedule",
    "MayNotSubscribe",
    "MessageLine",
    "NewTask",
    "NotWaiting",
    "OpenQuestion",
    "Refused",
    "Related",
    "Relations",
    "RunView",
    "Schedule",
    "ScheduleExists",
    "ScheduleRefused",
    "ScheduleTask",
    "Submitted",
    "Subscription",
    "SubscriptionExists",
    "SubscriptionRefused",
    "TaskFilter",
    "TaskLine",
    "TaskRow",
    "TaskStatus",
    "Told",
    "TranscriptLine",
    "UnknownBudget",
    "UnknownLimit",
    "UnknownSchedule",
    "UnknownSubscription",
    "UnknownTask",
    "UnknownTimezone",
    "__version__",
]

_HOMES = {
    "Ask": "turbo.domain.asking",
    "AsyncClient": "turbo.client.async_client",
    "Client": "turbo.client.client",
    "BadField": "turbo.client.new_task",
    "NewTask": "turbo.client.new_task",
    **dict.fromkeys(
        (
            "Blocked",
            "Dependents",
            "Graph",
            "GraphEdge",
            "GraphNode",
            "MessageLine",
            "Refused",
            "Related",
            "Relations",
            "Told",
        ),
        "turbo.client.graph",
    ),
    **dict.fromkeys(("BudgetLine", "BudgetRefused", "MayNotBudget", "UnknownBudget"), "turbo.client.budget"),
    **dict.fromkeys(("KeyLimit", "LimitRefused", "MayNotLimit", "UnknownLimit"), "turbo.client.limit"),
    **dict.fromkeys(("CostLine", "Costs", "CostsBy", "UnknownTimezone"), "turbo.client.costs"),
    "TranscriptLine": "turbo.client.transcript",
    **dict.fromkeys(("AnswerRefused", "MayNotAnswer", "NotWaiting", "OpenQuestion"), "turbo.client.questions"),
    **dict.fromkeys(
        ("MayNotSchedule", "Schedule", "ScheduleExists", "ScheduleRefused", "ScheduleTask", "UnknownSchedule"),
        "turbo.client.schedule",
    ),
    **dict.fromkeys(
        ("MayNotSubscribe", "Subscription", "SubscriptionExists", "SubscriptionRefused", "UnknownSubscription"),
        "turbo.client.subscription",
    ),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'turbo' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "turbo.client.models")), name)
