"""What a run used, by model: as the Claude CLI reports it, and added up."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from turbo.domain.outcome import MOST_TOKENS, MOST_USD, ModelUsage, sum_costs
from turbo.executors.agent import fields
from turbo.executors.agent.fields import NAME_CHARACTERS

MOST_MODELS = 20
"""Of one run. A model is a label of the metrics; what the others used is counted as OTHER_MODELS."""

OTHER_MODELS = "other"


def by_model(usage: Mapping[str, Any]) -> dict[str, ModelUsage]:
    return {
        model: ModelUsage(
            model=model,
            input_tokens=fields.tokens(used, "inputTokens"),
            output_tokens=fields.tokens(used, "outputTokens"),
            cache_read_tokens=fields.tokens(used, "cacheReadInputTokens"),
            cache_write_tokens=fields.tokens(used, "cacheCreationInputTokens"),
            cost_usd=None if (cost := fields.number(used, "costUSD")) is None else min(cost, MOST_USD),
        )
        for model, used in itertools.islice(usage.items(), MOST_MODELS - 1)
        if isinstance(used, dict) and len(model) <= NAME_CHARACTERS
    }


def add(usage: dict[str, ModelUsage], model: str, added: ModelUsage) -> None:
    """Add what was used of a model; from MOST_MODELS on, as of OTHER_MODELS."""
    name = model if model in usage or len(usage) < MOST_MODELS - 1 else OTHER_MODELS
    known = usage.get(name)
    usage[name] = replace(added, model=name) if known is None else _sum(known, added)


def difference(now: ModelUsage, before: ModelUsage) -> ModelUsage:
    return ModelUsage(
        now.model,
        now.input_tokens - before.input_tokens,
        now.output_tokens - before.output_tokens,
        now.cache_read_tokens - before.cache_read_tokens,
        now.cache_write_tokens - before.cache_write_tokens,
    )


def _sum(left: ModelUsage, right: ModelUsage) -> ModelUsage:
    return replace(
        left,
        input_tokens=min(left.input_tokens + right.input_tokens, MOST_TOKENS),
        output_tokens=min(left.output_tokens + right.output_tokens, MOST_TOKENS),
        cache_read_tokens=min(left.cache_read_tokens + right.cache_read_tokens, MOST_TOKENS),
        cache_write_tokens=min(left.cache_write_tokens + right.cache_write_tokens, MOST_TOKENS),
        cost_usd=None if (cost := sum_costs(left.cost_usd, right.cost_usd)) is None else min(cost, MOST_USD),
    )
