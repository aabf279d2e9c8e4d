"""The message desk beside a real database: a message at each moment of a run, and marks that cannot be written at once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import psycopg
import pytest

from tests.support.open_messages import body, follow_ups, left_over, message, open_bodies
from tests.support.rig import finished
from tests.support.stores import Stores
from tests.support.waiting import until_async
from tests.support.work_rows import insert, past_the_triggers
from turbo.db.lane import Lane
from turbo.db.message_store import MessageStore
from turbo.domain.mailbox import Mailbox
from turbo.domain.run import Running
from turbo.domain.work import Message
from turbo.worker import message_desk
from turbo.worker.message_desk import MessageDesk
from turbo.worker.slots import Slots


@dataclass
class Worker:
    """The desk of one worker, and a run of a task that a test takes through its life step by step."""

    db: psycopg.Connection
    stores: Stores
    desk: MessageDesk
    slots: Slots
    lane: Lane
    left_over: list[str] = field(default_factory=list)

    async def claim(self) -> Running:
        (task,) = (await self.stores.claims.claim("default", 1, may_idle=False)).tasks
        return Running(task, "claude", None)

    def begin(self, run: Running) -> Mailbox:
        self.slots.take(run)
        return self.desk.mailbox(run, converses=True)

    async def end(self, run: Running, mailbox: Mailbox) -> None:
        await self.desk.ended(run, mailbox)
        self.slots.give_back(run.claim, unrecorded=True)

    async def record(self, run: Running) -> None:
        await self.stores.results.finish([finished(run.task, self.stores.worker_id)])
        self.slots.recorded(run.claim)
        self.desk.recorded(run.task.task_id)

    async def heard(self, said: str) -> None:
        """Somebody says it, and the worker hears of it."""
        self.db.execute("listen turbo_ctl")
        message(self.db, "t", said)
        for one in self.db.notifies(timeout=0.5, stop_after=1):
            self.desk.heard(one.payload.removeprefix("message "))

    async def arrives(self, mailbox: Mailbox) -> tuple[str, ...]:
        await until_async(lambda: mailbox.waiting, 10, "a message arrives")
        return tuple(one.body for one in mailbox.take())


@pytest.fixture
async def worker(dsn: str, db: psycopg.Connection, stores: Stores) -> AsyncIterator[Worker]:
    def crashed(name: str, error: BaseException) -> None:
        raise AssertionError(name) from error

    lane, slots = Lane(dsn, "messages"), Slots(2)
    told: list[str] = []
    desk = MessageDesk(MessageStore(lane), stores.worker_id, slots, lambda: told.append("left over"))
    desk.start(crashed)
    insert(db, "t")
    yield Worker(db, stores, desk, slots, lane, told)
    await desk.stop()
    await lane.close()


# ── each moment of a run ────────────────────────────────────────────────────────────────────────────────────────────


async def test_message_before_the_claim_comes_with_it(worker: Worker) -> None:
    await worker.heard("early")
    run = await worker.claim()
    assert [one.body for one in run.task.messages] == ["early"]
    assert await worker.arrives(worker.begin(run)) == ("early",)


async def test_message_between_claim_and_start_is_looked_for(worker: Worker) -> None:
    run = await worker.claim()
    await worker.heard("between")
    assert run.task.messages == (), (
        "control: the claim has not seen it, and nobody here knew the run when it was heard of"
    )
    assert await worker.arrives(worker.begin(run)) == ("between",)


async def test_message_to_a_run_is_heard(worker: Worker) -> None:
    mailbox = worker.begin(await worker.claim())
    await until_async(lambda: not worker.desk._look, 10, "the first look is over")
    await worker.heard("meanwhile")
    assert await worker.arrives(mailbox) == ("meanwhile",)


async def test_unheard_message_to_a_run_is_polled(worker: Worker) -> None:
    mailbox = worker.begin(await worker.claim())
    await until_async(lambda: not worker.desk._look, 10, "the first look is over")
    message(worker.db, "t", "unheard")
    assert (await worker.stores.claims.poll(["default"])).messages
    assert not mailbox.waiting, "control"
    worker.desk.any_open()
    assert await worker.arrives(mailbox) == ("unheard",)


async def test_last_look_finds_an_unheard_message(worker: Worker) -> None:
    mailbox = worker.begin(await worker.claim())
    await until_async(lambda: not worker.desk._look, 10, "the first look is over")
    message(worker.db, "t", "last")
    assert not mailbox.waiting, "control"
    assert await mailbox.last_look()
    assert await worker.arrives(mailbox) == ("last",)


@pytest.mark.parametrize("moment", ["ended", "recorded"])
async def test_message_after_the_last_look_is_left_over(worker: Worker, moment: str) -> None:
    run = await worker.claim()
    mailbox = worker.begin(run)
    assert not await mailbox.last_look()
    await worker.end(run, mailbox)
    if moment == "recorded":
        with psycopg.connect(worker.db.info.dsn, password="") as slow:
            message(slow, "t", "late")  # accepted while it runs, and visible when it is over
            await worker.record(run)
            worker.db.execute("listen turbo_ctl")
            slow.commit()
        for one in worker.db.notifies(timeout=0.5, stop_after=1):
            worker.desk.heard(one.payload.removeprefix("message "))
    else:
        await worker.heard("late")
        assert worker.left_over == [], "control: the settler would find the task running"
        assert left_over(worker.db) == (0, 0)
        await worker.record(run)
    assert worker.left_over == ["left over"]
    assert left_over(worker.db) == (1, 1)
    assert [text for _, text, *_ in follow_ups(worker.db)] == ["late"]


async def test_mailbox_forgets_nothing_that_was_not_delivered(worker: Worker) -> None:
    await worker.heard("one")
    run = await worker.claim()
    mailbox = worker.begin(run)
    await worker.heard("two")
    one, two = [*mailbox.take(), *(await _one(mailbox))]
    mailbox.delivered([one])
    await worker.end(run, mailbox)
    assert (body(worker.db, "one"), body(worker.db, "two")) == (
        (True, run.claim.token, None),
        (False, None, None),
    )
    assert two.body == "two"


async def _one(mailbox: Mailbox) -> tuple[Message, ...]:
    await until_async(lambda: mailbox.waiting, 10, "a message arrives")
    return mailbox.take()


# ── marks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_run_that_lost_its_task_marks_nothing(worker: Worker) -> None:
    await worker.heard("hello")
    run = await worker.claim()
    mailbox = worker.begin(run)
    messages = mailbox.take()
    worker.db.execute("update agent_workers set state = 'dead', heartbeat_at = now() - interval '1 hour'")
    worker.db.execute("update agent_tasks set fencing_token = fencing_token + 1, turbo_rev = turbo_rev + 1")
    mailbox.delivered(messages)
    await worker.end(run, mailbox)
    assert open_bodies(worker.db) == ["hello"], "it is for the run that has the task"


async def test_mark_is_for_the_message_that_was_told(worker: Worker, db: psycopg.Connection) -> None:
    """A failover loses a message, and hands out its number again, before it is written down that the agent has the first."""
    store = MessageStore(worker.lane)
    number = message(db, "t", "lost")
    run = await worker.claim()
    past_the_triggers(db, "delete from agent_messages")
    db.execute("select setval('agent_messages_message_id_seq', %s, false)", [number])
    assert message(db, "t", "another") == number
    await store.mark({Message(number, "lost", "alice"): (run.claim.token, True)})
    assert open_bodies(db) == ["another"]
    await store.mark({Message(number, "another", "alice"): (run.claim.token, True)})
    assert open_bodies(db) == [], "the control"


async def test_end_of_a_run_does_not_wait_for_a_database_that_is_away(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its marks are written later. They count although the result is recorded by then."""
    monkeypatch.setattr(message_desk, "PATIENCE_SECONDS", 0.2)
    await worker.heard("hello")
    run = await worker.claim()
    mailbox = worker.begin(run)
    messages = mailbox.take()
    async with worker.lane.idle():  # nothing gets through
        mailbox.delivered(messages)
        async with asyncio.timeout(5):
            await worker.end(run, mailbox)
            assert not await mailbox.last_look()
            assert await mailbox.earlier() == ()
        assert open_bodies(worker.db) == ["hello"], "control"
        await worker.stores.results.finish([finished(run.task, worker.stores.worker_id)])
    await until_async(lambda: open_bodies(worker.db) == [], 10, "the mark is written")
    assert body(worker.db, "hello") == (True, run.claim.token, None)
    assert left_over(worker.db) == (0, 0)


