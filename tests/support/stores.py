"""Every store of one worker over two lanes, as turbo.worker.wiring makes them: for tests that send statements themselves."""

from collections.abc import Mapping, Sequence

from turbo.db.account_store import AccountStore
from turbo.db.bypass import USUAL_BYPASSES, BypassTimings
from turbo.db.channels import Notifier
from turbo.db.claim_store import ClaimStore
from turbo.db.lane import Lane
from turbo.db.refusals import Refusals
from turbo.db.result_store import ResultStore
from turbo.db.worker_registry import WorkerRegistry
from turbo.domain.placement import STAY_SECONDS
from turbo.observability.metrics import Metrics
from turbo.runtime.problems import Problems


class Stores:
    """`stores.claims.claim(...)`, `stores.results.finish(...)`, `stores.registry.rescue(...)`."""

    def __init__(
        self,
        worker_id: str,
        claims: Lane,
        results: Lane,
        refusals: Refusals | None = None,
        *,
        host: str = "",
        labels: Mapping[str, str] | None = None,
        stay_seconds: float = STAY_SECONDS,
        accounts: Sequence[str] = (),
        bypasses: BypassTimings = USUAL_BYPASSES,
    ) -> None:
        self.worker_id = worker_id
        self.refusals = refusals or Refusals(Problems(), Metrics())
        self.claims = ClaimStore(
            claims,
            worker_id,
            self.refusals,
            host=host,
            labels=labels,
            stay_seconds=stay_seconds,
            accounts=accounts,
            bypasses=bypasses,
        )
        self.results = ResultStore(results, worker_id, self.refusals, host=host)
        self.registry = WorkerRegistry(claims, worker_id, self.refusals)
        self.accounts = AccountStore(claims, worker_id, host)
        self.notifier = Notifier(claims)
