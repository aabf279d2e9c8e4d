"""Is everybody told who wants to be?"""

import psycopg

from turbo.client.subscription import FAILING
from turbo.client.subscription_status import SUBSCRIPTIONS_LISTED, subscription_findings, subscription_troubles
from turbo.doctor.check import Check
from turbo.doctor.session import Session
from turbo.domain.finding import Finding, ok, skip, warn


def checks(session: Session) -> list[Check]:
    return [Check("subscriptions", lambda: _subscriptions(session), ("schema",))]


def _subscriptions(session: Session) -> Finding:
    try:
        rows = session.statement("status/subscriptions", {"limit": SUBSCRIPTIONS_LISTED, "failing": FAILING})
    except psycopg.errors.InsufficientPrivilege:
        return skip("this role may not read agent_subscriptions: turbo_reader may")
    if rows:
        first, others = subscription_findings(subscription_troubles(rows), 0)[0], rows[0]["of_all"] - 1
        more = f", and {others} more need{'s' if others == 1 else ''} a person" if others else ""
        return warn(f"{first.what}{more}", first.do)
    count = session.rows("subscriptions")[0]
    if not count["subscriptions"]:
        return ok("there are no subscriptions")
    paused = f", {count['paused']} paused" if count["paused"] else ""
    return ok(f"{count['subscriptions']} subscription{'s' if count['subscriptions'] > 1 else ''}{paused}")
