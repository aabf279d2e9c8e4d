"""The ends of needs beside inserters, settlers and people: each race is stepped, and each guard has a control that shows what
happens without it."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.model.mutations import Mutation
from tests.support.settling import (
    Hand,
    at_rest,
    changed,
    claimed,
    end,
    fail,
    insert_many,
    result,
    settling,
    states,
    stepped,
)
from tests.support.waiting import until_async
from tests.support.waiting_rows import insert, row
from tests.support.work_rows import count, edges, notes
from turbo.db.store import rows
from turbo.domain.outcome import OutcomeKind

OPEN_ENDS_ONLY = Mutation(
    "a need that was over before it was tied counts at once",
    "settle/tie",
    (("where h.needed is not true or not h.over union all", "where not h.over union all"),),
)
UNMARKED = Mutation(
    "a need that is not over is marked",
    "settle/tie",
    (("where h.needed is not true and not h.over or h.needed is null", "where h.needed is null and h.over"),),
)
COUNT_AS_READ = Mutation(
    "a count is read as it is when it is locked",
    "settle/settle",
    (("from ready r)) for update of b skip locked ), settled as", "from ready r)) ), settled as"),),
)
TIE_WAITS = Mutation(
    "tying waits for nobody",
    "settle/tie",
    (("from back b)) for no key update of t skip locked ), ends as", "from back b)) for no key update of t ), ends as"),),
)  # fmt: skip
RELEASE_WAITS = Mutation(
    "letting go waits for nobody",
    "settle/settle",
    (("::text[]) for update of t skip locked ), below", "::text[]) for update of t ), below"),),
)
FORGETS_WAIT = Mutation(
    "a mark goes only if no edge came between",
    "settle/settle",
    (("where o.at = (select s.ctid from public.agent_tasks s where s.task_id = o.task_id) and", "where"),),
)
ANY_END = Mutation(
    "a need whose end is being told is tied later",
    "settle/tie",
    (("from held h where h.needed is not true or not h.over union all", "from held h union all"),),
)


@pytest.fixture
async def hand(dsn: str) -> AsyncIterator[Hand]:
    async with settling(dsn) as one:
        yield one


# ── the end of a need beside the insert of its dependent ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("guard", [None, OPEN_ENDS_ONLY])
async def test_need_ends_while_the_insert_is_open(dsn, db, hand, stores, guard):
    """The design that looks at insert and at the end, and nowhere between, is the control: its dependent is blocked for ever."""
    insert(db, "need")
    held = await claimed(stores, "need")
    with psycopg.connect(dsn) as inserter:
        insert(inserter, "t", needs=["need"])
        db.execute("set lock_timeout = '1s'")
        (answer,) = await stores.results.finish([result(held)])
        assert (answer.verdict, answer.needed) == ("recorded", False), "nobody is known to wait"
        assert (await hand.one_pass()).moved == 0
    with changed(guard):
        await hand.one_pass()
    assert row(db)["status"] == ("blocked" if guard else "pending")
    if guard is None:
        at_rest(db)


WAITS = "select true from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


async def test_open_insert_holds_up_no_result(dsn, db, hand, stores):
    """The control: an inserter that locks the need, as a foreign key does."""
    for lock in ("", "select from agent_tasks where task_id = 'need' for key share"):
        db.execute("delete from agent_tasks")
        insert(db, "need")
        held = await claimed(stores, "need")
        with psycopg.connect(dsn) as inserter:
            insert(inserter, "t", needs=["need"])
            await hand.one_pass()
            if lock:
                inserter.execute(lock)
            finish = asyncio.create_task(stores.results.finish([result(held)]))
            if lock:
                await until_async(lambda: db.execute(WAITS).fetchone(), what="the result waits for the inserter")
                inserter.commit()
            (answer,) = await finish
            assert answer.verdict == "recorded"


@pytest.mark.parametrize("guard", [None, UNMARKED])
async def test_need_ends_while_it_is_being_tied(dsn, db, hand, stores, guard):
    """The finish waits for the short transaction that ties, and finds the mark."""
    insert(db, "need")
    held = await claimed(stores, "need")
    insert(db, "t", needs=["need"])
    with changed(guard):
        async with hand.lane.use() as connection, connection.transaction():
            tied = {"after": 0, "notes": 10, "edges": 10, "worker": "w"}
            await rows(connection, "settle/tie", tied)
            finish = asyncio.create_task(stores.results.finish([result(held)]))
            await until_async(lambda: db.execute(WAITS).fetchone(), what="it waits for the lock, and so sees the mark")
            assert not finish.done()
    (answer,) = await finish
    assert answer.needed is not bool(guard)
    await hand.one_pass()
    assert row(db)["status"] == ("blocked" if guard else "pending")


@pytest.mark.parametrize("guard", [None, TIE_WAITS])
async def test_need_that_its_finish_has_locked_is_tied_later(dsn, db, hand, guard):
    insert(db, "need")
    insert(db, "t", needs=["need"])
    insert(db, "free")
    insert(db, "other", needs=["free"])
    with psycopg.connect(dsn) as finish:
        fail(finish, "need") if guard else end(finish, "need")
        with changed(guard):
            if guard:
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    await hand.store.tie()
                return
            found = await hand.one_pass()
        assert (found.unsettled, notes(db), edges(db, "other")) == (True, ["t"], [("free", False)])
    await hand.one_pass()
    assert row(db)["status"] == "pending"
    at_rest(db)


async def test_tie_reads_a_need_as_it_is_when_locked(dsn, db):
    """It ends between the snapshot of the statement and the lock."""
    insert(db, "need")
    insert(db, "t", needs=["need"])
    async with stepped(dsn, "settle/tie") as step:
        end(db, "need")
    assert step.done.moved > 0
    assert (edges(db, "t"), row(db, "need")["needed"], count(db, "t")) == ([("need", True)], None, (0, None))


@pytest.mark.parametrize("guard", [None, ANY_END])
async def test_waiter_tied_while_the_failure_is_told_waits_on(dsn, db, hand, guard):
    """A dependent that waits for the retry, and comes while the failure is being told to others."""
    insert(db, "need")
    insert(db, "other", needs=["need"])
    await hand.one_pass()
    fail(db, "need")
    insert(db, "t", needs=["need"], on_needs_failed="wait")
    async with stepped(dsn, "settle/settle"):
        with changed(guard):
            await hand.store.tie()
    await hand.one_pass()
    assert row(db, "need")["needed"] is (None if guard else False)
    end(db, "need", status="pending")
    end(db, "need")
    await hand.one_pass()
    assert states(db)["t"] == ("blocked" if guard else "pending")


@pytest.mark.parametrize("guard", [None, FORGETS_WAIT])
async def test_edge_that_came_between_keeps_the_mark(dsn, db, hand, guard):
    """The need is retried, tied and over again between the snapshot of the statement that tells its first end and the lock."""
    insert(db, "need")
    insert(db, "first", needs=["need"], on_needs_failed="run")
    await hand.one_pass()
    fail(db, "need")
    async with stepped(dsn, "settle/settle", guard):
        end(db, "need", status="pending")
        insert(db, "t", needs=["need"])
        await hand.store.tie()
        fail(db, "need")
    if guard:
        assert row(db, "need")["needed"] is None
    await hand.one_pass()
    assert states(db)["t"] == ("blocked" if guard else "cancelled")
    if guard is None:
        at_rest(db)


async def test_every_way_in_survives_an_end_meanwhile(dsn, db, hand):
    """COPY, MERGE, an upsert, a prepared transaction, and inserters whose snapshot is older than the end of the need."""
    insert(db, "need")
    insert(db, "there")
    with psycopg.connect(dsn) as copier, psycopg.connect(dsn) as frozen, psycopg.connect(dsn) as strict:
        with copier.cursor().copy("copy agent_tasks (task_id, task_description, needs) from stdin") as into:
            into.write("copied\tx\t{need}\n")
        frozen.execute("set transaction isolation level repeatable read")
        strict.execute("set transaction isolation level serializable")
        for session in (frozen, strict):
            session.execute("select 1 from agent_tasks")
        with db.transaction():
            db.execute("set local turbo.notify = off")
            insert(db, "prepared", needs=["need"])
            db.execute("prepare transaction 'work'")
        end(db, "need")
        await hand.one_pass()
        insert(frozen, "frozen", needs=["need"])
        insert(strict, "strict", needs=["need"])
        frozen.execute(
            "merge into agent_tasks t using (values ('merged')) v(id) on t.task_id = v.id"
            " when not matched then insert (task_id, task_description, needs) values (v.id, 'x', '{need}')"
        )
    db.execute(
        "insert into agent_tasks (task_id, task_description, needs) values ('there', 'x', '{need}') on conflict do nothing"
    )
    db.execute("commit prepared 'work'")
    await hand.one_pass()
    assert (states(db).pop("need"), set(states(db).values())) == ("completed", {"completed", "pending"})
    assert set(states(db)) == {"need", "there", "copied", "prepared", "frozen", "strict", "merged"}
    assert edges(db, "there") == [], "an upsert that inserts nothing ties nothing"
    at_rest(db)


@pytest.mark.parametrize("outcome", [OutcomeKind.SUCCEEDED, OutcomeKind.CANCELLED])
@pytest.mark.parametrize("first", ["tie", "cancel"])
async def test_cancel_of_a_running_need_counts_by_its_end(db, hand, stores, first, outcome):
    """The request changes nothing for those who wait: a success that races with it lets them go."""
    insert(db, "need")
    held = await claimed(stores, "need")
    insert(db, "t", needs=["need"])
    insert(db, "next", continues="need")
    for what in ("tie", "cancel") if first == "tie" else ("cancel", "tie"):
        if what == "tie":
            await hand.one_pass()
        else:
            end(db, "need", status="cancelled")
    await hand.one_pass()
    assert states(db) == {"need": "running", "t": "blocked", "next": "blocked"}, "the control: it runs still"
    (answer,) = await stores.results.finish([result(held, outcome)])
    assert answer.needed
    await hand.one_pass()
    done = outcome is OutcomeKind.SUCCEEDED
    assert states(db) == {
        "need": "completed" if done else "cancelled", "t": "pending" if done else "cancelled", "next": "pending",
    }  # fmt: skip
    at_rest(db)


# ── two settlers ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("guard", [None, COUNT_AS_READ])
async def test_two_last_needs_end_at_once(dsn, db, hand, guard):
    """Each settler has read a count of two. Without the lock both write one, and nobody lets the dependent go."""
    insert(db, "a")
    insert(db, "b")
    insert(db, "t", needs=["a", "b"])
    await hand.one_pass()
    end(db, "a")
    async with stepped(dsn, "settle/settle", guard):
        end(db, "b")
        db.execute("update agent_tasks set needed = null, turbo_rev = turbo_rev + 1 where task_id = 'a'")
        await hand.store.settle()
        db.execute("update agent_tasks set needed = true, turbo_rev = turbo_rev + 1 where task_id = 'a'")
    await hand.one_pass()
    assert row(db)["status"] == ("blocked" if guard else "pending")
    if guard is None:
        at_rest(db)


async def test_two_settlers_share_the_work(dsn, db, hand):
    for n in range(20):
        insert(db, f"n{n}")
        insert(db, f"d{n}", needs=[f"n{n}"])
        insert(db, f"e{n}", needs=[f"d{n}"])
    async with settling(dsn, "second") as second, settling(dsn, "third") as third:
        await asyncio.gather(*(one.one_pass() for one in (hand, second, third)))
        for n in range(20):
            end(db, f"n{n}", status="completed" if n % 2 else "failed")
        await asyncio.gather(*(one.one_pass() for one in (hand, second, third)))
    await hand.one_pass()
    at_rest(db)
    found = states(db)
    assert [found[f"d{n}"] for n in range(20)] == ["cancelled", "pending"] * 10
    assert [found[f"e{n}"] for n in range(20)] == ["cancelled", "blocked"] * 10
    told = "select task_id, count(*) from agent_actions where action_type in ('unblocked', 'needs_failed') group by 1"
    assert {n for _, n in db.execute(told)} == {1}, "each is let go once"


async def test_settler_passes_what_another_has_not_committed(dsn, db, hand):
    insert(db, "a")
    insert(db, "b")
    insert(db, "t", needs=["a", "b"])
    insert(db, "u", needs=["b"])
    await hand.one_pass()
    end(db, "a")
    async with settling(dsn, "slow") as slow, slow.lane.use() as connection, connection.transaction():
        await rows(
            connection, "settle/settle", {"after": None, "passed": "{}", "needs": 10, "edges": 10, "worker": "slow"}
        )
        end(db, "b")
        found = await hand.one_pass()
        assert (found.released, states(db)["u"], found.unsettled) == (1, "pending", True)
    await hand.one_pass()
    assert row(db)["status"] == "pending"
    at_rest(db)


# ── people who keep their transaction open ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("guard", [None, RELEASE_WAITS])
async def test_person_who_holds_a_dependent_holds_up_only_that(dsn, db, hand, guard):
    insert(db, "need")
    for name in ("t", "u"):
        insert(db, name, needs=["need"])
    await hand.one_pass()
    with psycopg.connect(dsn) as person:
        person.execute("update agent_tasks set task_priority = 9 where task_id = 't'")
        end(db, "need")
        with changed(guard):
            if guard:
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    await hand.one_pass()
                return
            found = await hand.one_pass()
        assert (found.released, found.unsettled, states(db)["u"]) == (1, True, "pending")
    assert (await hand.one_pass()).released == 1
    assert (row(db)["status"], row(db)["task_priority"]) == ("pending", 9)
    at_rest(db)


async def test_notes_that_cannot_be_done_stand_before_no_others(dsn, db, hand):
    """Two hundred of them, more than one statement reads. The control reads only the first."""
    insert(db, "held")
    insert(db, "free")
    insert_many(db, "w", 250, "held")
    insert(db, "t", needs=["free"])
    with psycopg.connect(dsn) as person:
        person.execute("update agent_tasks set task_priority = 9 where task_id = 'held'")
        assert (await hand.store.tie()).after is not None
        assert edges(db, "t") == [], "the control"
        await hand.one_pass()
        assert edges(db, "t") == [("free", False)]
        end(db, "free")
        await hand.one_pass()
        assert row(db)["status"] == "pending"
    await hand.one_pass()
    at_rest(db)


async def test_ready_rows_that_are_held_stand_before_no_others(dsn, db, hand, monkeypatch):
    monkeypatch.setattr("turbo.db.settle_store.EDGES", 10)
    insert(db, "over", status="completed")
    with psycopg.connect(dsn) as person:
        insert_many(db, "a", 30, "over")
        await hand.store.tie()
        await hand.store.tie()
        await hand.store.tie()
        assert notes(db) == []
        person.execute("update agent_tasks set task_priority = 9 where task_id like 'a%'")
        insert(db, "t", needs=["over"])
        await hand.store.tie()
        await hand.store.settle()
        assert row(db)["status"] == "blocked", "the control: the first ten only"
        await hand.one_pass()
        assert row(db)["status"] == "pending"
    assert (await hand.one_pass()).released == 30


ALL_PASSED = Mutation(
    "needs that are held are left out", "settle/settle", (("::jsonb) ? t.task_id::text", "::jsonb) is null"),)
)
ALL_EDGES = Mutation(
    "edges that are held are left out", "settle/settle", (("::jsonb) ? d.task_id::text", "::jsonb) is null"),)
)


@pytest.mark.parametrize(("fan_out", "guard"), [(False, None), (True, None), (False, ALL_PASSED), (True, ALL_EDGES)])
async def test_ends_that_are_held_stand_before_no_others(dsn, db, hand, monkeypatch, fan_out, guard):
    """More of them than one statement reads, in the transaction of a person who cancels the dependents."""
    monkeypatch.setattr("turbo.db.settle_store.NEEDS", 4)
    monkeypatch.setattr("turbo.db.settle_store.EDGES", 6)
    for n in range(15):
        insert(db, f"n{n}")
        insert(db, f"d{n}", needs=["n0" if fan_out else f"n{n}"])
    for n in range(9):
        insert(db, f"z{n}")
        insert(db, f"t{n}", needs=[f"z{n}"])
    await hand.one_pass()
    with psycopg.connect(dsn) as person:
        person.execute("update agent_tasks set status = 'cancelled' where task_id like 'd%'")
        for name in "nz":
            db.execute("update agent_tasks set status = 'completed' where task_id like %s", [name + "%"])
        with changed(guard):
            found = await hand.one_pass()
        assert found.unsettled
        assert [states(db)[f"t{n}"] == "pending" for n in range(9)] == [guard is None] * 9
    await hand.one_pass()
    assert {states(db)[f"t{n}"] for n in range(9)} == {"pending"}
    at_rest(db)


async def test_person_who_lets_it_run_meanwhile_wins(dsn, db, hand):
    """Set to pending by hand while its need is about to fail."""
    insert(db, "need")
    insert(db, "t", needs=["need"])
    await hand.one_pass()
    with psycopg.connect(dsn) as person:
        end(person, "t", status="pending")
        fail(db, "need")
        await hand.one_pass()
    await hand.one_pass()
    assert (row(db)["status"], count(db, "t")) == ("pending", None)
    at_rest(db)


async def test_needs_set_to_null_while_it_is_being_tied(dsn, db, hand):
    insert(db, "need")
    insert(db, "t", needs=["need"])
    async with stepped(dsn, "settle/tie"):
        db.execute("update agent_tasks set needs = null where task_id = 't'")
    await hand.one_pass()
    assert (row(db)["status"], edges(db, "t")) == ("pending", [])
    at_rest(db)


ANEW = Mutation(
    "tie takes no row that is later than its snapshot",
    "settle/tie",
    (
        (
            "or m.at is distinct from (select o.ctid from public.agent_tasks o where o.task_id = m.task_id)"
            " or (select true from public.agent_blocked b where b.task_id = m.task_id)"
            " and not (select e.map from seen e) ? m.task_id::text then",
            "then",
        ),
        ("case when (select e.map from seen e) ? b.task_id::text then excluded.needs_left", "case when false then 0"),
    ),
)


@pytest.mark.parametrize("guard", [None, ANEW])
async def test_hold_and_release_while_it_is_being_tied(dsn, db, hand, guard):
    """Its edges and its count are deleted, and made anew: the step under way must not count by those that it has read."""
    for need in "ab":
        insert(db, need)
    insert(db, "d", needs=["a", "b"])
    await hand.one_pass()
    end(db, "a")
    await hand.one_pass()
    db.execute("insert into agent_unsettled (task_id) values ('d')")
    async with stepped(dsn, "settle/tie", guard):
        end(db, "d", status="waiting")
        end(db, "d", status="blocked")
    with changed(guard):
        await hand.one_pass()
    if guard:
        assert states(db)["d"] == "pending", "let go early"
        return
    assert states(db)["d"] == "blocked"
    at_rest(db)
    end(db, "b")
    await hand.one_pass()
    assert states(db)["d"] == "pending"
