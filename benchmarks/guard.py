"""`python -m benchmarks --check`: has turbo become worse than in the last recorded run?

Only ratios are compared: both of their sides were measured in one run, on one machine. A ratio may be worse by SLACK, or by the
spread of its row in either run, whichever is more: on two noisy cores less is no news.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.bench import Table

SPREAD = "spread"
SLACK = 0.15
"""As a share of the recorded ratio."""


def worse(recorded: Mapping[str, Any] | None, table: Table) -> list[str]:
    """A line for each ratio of turbo that is worse than in `recorded`, a measure of results.json; None: it was never recorded."""
    if recorded is None:
        return []
    before = dict(recorded["rows"])
    beside_peers = any(who.startswith("turbo") for who, _ in table.rows)
    lines = []
    for who, figures in table.rows:
        known = before.get(who)
        if known is None or (beside_peers and not who.startswith("turbo")):
            continue
        noise = max([SLACK, *(row[name] for row in (figures, known) for name in row if name.startswith(SPREAD))])
        for column in table.columns:
            if column not in figures or column not in known:
                continue
            now, then = figures[column], known[column]
            fell = column in table.more_is_better and now < then / (1 + noise)
            rose = column in table.less_is_better and now > then * (1 + noise)
            if fell or rose:
                lines.append(f"{table.title}: {who}: {column} is {now:.2f}, and was {then:.2f} on {recorded['when']}")
    return lines
