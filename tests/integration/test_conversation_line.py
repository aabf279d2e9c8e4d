"""Who left the line of a conversation before its turn, and the host that a follow-up is pinned to, whatever ended the one before it."""

from collections.abc import AsyncIterator

import pytest

from tests.model.mutations import Mutation, applied
from tests.support.settling import Hand, at_rest, claimed, end, result, settling, states
from tests.support.waiting_rows import insert, row
from tests.support.work_rows import past_the_judges
from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import RescueReason

BY_TOKEN = Mutation(
    "a follow-up that ran before its turn has left the line",
    "turbo_left_the_line",
    (
        ("'running')", "'none')"),
        ("t.fencing_token is not null and t.status::text in ('waiting',", "false and t.status::text in ('waiting',"),
    ),
)


@pytest.fixture
async def hand(dsn: str) -> AsyncIterator[Hand]:
    async with settling(dsn) as one:
        yield one


@pytest.mark.parametrize("guard", [None, BY_TOKEN])
@pytest.mark.parametrize("over", [False, True], ids=["running", "over"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "placed"])
async def test_one_claimed_before_its_turn_is_passed(db, hand, stores, tied, over, guard):
    """Set to pending by hand and claimed, before any settler saw that: who comes next waits for the first task all the same."""
    if guard:
        with applied(guard, db):  # for good: this database is the test's own
            pass
    insert(db, "first", run_after="2999-01-01")
    for name in ("f1", "f2", "f3"):
        insert(db, name, continues="first")
    await hand.store.place()
    if tied:
        await hand.one_pass()
    db.execute("update agent_tasks set status = 'pending' where task_id = 'f1'")
    early = await claimed(stores, "f1")
    if over:
        await stores.results.finish([result(early, agent_session_id="early")])
    await hand.one_pass()
    if not over:
        await stores.results.finish([result(early, agent_session_id="early")])
        await hand.one_pass()
    if guard:
        assert states(db)["f2"] == "pending", "before the first one"
        return
    assert (states(db)["f2"], states(db)["f3"]) == ("blocked", "blocked")
    at_rest(db)
    end(db, "first", status="pending")
    await stores.results.finish([result(await claimed(stores, "first"), agent_session_id="s")])
    await hand.one_pass()
    assert (states(db)["f2"], states(db)["f3"]) == ("pending", "blocked")
    assert (row(db, "f2")["agent_session_id"], row(db, "f2")["prefer_host"]) == ("s", "h")
    at_rest(db)


@pytest.mark.parametrize("placed", [True, False])
async def test_one_let_run_by_hand_goes_where_its_conversation_is(db, hand, stores, placed):
    """No settler pins it, because none let it go. Another host would begin anew."""
    insert(db, "first")
    insert(db, "other", run_after="2999-01-01")
    await stores.results.finish([result(await claimed(stores, "first"), agent_session_id="s")])
    insert(db, "f1", continues="first", needs=["other"])
    if placed:
        await hand.one_pass()
    db.execute("update agent_tasks set status = 'pending' where task_id = 'f1'")
    await hand.one_pass()
    assert (row(db, "f1")["status"], row(db, "f1")["prefer_host"]) == ("pending", "h")


@pytest.mark.parametrize("ended", ["before the upgrade", "as poison", "by hand", "host unknown"])
async def test_follow_up_is_pinned_whatever_ended_the_one_before(db, hand, stores, ended):
    insert(db, "first")
    held = await claimed(stores, "first")
    insert(db, "f1", continues="first")
    if ended == "as poison":
        db.execute("update agent_tasks set infra_count = 4, turbo_rev = turbo_rev + 1 where task_id = 'first'")
        db.execute("update agent_workers set state = 'dead'")
        await stores.registry.rescue(RescueReason.WORKER_SILENT)
    elif ended == "by hand":
        await stores.results.finish([result(held, OutcomeKind.USAGE_LIMITED)])
        assert row(db, "first")["status"] == "pending"
        end(db, "first")
    else:
        await stores.results.finish([result(held)])
        past_the_judges(db, "update agent_tasks set prefer_host = null where task_id = 'first'")
        if ended == "host unknown":
            db.execute("delete from agent_workers")
    await hand.one_pass()
    assert row(db, "f1")["status"] == "pending"
    assert row(db, "f1")["prefer_host"] == (None if ended == "host unknown" else "h")
