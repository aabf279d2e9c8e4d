"""docs/metrics.md is held against the code; labels stay bounded; promtool likes the page."""

import re
import subprocess
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest

from tests.support.requirements import require
from turbo.observability.metrics import Metrics

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


def busy_metrics() -> Metrics:
    metrics = Metrics()
    metrics.claims.labels("default", "claimed").inc()
    metrics.duration.labels("default", "x", "succeeded").observe(3)
    metrics.fleet.replace(
        [
            {"what": "served", "label": "default", "state": None, "value": 1},
            {"what": "tasks", "label": "default", "state": "pending", "value": 4},
            *({"what": "tasks", "label": f"invented-{i}", "state": "pending", "value": 1} for i in range(1000)),
            {"what": "oldest", "label": "invented-1", "state": None, "value": 77},
            {"what": "workers", "label": None, "state": "up", "value": 3},
            {"what": "notify", "label": None, "state": None, "value": 0.5},
            {"what": "transaction", "label": None, "state": None, "value": 12.5},
        ]
    )
    return metrics


def test_page_lists_exactly_these_metrics_types_and_labels():
    documented = {}
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", PAGE, re.M):
        plain = re.sub(r"\([^)]*\)", "", labels)
        documented[name] = (kind, {label.strip() for label in plain.split(",") if label.strip()})
    found = {}
    for collector in set(Metrics().registry._collector_to_names):  # type: ignore[arg-type]
        for family in collector.describe() if hasattr(collector, "describe") else collector.collect():
            if family.name.startswith("process_"):  # the library's own; the page names them together
                continue
            its_labels: Any = getattr(family, "_labelnames", None) or getattr(collector, "_labelnames", ())
            found[family.name + ("_total" if family.type == "counter" else "")] = (family.type, set(its_labels))
    assert documented == found


def test_unserved_queues_are_counted_together():
    text = generate_latest(busy_metrics().registry).decode()
    assert 'turbo_queue_tasks{queue="other",status="pending"} 1000.0' in text
    assert 'turbo_queue_oldest_runnable_age_seconds{queue="other"} 77.0' in text
    assert "invented" not in text


def test_promtool_has_no_complaints():
    promtool = require("promtool")
    page = generate_latest(busy_metrics().registry)
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
