"""Follow-ups: their places, their order, what one takes over from the one before it, and what a person does to them meanwhile."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.model.mutations import Mutation, applied
from tests.support.settling import Hand, at_rest, changed, claimed, end, result, settling, states, stepped
from tests.support.waiting_rows import insert, row
from tests.support.work_rows import edges, notes
from turbo.domain.outcome import OutcomeKind

PASSES = Mutation(
    "nothing of a conversation passes a follow-up that somebody has locked",
    "turbo_place_follow_ups",
    (("if name <> all (held) and line[n + 1] <> all (stuck) then", "if true then"),),
)
WAITS = Mutation(
    "giving places waits for nobody",
    "turbo_place",
    (
        (
            "where t.task_id = task and t.conversation is null for no key update skip locked;",
            "where t.task_id = task and t.conversation is null for no key update;",
        ),
    ),
)


@pytest.fixture
async def hand(dsn: str) -> AsyncIterator[Hand]:
    async with settling(dsn) as one:
        yield one


def members(db) -> list[tuple[str, int, str | None, str]]:
    """(task, place, after, first) in the order of the conversations and places."""
    return db.execute(
        "select task_id::text, place, after::text, first from agent_conversations order by conversation, place"
    ).fetchall()


def order(db) -> list[str]:
    return [member[0] for member in members(db)]


async def test_ten_follow_ups_at_once_run_in_order(db, hand, stores):
    """Inserted by one statement, and by ten."""
    insert(db, "first")
    db.execute(
        "insert into agent_tasks (task_id, task_description, continues) select 'f' || n, 'x', 'first' from generate_series(0, 4) n"
    )
    for n in range(5, 10):
        insert(db, f"f{n}", continues=f"f{n - 1}" if n % 2 else "first")
    await hand.one_pass()
    line = ["first", *(f"f{n}" for n in range(10))]
    assert order(db) == line
    for n, name in enumerate(line):
        assert [states(db)[later] for later in line[n + 1 :]] == ["blocked"] * (10 - n)
        held = await claimed(stores, name)
        assert (await stores.claims.claim("default", 10, may_idle=True)).tasks == ()
        outcome = OutcomeKind.FAILED if n == 3 else OutcomeKind.SUCCEEDED
        (answer,) = await stores.results.finish([result(held, outcome, final=True, agent_session_id=f"s{n}")])
        assert answer.needed is (n < 10)
        await hand.one_pass()
        if n < 10:
            assert (row(db, line[n + 1])["agent_session_id"], row(db, line[n + 1])["prefer_host"]) == (f"s{n}", "h")
    assert {row(db, name)["conversation"] for name in line} == {row(db, "first")["conversation"]}
    assert row(db, "first")["conversation"] is not None
    at_rest(db)


@pytest.mark.parametrize("guard", [None, PASSES])
async def test_follow_up_that_somebody_holds_is_passed_by_none(dsn, db, hand, guard):
    """Those after it in its conversation wait for their places; other conversations do not."""
    if guard:
        with applied(guard, db):  # for good: this database is the test's own
            pass
    for name in ("first", "other"):
        insert(db, name)
    for n in range(3):
        insert(db, f"f{n}", continues="first")
        insert(db, f"o{n}", continues="other")
    insert(db, "late", continues="f2")
    with psycopg.connect(dsn) as person:
        person.execute("update agent_tasks set task_priority = 2 where task_id = 'f1'")
        assert (await hand.one_pass()).unsettled
        if guard:
            assert [name for name in order(db) if name[0] in "fl"] == ["first", "f0", "f2", "late"], "out of order"
            return
        assert sorted(order(db)) == ["f0", "first", "o0", "o1", "o2", "other"]
        assert notes(db) == ["f1", "f2", "late"]
    await hand.one_pass()
    assert [name for name in order(db) if name[0] in "fl"] == ["first", "f0", "f1", "f2", "late"]
    at_rest(db)


async def test_first_task_that_somebody_holds_gets_its_place_later(dsn, db, hand):
    insert(db, "first")
    insert(db, "f0", continues="first")
    with psycopg.connect(dsn) as person:
        person.execute("update agent_tasks set task_priority = 2 where task_id = 'first'")
        await hand.one_pass()
        assert members(db) == []
    await hand.one_pass()
    assert members(db) == [("first", 0, None, "first"), ("f0", 1, "first", "first")]
    at_rest(db)


async def test_places_wait_for_nobody(dsn, db, hand):
    insert(db, "first")
    insert(db, "f0", continues="first")
    with psycopg.connect(dsn) as person:
        person.execute("update agent_tasks set task_priority = 2 where task_id = 'f0'")
        assert (await hand.store.place()).remaining == 1
        with applied(WAITS, db), pytest.raises(psycopg.errors.LockNotAvailable):
            await hand.store.place()


async def test_two_settlers_give_each_place_once(dsn, db, hand):
    """One has given places in a transaction that is still open; the other one waits for nothing, and gives none of them."""
    insert(db, "first")
    for n in range(3):
        insert(db, f"f{n}", continues="first")
    async with settling(dsn, "second") as second, second.lane.use() as connection, connection.transaction():
        await connection.execute("select * from public.turbo_place_follow_ups(0, 1000)")
        for n in range(3, 6):
            insert(db, f"f{n}", continues="first")
        await hand.one_pass()
        assert members(db) == []
    await hand.one_pass()
    assert [(task, place) for task, place, _, _ in members(db)] == [("first", 0), *((f"f{n}", n + 1) for n in range(6))]
    at_rest(db)


async def test_pending_by_hand_waits_for_its_conversation(db, hand, stores):
    """Before it has a place nobody claims it; with one, the guard of the conversation lets it wait for the run that goes on."""
    insert(db, "first")
    held = await claimed(stores, "first")
    insert(db, "f0", continues="first")
    end(db, "f0", status="pending")
    assert (await stores.claims.claim("default", 1, may_idle=True)).tasks == (), "it has no place"
    assert notes(db) == ["f0"]
    await hand.one_pass()
    assert (row(db, "f0")["status"], row(db, "f0")["conversation"]) == ("pending", row(db, "first")["conversation"])
    assert (await stores.claims.claim("default", 1, may_idle=True)).tasks == (), "its conversation runs"
    assert "default" in hand.wakeups.take_queues().queues
    await stores.results.finish([result(held)])
    await claimed(stores, "f0")
    at_rest(db)


async def test_follow_up_of_one_that_never_ran_is_cancelled(db, hand, stores):
    """One that ran, whatever became of it, is enough."""
    insert(db, "ran")
    held = await claimed(stores, "ran")
    insert(db, "r0", continues="ran")
    insert(db, "never")
    insert(db, "n0", continues="never")
    insert(db, "n1", continues="n0")
    insert(db, "n2", continues="never", needs=["ran"], on_needs_failed="run")
    await hand.one_pass()
    end(db, "ran", status="cancelled")
    await stores.results.finish([result(held, OutcomeKind.CANCELLED)])
    end(db, "never", status="cancelled")
    await hand.one_pass()
    assert states(db) == {
        "ran": "cancelled", "r0": "pending", "never": "cancelled", "n0": "cancelled", "n1": "cancelled", "n2": "cancelled",
    }  # fmt: skip
    assert row(db, "n0")["failure_kind"] == "needs"
    at_rest(db)
    end(db, "never", status="pending")
    await hand.one_pass()
    assert [states(db)[n] for n in ("never", "n0", "n1", "n2")] == ["pending", "blocked", "blocked", "blocked"]
    at_rest(db)


async def test_follow_up_cancelled_before_it_had_a_place(db, hand, stores):
    """It gets one when somebody goes on from it, and after its retry it runs in its conversation."""
    insert(db, "first")
    await stores.results.finish([result(await claimed(stores, "first"))])
    insert(db, "f0", continues="first")
    insert(db, "f1", continues="f0")
    end(db, "f0", status="cancelled")
    db.execute("delete from agent_unsettled where task_id = 'f0'")
    await hand.one_pass()
    assert order(db) == ["first", "f0", "f1"]
    assert states(db)["f1"] == "cancelled"
    end(db, "f0", status="pending")
    await hand.one_pass()
    assert (states(db)["f0"], states(db)["f1"]) == ("pending", "blocked")
    at_rest(db)


async def test_held_follow_up_has_a_place_before_its_release(db, hand):
    insert(db, "first", status="completed", needs=None)
    db.execute(
        "update agent_tasks set fencing_token = -1, agent_session_id = 's', turbo_rev = turbo_rev + 1 where task_id = 'first'"
    )
    insert(db, "f0", continues="first", status="waiting")
    await hand.one_pass()
    assert states(db)["f0"] == "waiting"
    db.execute("update agent_tasks set answer = 'yes' where task_id = 'f0'")
    await hand.one_pass()
    assert (row(db, "f0")["status"], row(db, "f0")["agent_session_id"]) == ("pending", "s")
    assert order(db) == ["first", "f0"]
    at_rest(db)


async def test_first_task_that_is_gone_leaves_a_place_to_nobody(db, hand, stores):
    """Deleted before its follow-up has a place: the next task of that id is none of its conversation."""
    insert(db, "first")
    await stores.results.finish([result(await claimed(stores, "first"), agent_session_id="s")])
    insert(db, "f0", continues="first")
    insert(db, "f1", continues="f0")
    db.execute("delete from agent_tasks where task_id = 'first'")
    await hand.one_pass()
    assert [(task, place, first) for task, place, _, first in members(db)] == [("f0", 0, "f0"), ("f1", 1, "f0")]
    insert(db, "first")
    insert(db, "g0", continues="first")
    await hand.one_pass()
    assert (states(db)["f0"], row(db, "f0")["agent_session_id"]) == ("pending", None), "a session of its own"
    assert row(db, "first")["conversation"] not in (None, row(db, "f0")["conversation"])
    at_rest(db)


async def test_retry_in_the_midst_keeps_its_place_and_session(db, hand, stores):
    insert(db, "first")
    await stores.results.finish([result(await claimed(stores, "first"), agent_session_id="s")])
    insert(db, "f0", continues="first")
    insert(db, "f1", continues="first")
    await hand.one_pass()
    held = await claimed(stores, "f0")
    await stores.results.finish([result(held, OutcomeKind.FAILED, final=True, agent_session_id="own")])
    end(db, "f0", status="pending")
    await hand.one_pass()
    assert order(db) == ["first", "f0", "f1"]
    assert (row(db, "f0")["status"], row(db, "f0")["agent_session_id"]) == ("pending", "own")
    assert states(db)["f1"] == "blocked", "it waits for the retry"
    await stores.results.finish([result(await claimed(stores, "f0"))])
    await hand.one_pass()
    assert states(db)["f1"] == "pending"
    at_rest(db)


async def test_follow_up_waits_for_needs_and_its_turn(db, hand):
    insert(db, "first")
    insert(db, "need")
    insert(db, "f0", continues="first", needs=["need", "first"])
    await hand.one_pass()
    end(db, "first")
    await hand.one_pass()
    assert states(db)["f0"] == "blocked"
    end(db, "need")
    await hand.one_pass()
    assert states(db)["f0"] == "pending"
    at_rest(db)


async def test_one_before_is_deleted_after_it_was_counted(dsn, db, hand, stores):
    """Its edge could not be tied, because somebody had it locked; the count is made anew."""
    insert(db, "first")
    insert(db, "f0", continues="first")
    await hand.one_pass()
    for name in ("first", "f0"):
        await stores.results.finish([result(await claimed(stores, name))])
        await hand.one_pass()
    with psycopg.connect(dsn) as person:
        person.execute("update agent_tasks set task_priority = 2 where task_id = 'f0'")
        insert(db, "f1", continues="first")
        await hand.one_pass()
        assert (states(db)["f1"], notes(db)) == ("blocked", ["f1"])
        person.execute("delete from agent_tasks where task_id = 'f0'")
    await hand.one_pass()
    assert states(db)["f1"] == "pending"
    at_rest(db)


async def test_audit_counts_anew_what_was_counted_wrong(db, hand):
    insert(db, "need")
    insert(db, "t", needs=["need"])
    await hand.one_pass()
    assert await hand.store.audit() == 0
    db.execute("update agent_blocked set needs_left = 2")
    assert await hand.store.audit() == 1
    end(db, "need")
    await hand.one_pass()
    assert states(db)["t"] == "pending"
    at_rest(db)


GOES_EARLY = Mutation(
    "a follow-up that was closed before its turn ends nobody's waiting",
    "settle/settle",
    (
        (
            "(array(select o.task_id from over o where o.never)) and not d.settled",
            "(array(select o.task_id from over o where o.never)) and false",
        ),
    ),
)


def ran(db, task_id: str, session: str = "s") -> None:
    """As a run that succeeded leaves it."""
    db.execute(
        "update agent_tasks set status = 'completed', fencing_token = -9, agent_session_id = %s, prefer_host = 'h',"
        " completed_at = clock_timestamp(), turbo_rev = turbo_rev + 1 where task_id = %s",
        [session, task_id],
    )


def let_go_with(db, task_id: str) -> tuple[str, str | None, str | None]:
    found = row(db, task_id)
    return found["status"], found["agent_session_id"], found["prefer_host"]


@pytest.mark.parametrize("status", ["completed", "failed"])
@pytest.mark.parametrize("guard", [None, GOES_EARLY])
async def test_follow_up_goes_on_past_one_closed_by_hand(db, hand, guard, status):
    """In its order, after the task before, and with the session of that one. Two are closed, one after the other."""
    insert(db, "first")
    for n in (1, 2, 3):
        insert(db, f"f{n}", continues="first")
    await hand.one_pass()
    with changed(guard):
        for name in ("f2", "f1"):
            end(db, name, status=status)
            await hand.one_pass()
    if guard:
        assert states(db)["f3"] == "pending", "before the first one ran"
        return
    assert (states(db)["f3"], edges(db, "f3")[-1]) == ("blocked", ("first", False))
    at_rest(db)
    ran(db, "first")
    await hand.one_pass()
    assert let_go_with(db, "f3") == ("pending", "s", "h")


async def test_one_closed_by_hand_after_the_first_ran(db, hand):
    """The one before it is also named in needs; and the one after next has the session, too."""
    insert(db, "first")
    insert(db, "f1", continues="first", status="waiting")
    insert(db, "f2", continues="first", needs=["f1"])
    await hand.one_pass()
    ran(db, "first")
    await hand.one_pass()
    end(db, "f1")
    await hand.one_pass()
    assert let_go_with(db, "f2") == ("pending", "s", "h")
    insert(db, "f3", continues="first")
    end(db, "f2")
    await hand.one_pass()
    assert let_go_with(db, "f3") == ("pending", "s", "h")
    at_rest(db)


async def test_one_closed_by_hand_and_deleted_is_gone_past(db, hand):
    insert(db, "first")
    for n in (1, 2, 3):
        insert(db, f"f{n}", continues="first")
    await hand.one_pass()
    end(db, "f1", "f2")
    db.execute("delete from agent_tasks where task_id in ('f1', 'f2')")
    await hand.one_pass()
    assert (states(db)["f3"], ("first", False) in edges(db, "f3")) == ("blocked", True)
    ran(db, "first")
    await hand.one_pass()
    assert let_go_with(db, "f3") == ("pending", "s", "h")
    at_rest(db)


@pytest.mark.parametrize("needed", [False, True])
async def test_one_closed_by_hand_while_the_next_is_tied(dsn, db, hand, needed):
    insert(db, "first")
    for n in (1, 2):
        insert(db, f"f{n}", continues="first", **({"needs": ["f1"]} if needed and n == 2 else {}))
    await hand.store.place()
    async with stepped(dsn, "settle/tie"):
        end(db, "f1")
    await hand.store.settle()
    assert states(db)["f2"] == "blocked"
    await hand.one_pass()
    assert (states(db)["f2"], edges(db, "f2")[-1]) == ("blocked", ("first", False))
    ran(db, "first")
    await hand.one_pass()
    assert let_go_with(db, "f2") == ("pending", "s", "h")
    at_rest(db)


@pytest.mark.parametrize("became", ["completed", "failed", "pending"])
@pytest.mark.parametrize("tied", [False, True])
async def test_follow_up_that_leaves_the_line_is_not_waited_for(db, hand, stores, became, tied):
    """Closed, or let run, by a person before its turn: who comes after it waits for the one before it, and goes on from there."""
    insert(db, "first")
    held = await claimed(stores, "first")
    insert(db, "f0", continues="first")
    if tied:
        insert(db, "f1", continues="first")
    await hand.one_pass()
    end(db, "f0", status=became)
    if not tied:
        insert(db, "f1", continues="first")
    await hand.one_pass()
    await hand.one_pass()
    assert states(db)["f1"] == "blocked"
    assert ("f1", 2, "first", "first") in members(db)
    await stores.results.finish([result(held, agent_session_id="s")])
    await hand.one_pass()
    assert states(db)["f1"] == "pending"
    assert (row(db, "f1")["agent_session_id"], row(db, "f1")["prefer_host"]) == ("s", "h")
    at_rest(db)


async def test_held_follow_up_that_a_later_one_needs(db, hand, stores):
    """It has its place when it is inserted, and nobody waits for it but who needs it: no two wait for each other."""
    insert(db, "first")
    await stores.results.finish([result(await claimed(stores, "first"), agent_session_id="s")])
    insert(db, "f0", continues="first", status="waiting")
    insert(db, "f1", continues="first", needs=["f0"])
    insert(db, "f2", continues="first")
    await hand.one_pass()
    assert await hand.store.audit() == 0
    assert order(db) == ["first", "f0", "f1", "f2"]
    db.execute("update agent_tasks set answer = 'yes' where task_id = 'f0'")
    await hand.one_pass()
    for n in range(3):
        assert states(db)[f"f{n}"] == "pending"
        await stores.results.finish([result(await claimed(stores, f"f{n}"), agent_session_id=f"s{n}")])
        await hand.one_pass()
    assert [row(db, f"f{n}")["agent_session_id"] for n in range(3)] == ["s0", "s1", "s2"]
    at_rest(db)


async def test_held_follow_up_goes_on_from_who_passed_it(db, hand, stores):
    insert(db, "first")
    await stores.results.finish([result(await claimed(stores, "first"), agent_session_id="s")])
    insert(db, "f0", continues="first", status="waiting")
    insert(db, "f1", continues="first")
    await hand.one_pass()
    await stores.results.finish([result(await claimed(stores, "f1"), agent_session_id="later")])
    await hand.one_pass()
    db.execute("update agent_tasks set answer = 'yes' where task_id = 'f0'")
    await hand.one_pass()
    assert (row(db, "f0")["status"], row(db, "f0")["agent_session_id"]) == ("pending", "later")
    at_rest(db)


async def test_session_is_not_taken_from_a_run_that_has_none_yet(db, hand, stores):
    """A person let `f1` run before its turn. While it runs, the one that it passed is let go."""
    insert(db, "first")
    held = await claimed(stores, "first")
    insert(db, "f0", continues="first")
    insert(db, "f1", continues="first")
    await hand.one_pass()
    end(db, "f1", status="pending")
    await stores.results.finish([result(held, agent_session_id="s")])
    await claimed(stores, "f1")
    await hand.one_pass()
    assert (row(db, "f0")["status"], row(db, "f0")["agent_session_id"]) == ("pending", "s")
