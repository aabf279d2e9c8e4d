"""Makes the courier of a worker from its configuration."""

from collections.abc import Callable, Iterable
from pathlib import Path

from turbo.config.worker import WorkerConfig
from turbo.db.lane import Lane
from turbo.db.subscription_store import SubscriptionStore
from turbo.domain.redact_patterns import bounded_patterns
from turbo.domain.redaction import Redactor
from turbo.events.courier import EventCourier
from turbo.events.delivery import LEASE_SECONDS
from turbo.events.targets import build_targets
from turbo.observability.metrics import Metrics
from turbo.process.journal import Journal


def build_courier(
    config: WorkerConfig,
    lane: Lane,
    worker_id: str,
    metrics: Metrics,
    journal: Journal,
    logs: Path,
    own_secrets: Callable[[], Iterable[str]],
) -> EventCourier:
    """`lane` is for the courier alone, and opened only if there are targets. `logs`: for what commands print. `own_secrets`: the
    worker's, as they are now; none of them leaves in a notice. Raises ConfigError: a target that cannot be used."""
    targets = build_targets(config.notify, journal, logs)
    patterns = bounded_patterns(config.redact)
    metrics.declare_targets(targets)
    made: dict[frozenset[str], Redactor] = {}

    def redactor() -> Redactor:
        secrets = frozenset(own_secrets()).union(*(target.secrets() for target in targets.values()))
        if secrets not in made:
            made.clear()
            made[secrets] = Redactor(secrets, patterns)
        return made[secrets]

    return EventCourier(
        SubscriptionStore(lane, worker_id, lease=LEASE_SECONDS),
        targets,
        redactor,
        metrics,
        web_url=config.web.url,
        poll_seconds=config.worker.poll_seconds,
    )
