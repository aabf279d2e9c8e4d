"""The message desk: brings what people tell a task to the run of it, and writes down what reached its agent.

    INSERT ──NOTIFY, or a poll that sees open ones──▶ look ──▶ mailbox of the run ──executor──▶ delivered ──▶ marked
                                                                   └── the run ended before: open ──▶ the settler, once its
                                                                       result is recorded, or the next run

A message stays open in the database until its mark is written, so a crash at any moment delivers it twice at worst. Marks are
written before the result is handed on, or else a message that was delivered could become a follow-up; while the database is
away, that is waited for only briefly.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from turbo import db
from turbo.db.message_store import MessageStore, is_full
from turbo.domain.claim import ClaimRef
from turbo.domain.mailbox import Mailbox
from turbo.domain.run import Running
from turbo.domain.work import Message
from turbo.runtime.service import LoopService
from turbo.worker.slots import Slots

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 2.0
"""How long the start and the end of a run wait for the database to be asked, or told, about messages."""

DEFECT_SECONDS = 30.0
"""Until the next look after one that ended in an error of turbo's own."""


class MessageDesk(LoopService):
    """`left_over` is called when a message may be left over: its task's run is over here."""

    name = "messages"

    def __init__(self, store: MessageStore, worker_id: str, slots: Slots, left_over: Callable[[], None]) -> None:
        super().__init__()
        self._store = store
        self._worker_id = worker_id
        self._slots = slots
        self._left_over = left_over
        self._mailboxes: dict[ClaimRef, Mailbox] = {}
        self._look: set[ClaimRef] = set()
        self._marks: dict[Message, tuple[ClaimRef, bool]] = {}  # which run has it, and whether its agent does
        self._ended: set[str] = set()  # tasks of which messages are left, until their results are recorded
        self._event = asyncio.Event()
        self._written = asyncio.Event()
        self._outage = db.outage(log, "cannot read or mark messages", "messages are read again", level=logging.INFO)

    # ── the runner's side ───────────────────────────────────────────────────────────────────────────────────────────

    def mailbox(self, run: Running, *, converses: bool) -> Mailbox:
        """For a run that begins, with what its claim has brought. `converses`: it takes further messages until it ends."""
        mailbox = Mailbox(_Source(self, run.claim), run.task.messages)
        if converses:
            self._mailboxes[run.claim] = mailbox
            self.look_soon([run.claim])  # what was sent since the claim may have been heard before the run was known
        return mailbox

    async def ended(self, run: Running, mailbox: Mailbox) -> None:
        """The run's program is gone: what its agent has is written down, if the database can be told."""
        self._mailboxes.pop(run.claim, None)
        mailbox.on_arrival(None)
        if mailbox.known:
            self._ended.add(run.claim.task_id)
            await self._flushed(run.claim)

    def forget(self, claim: ClaimRef) -> None:
        """The run is over, however it ended."""
        self._mailboxes.pop(claim, None)

    def recorded(self, task_id: str) -> None:
        """The result of one of its runs is recorded: what is left can be seen to."""
        if task_id in self._ended:
            self._ended.discard(task_id)
            self._left_over()

    # ── what is heard ───────────────────────────────────────────────────────────────────────────────────────────────

    def heard(self, words: str) -> None:
        """A notification: `<worker id> <task id>`, as the judge of inserts saw the task."""
        worker_id, _, task_id = words.partition(" ")
        here = [claim for claim in self._mailboxes if claim.task_id == task_id]
        if here:
            self.look_soon(here)
        elif any(claim.task_id == task_id for claim in self._slots.known()):
            self._ended.add(task_id)  # its run takes no more, or its result is on its way
        elif worker_id == self._worker_id:
            self._left_over()

    def any_open(self) -> None:
        """The poll twin of `heard`: some message is open, of whatever task."""
        self.look_soon(self._mailboxes)

    def look_soon(self, claims: "Sequence[ClaimRef] | dict[ClaimRef, Mailbox]") -> None:
        """Ask the database what these runs have not been told yet."""
        self._look.update(claims)
        if self._look:
            self._event.set()

    # ── the database ────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        self.started.set()
        while True:
            await self._event.wait()
            self._event.clear()
            try:
                await self._write_marks()
                await self._read()
            except db.DATABASE_ERRORS as error:
                self._event.set()
                await self._outage.wait(error)
            except Exception:
                log.exception("a defect: cannot read or mark messages; trying again in %d s", DEFECT_SECONDS)
                self._event.set()
                await asyncio.sleep(DEFECT_SECONDS)
            else:
                self._outage.over()

    async def _write_marks(self) -> None:
        marks = dict(self._marks)
        if not marks:
            return
        await self._store.mark({message: (claim.token, delivered) for message, (claim, delivered) in marks.items()})
        self._marks = {message: mark for message, mark in self._marks.items() if marks.get(message) != mark}
        self._written.set()

    async def _read(self) -> None:
        claims = self._look & self._mailboxes.keys()
        if claims:
            await self._fetch(claims)
        self._look -= claims
        self._look &= self._mailboxes.keys()

    async def _fetch(self, claims: set[ClaimRef]) -> None:
        known = {number for claim in claims if claim in self._mailboxes for number in self._mailboxes[claim].known}
        for claim, messages in (await self._store.open(claims, known)).items():
            if (mailbox := self._mailboxes.get(claim)) is not None:
                mailbox.more = is_full(messages)
                mailbox.put(messages)

    async def look(self, claim: ClaimRef) -> None:
        """Ask now, for one run. Never raises."""

        async def fetch() -> None:
            try:
                await self._fetch({claim})
            except db.DATABASE_ERRORS as error:
                log.info("messages to task %s cannot be read now: %s", claim.task_id, db.reason(error))

        await asyncio.wait([self.jobs.start(fetch(), "last look at messages")], timeout=PATIENCE_SECONDS)

    async def earlier(self, claim: ClaimRef) -> Sequence[Message]:
        async def fetch() -> Sequence[Message]:
            try:
                return await self._store.earlier(claim)
            except db.DATABASE_ERRORS as error:
                log.info("earlier messages to task %s cannot be read now: %s", claim.task_id, db.reason(error))
                return ()

        job = self.jobs.start(fetch(), "earlier messages")
        await asyncio.wait([job], timeout=PATIENCE_SECONDS)
        return job.result() if job.done() and not job.cancelled() else ()

    def mark(self, claim: ClaimRef, messages: Sequence[Message], *, delivered: bool) -> None:
        self._marks |= dict.fromkeys(messages, (claim, delivered))
        self._event.set()

    async def _flushed(self, claim: ClaimRef) -> None:
        """Until the marks of a run are written; for PATIENCE_SECONDS at most."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while any(of == claim for of, _ in self._marks.values()):
                    self._written.clear()
                    await self._written.wait()
        except TimeoutError:
            log.info("which messages task %s was told is not written down yet", claim.task_id)


class _Source:
    """A MessageSource: the desk, for one run."""

    def __init__(self, desk: MessageDesk, claim: ClaimRef) -> None:
        self._desk = desk
        self._claim = claim

    async def look(self) -> None:
        await self._desk.look(self._claim)

    def look_soon(self) -> None:
        self._desk.look_soon([self._claim])

    async def earlier(self) -> Sequence[Message]:
        return await self._desk.earlier(self._claim)

    def mark(self, messages: Sequence[Message], *, delivered: bool) -> None:
        self._desk.mark(self._claim, messages, delivered=delivered)
