"""What runs have used and no run has reported yet, as the state of a task's checks keeps it.

What is written can be read: numbers and names are brought within bounds before, and many models become one of the name OTHER.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from turbo.domain.outcome import MOST_TOKENS, MOST_USD, ModelUsage, added
from turbo.host import json_file

MOST_KEPT = 100
"""Models, each counted once for every executor and account."""

OTHER = "other"
NAME_CHARACTERS = 200


def documents(usage: Sequence[ModelUsage]) -> list[dict[str, object]]:
    """At most MOST_KEPT objects for JSON. Nothing that was used is left out."""
    return [asdict(_within(used)) for used in _few(tuple(_within(used) for used in usage))]


def usage_in(documents: Sequence[Any]) -> tuple[ModelUsage, ...]:
    """Raises ValueError for what `documents` does not make."""
    if len(documents) > MOST_KEPT:
        raise ValueError(f"usage has more than {MOST_KEPT} entries")
    return tuple(_used(one) for one in documents)


def _few(usage: tuple[ModelUsage, ...]) -> tuple[ModelUsage, ...]:
    if len(usage) <= MOST_KEPT:
        return usage
    kept = usage[: MOST_KEPT // 2]
    others = added(tuple(replace(used, model=OTHER) for used in usage[len(kept) :]))
    if len(others) > MOST_KEPT // 2:
        others = added(tuple(replace(used, executor=None, account=None) for used in others))
    return added(kept, others)


def _within(used: ModelUsage) -> ModelUsage:
    return replace(
        used.bounded(),
        model=used.model[:NAME_CHARACTERS],
        executor=None if used.executor is None else used.executor[:NAME_CHARACTERS],
        account=None if used.account is None else used.account[:NAME_CHARACTERS],
    )


def _used(fields: Any) -> ModelUsage:
    if not isinstance(fields, dict):
        raise ValueError("usage is not an object")

    def tokens(kind: str) -> int:
        return json_file.whole(fields, f"{kind}_tokens", 0, MOST_TOKENS)

    def name(key: str) -> str | None:
        return None if fields.get(key) is None else json_file.text(fields, key)[:NAME_CHARACTERS]

    return ModelUsage(
        model=json_file.text(fields, "model")[:NAME_CHARACTERS],
        input_tokens=tokens("input"),
        output_tokens=tokens("output"),
        cache_read_tokens=tokens("cache_read"),
        cache_write_tokens=tokens("cache_write"),
        cost_usd=None if fields.get("cost_usd") is None else json_file.real(fields, "cost_usd", 0.0, MOST_USD),
        executor=name("executor"),
        account=name("account"),
    )