async def test_new_conversation_hears_what_earlier_runs_were_told(worker: Worker) -> None:
    await worker.heard("first")
    run = await worker.claim()
    mailbox = worker.begin(run)
    assert await mailbox.earlier() == []
    mailbox.delivered(mailbox.take())
    await worker.end(run, mailbox)
    worker.db.execute("update agent_tasks set status = 'cancelled'")
    await worker.stores.results.finish([finished(run.task, worker.stores.worker_id)])
    worker.db.execute("update agent_tasks set status = 'pending'")
    again = await worker.claim()
    assert again.task.messages == ()
    assert [one.body for one in await worker.begin(again).earlier()] == ["first"]


async def test_more_than_one_look_holds_comes_when_it_is_taken(worker: Worker) -> None:
    mailbox = worker.begin(await worker.claim())
    worker.db.execute(
        "insert into agent_messages (task_id, body) select 't', n || repeat('x', 250000) from generate_series(1, 12) n"
    )
    worker.desk.any_open()
    batches: list[tuple[str, ...]] = []
    while sum(len(batch) for batch in batches) < 12:
        batches.append(await worker.arrives(mailbox))
    assert len(batches) > 1, "a look is bounded"
    assert [int(one.rstrip("x")) for batch in batches for one in batch] == list(range(1, 13))
