"""The worker: wires the loops together, from start to drain.

    starting (turbo.worker.startup) ──▶ up ──TERM──▶ draining (turbo.worker.shutdown) ──▶ gone (exit 0)

Promises: the metrics endpoint is up before the database answers; nothing is claimed before what a dead predecessor left
is ended, replayed and released; a drain keeps beating to its end, so that nobody rescues what it still runs.
"""

import asyncio
import functools
import logging
import operator
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any

import psycopg

from turbo import __version__, db
from turbo.accounts.breaker import AccountTimings
from turbo.accounts.manager import Accounts
from turbo.config.worker import RetentionSection, WorkerConfig
from turbo.db.claim_store import PollResult, Queue, ResultAnswer, WorkerRow
from turbo.db.connect import Backoff, Lane
from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.domain.result import RunResult
from turbo.domain.run import Running
from turbo.domain.states import WorkerState
from turbo.domain.task import Task
from turbo.domain.type_filter import TypeFilter
from turbo.executors.exclusive_directories import ExclusiveDirectories
from turbo.executors.protocol import Executor
from turbo.executors.registry import build_executors, exclusive_directories, workspace_policies
from turbo.host.spool import Spool
from turbo.host.state_dir import StateDir
from turbo.maintenance.file_retention import FileRetention
from turbo.maintenance.row_retention import RetentionAges, RowRetention
from turbo.maintenance.spool_maintenance import SpoolMaintenance
from turbo.observability.endpoint import Endpoint, TlsFiles
from turbo.observability.metrics import Metrics
from turbo.process.journal import Journal
from turbo.process.reaper import ReaperWatcher
from turbo.runtime.background import Background
from turbo.runtime.service import Service
from turbo.worker.availability import ExecutorAvailability
from turbo.worker.claimer import Claimer
from turbo.worker.completer import Completer
from turbo.worker.heartbeat import BEAT_DEADLINE, Beat, Heartbeat
from turbo.worker.leader import Leader
from turbo.worker.listener import Listener
from turbo.worker.progress import ProgressWriter
from turbo.worker.reconciler import Reconciler
from turbo.worker.recovery_gate import RecoveryGate
from turbo.worker.runner import RetryPolicy, Runner
from turbo.worker.shutdown import ShutdownDeadline, drain
from turbo.worker.slots import Slots
from turbo.worker.startup import Startup
from turbo.workspaces.sweep import WorkspaceRetention

log = logging.getLogger(__name__)

WORKER_ID_NAME = 26
"""Characters of the name that go into a worker id: `name-pid-6hex` must fit an adopted varchar(50)."""

CLAIMS_DEADLINE = 10.0
RESULTS_DEADLINE = 20.0
"""A statement that takes longer is cut off and sent again: a half-open connection would hold it for ever. A claim waits
for nobody's locks; a batch of results waits for a row that somebody is editing."""

REPLAY_SECONDS = 3.0
"""How long a reconnect waits for its replayed results to be answered, before it claims again."""


def worker_id(name: str) -> str:
    """Unique per process start. Contains the name, for queries that say LIKE '%alpha%'."""
    return f"{name[:WORKER_ID_NAME]}-{os.getpid()}-{secrets.token_hex(3)}"


def _ages(days: RetentionSection) -> RetentionAges:
    return RetentionAges(
        *(
            None if age is None else age * 86_400
            for age in (days.completed_days, days.failed_days, days.cancelled_days, days.actions_days)
        )
    )


class Worker:
    """One worker process. `await Worker(config).run()` returns when it has drained."""

    def __init__(
        self,
        config: WorkerConfig,
        *,
        dsn: str,
        executors: Mapping[str, Executor] | None = None,
        account_timings: AccountTimings | None = None,
    ) -> None:
        settings = config.worker
        self._config = config
        self._dsn = dsn
        self.host = settings.this_host
        self.id = worker_id(settings.name or self.host)
        self.metrics = Metrics()
        self._stopping = asyncio.Event()
        self._now = asyncio.Event()
        self._crash: BaseException | None = None
        self._draining = False
        self._connected_before = False
        self._metrics_address: str | None = None
        self._background = Background(self._crashed)

        self._settling = RecoveryGate()
        self._claims = Lane(dsn, f"turbo claims {self.id}", self._settling, deadline=CLAIMS_DEADLINE)
        self._results = Lane(dsn, f"turbo results {self.id}", deadline=RESULTS_DEADLINE)
        self.queue = Queue(self.id, self._claims, self._results, host=self.host, settling=self._settling)
        self.slots = Slots(settings.slots)

        self._state = StateDir(settings.state_dir)
        self._home = self._state.open_worker(self.id)
        self._journal = Journal(self._home.journal)
        self._watcher = ReaperWatcher()
        self._spool = Spool(self._home.spool)

        self.exclusive = ExclusiveDirectories(
            self._state.locks,
            self._home.journal,
            exclusive_directories(config),
            config.routes,
            lambda: self.claimer.wake_all(),
        )
        self._executors = (
            executors if executors is not None else build_executors(config, self._journal, self.exclusive.enter)
        )

        self.finisher = Completer(self.queue, self._spool, self.slots, self.metrics, self._recorded)
        self.claimer = Claimer(
            self.queue, settings.queues, self.slots, self.metrics, self._start_task, poll_seconds=settings.poll_seconds
        )
        self.runner = Runner(
            self.id,
            self._executors,
            config.routes,
            self.queue,
            self.slots,
            self.finisher,
            self._home,
            self.metrics,
            RetryPolicy(config.retry.base_seconds, config.retry.max_seconds),
            self._slot_freed,
            self._crashed,
        )
        self._heartbeat = Heartbeat(
            dsn,
            self.id,
            self.metrics,
            seconds=settings.heartbeat_seconds,
            busy=lambda: self.slots.busy,
            tell=self._beat_in_thread,
            crashed=self._crashed_in_thread,
        )
        self.reconciler = Reconciler(
            self.queue,
            self.slots,
            self.claimer,
            self.metrics,
            self.runner.stop,
            seconds=settings.heartbeat_seconds,
            lease_seconds=settings.lease_seconds,
            last_beat=lambda: self._heartbeat.last_beat,
            kill_when_cut_off=settings.on_lost_lease == "kill",
        )
        self.leader = Leader(self.queue, self.metrics)
        self.retention = RowRetention(Lane(dsn, f"turbo retention {self.id}"), _ages(config.retention), self.metrics)
        self._sweep = WorkspaceRetention(
            self._state.workspaces, self._state.locks, self._journal, workspace_policies(config)
        )
        self.tidy = FileRetention(
            self.queue, self._state, self.slots, days=settings.files_days, gigabytes=settings.files_gb
        )
        self.housekeeping = SpoolMaintenance(self.finisher, self._spool)
        self.listener = Listener(
            dsn, self.queue, settings.queues, self, self.metrics, poll_seconds=settings.poll_seconds
        )
        self.listener.on_failure = self._settling.failed
        self._let_through: dict[str, TypeFilter] = {}
        self.accounts = Accounts(
            self.queue,
            self.host,
            self._executors,
            config.routes,
            self.metrics,
            lambda types: self._types_changed("accounts", types),
            shared=config.accounts,
            timings=account_timings,
        )
        self.queue.accounts = self.accounts.names
        self._saying: asyncio.Task[None] | None = None
        self.programs = ExecutorAvailability(
            self._executors, config.routes, lambda types: self._types_changed("programs", types)
        )
        self.progress = ProgressWriter(self.queue, Lane(dsn, f"turbo progress {self.id}"), self.slots)
        self._departure = ShutdownDeadline(self._claims, self._results, self.progress.lane)
        self.runner.after_run = self._after_run
        self.runner.run_ended = lambda task: self.exclusive.run_ended(task.fencing_token)
        self.runner.put_off = self.claimer.due_in
        self.claimer.exclusive = self.exclusive
        self.runner.progress = self.progress.tell
        self.claimer.on_stop = self.reconciler.want
        self.claimer.on_sweep = self.accounts.seen
        self.finisher.on_disk_change = self._disk_changed
        self._endpoint = Endpoint(self.metrics.registry, unhealthy=self._unhealthy, unready=self._unready)
        self.metrics.expect(settings.queues, self._executors)
        self.metrics.running.known = tuple((e.name, e.account or "") for e in self._executors.values())
        self.metrics.running.runs = lambda: [(r.executor, r.account or "") for r in list(self.slots.running.values())]
        self.metrics.slots.labels("busy").set_function(lambda: self.slots.busy)
        self.metrics.slots.labels("free").set_function(lambda: self.slots.free)

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> int:
        """From start to drained. Returns the exit code: 0, or 1 after a defect of its own."""
        self._loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(sig, self.stop)
        self._serve_metrics()
        self._watcher.start(self._home.journal)
        log.info(
            "worker %s %s starting: %d slots, queues %s",
            self.id,
            __version__,
            self.slots.size,
            ", ".join(self._config.worker.queues),
        )
        loops: list[Service] = [
            self.progress,
            self.finisher,
            self.housekeeping,
            self.reconciler,
            self.leader,
            self.retention,
            self._sweep,
            self.tidy,
            self.accounts,
            self.programs,
            self.listener,
            self.claimer,
        ]
        startup = Startup(
            self.queue,
            self._claims,
            self._state,
            self._spool,
            host=self.host,
            dsn=self._dsn,
            replay=self._replay_adopted,
            rescue=self._rescue,
            register=self._register,
            learn=self.accounts.learn,
        )
        try:
            self.finisher.start(self._crashed)  # what dead workers left goes through it, too
            if not await self._until_stopped(startup.run()):
                return 0
            self._heartbeat.start()
            self.programs.look()
            for loop in loops:
                if loop is not self.finisher:
                    loop.start(self._crashed)
            await self._stopping.wait()
            await self._drain()
        finally:
            self._departure.begin()
            # Cancelled once more as the process ends, whoever is not gone by then waits for nothing.
            await asyncio.wait({asyncio.create_task(self._end_loops(loops))}, timeout=self._departure.left)
            await asyncio.to_thread(self._heartbeat.stop, self._departure.left)
            await self._say_goodbye()
            await self._claims.close()
            await self._results.close()
            self._watcher.close()
            self._endpoint.close()
            self._home.close()
        return 0 if self._crash is None else 1

    def stop(self) -> None:
        """Drain; a second call ends the agents now."""
        if self._stopping.is_set():
            log.info("second signal: ending all runs now")
            self._now.set()
        self._stopping.set()

    def _crashed_in_thread(self, name: str, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(self._crashed, name, error)

    def _crashed(self, name: str, error: BaseException) -> None:
        log.critical("the %s crashed; draining", name, exc_info=error)
        self._crash = error
        self._now.set()
        self._stopping.set()

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run `work` unless a stop comes first. True when it ended by itself."""
        job = asyncio.create_task(work)
        stopped = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({job, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if job.done():
            job.result()
            return True
        self._departure.begin()
        job.cancel()
        await asyncio.wait({job})
        return False

    def _serve_metrics(self) -> None:
        settings = self._config.metrics
        tls = settings.tls and TlsFiles(
            str(settings.tls.certfile),
            str(settings.tls.keyfile),
            str(settings.tls.client_ca) if settings.tls.client_ca else None,
        )
        port = self._endpoint.serve(settings.host, settings.port, tls or None)
        self._metrics_address = f"{settings.host}:{port}"
        log.info("metrics on http%s://%s/metrics", "s" if tls else "", self._metrics_address)

    def _unhealthy(self) -> Iterator[str]:
        """For /healthz: what only a restart mends."""
        if self._crash is not None:
            yield f"a defect ({type(self._crash).__name__}, see the log); draining"

    def _unready(self) -> Iterator[str]:
        """For /readyz: why nothing is claimed now."""
        yield from self._unhealthy()
        silence = time.monotonic() - self._heartbeat.last_beat
        if self._stopping.is_set():
            yield "draining"
        elif not self._connected_before:
            yield f"waiting for the database at {db.describe(self._dsn)}"
        elif silence > 2 * self._config.worker.heartbeat_seconds:
            yield f"the database has taken no heartbeat for {silence:.0f} s"
        if self.claimer.held_back is not None:
            yield self.claimer.held_back
        if self.claimer.types.none:
            yield "every account is paused"

    # ── start ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _register(self) -> None:
        settings = self._config.worker
        await self.queue.register(
            WorkerRow(
                name=settings.name or self.host,
                host=self.host,
                pid=os.getpid(),
                version=__version__,
                slots=settings.slots,
                queues=tuple(settings.queues),
                labels=dict(settings.labels),
                accounts=self.accounts.names,
                metrics_address=self._metrics_address,
                heartbeat_seconds=settings.heartbeat_seconds,
                lease_seconds=settings.lease_seconds,
                poll_seconds=settings.poll_seconds,
            ),
            self._state_now,
        )

    async def _replay_adopted(self) -> "Counter[str]":
        entries = await asyncio.to_thread(lambda: [*self._spool.pending(), *self._spool.recently_done()])
        return await self.finisher.replay(entries, None)

    async def _rescue(self, reason: str) -> None:
        for rescued in await self.queue.rescue(reason):
            self.metrics.rescued.labels(reason).inc()
            if rescued.status == "failed":
                self.metrics.poisoned.inc()
            log.warning(
                "rescued from dead worker %s: %s", rescued.was_on, rescued.status, extra={"task": rescued.task_id}
            )
        self.claimer.look()  # it waits a backoff: learn when it is due

    # ── what the loops tell each other ──────────────────────────────────────────────────────────────────────────────

    def _start_task(self, task: Task) -> None:
        self.runner.start(task)

    def _slot_freed(self, key: bool) -> None:
        self.claimer.slot_freed(key=key)
        self.progress.run_ended()

    def _recorded(self, result: RunResult, answer: ResultAnswer) -> None:
        if answer.becomes == "failed" and result.outcome == OutcomeKind.INFRASTRUCTURE:
            self.metrics.poisoned.inc()
        due = self.runner.recorded(result, answer)
        if due is not None:
            self.claimer.due_in(due)
        elif answer.becomes == "pending":
            self.claimer.wake(result.queue)

    async def _after_run(self, run: Running, outcome: Outcome) -> Outcome:
        self.programs.after_run(outcome)
        return await self.accounts.after_run(run, outcome)

    def _types_changed(self, source: str, types: TypeFilter) -> None:
        """An account or a program closed executors, or opened some: claim accordingly from this moment on, and say so in
        the worker's row."""
        self._let_through[source] = types
        types = functools.reduce(operator.and_, self._let_through.values())
        self.claimer.types = types
        self._background.start(self._rewrite_idle(), "idle flag")
        self._state_changed()

    @property
    def _state_now(self) -> WorkerState:
        if self._draining:
            return WorkerState.DRAINING
        return WorkerState.PAUSED if self.claimer.types.none else WorkerState.UP

    def _state_changed(self) -> None:
        if self._saying is None or self._saying.done():
            self._saying = self._background.start(self._say_state(), "word of this worker's state")

    async def _say_state(self) -> None:
        """Until the row says what is so: a worker whose row stayed `paused` after an outage would claim nothing more."""
        backoff = Backoff()
        while True:
            state = self._state_now
            try:
                await self.queue.set_state(state)
            except (psycopg.Error, OSError) as error:
                log.debug("state not written: %s", db.reason(error))
                await asyncio.sleep(backoff.next())
                continue
            if state is self._state_now:
                return

    def _disk_changed(self, trouble: str | None) -> None:
        self.claimer.held_back = trouble
        self._background.start(self._rewrite_idle(), "idle flag")

    async def _rewrite_idle(self) -> None:
        try:
            await self.claimer.forget_idle()
        except (psycopg.Error, OSError) as error:
            log.debug("idle flag not written: %s", db.reason(error))

    def wake(self, queue: str) -> None:
        self.claimer.wake(queue, by_notify=True)

    def called(self, queue: str, place: int) -> None:
        self.claimer.called(queue, place)

    def control(self, message: str) -> None:
        what, _, whom = message.partition(" ")
        if what == "stop" and whom == self.id:
            self.reconciler.want()
        elif what in ("queues", "accounts"):
            self.claimer.look()

    def swept(self, sweep: PollResult) -> None:
        self.claimer.swept(sweep)

    async def connected(self, *, hears: bool) -> None:
        """After every (re)connect of the listener: reassert what runs, write the idle flag anew, sweep."""
        for lane in (self._claims, self._results):
            lane.prepare = hears  # a listener that hears proves that no transaction pooler is in the way
        self.claimer.listening = hears and not self._draining
        if self._connected_before:
            await self._put_back()
        self.reconciler.want()
        self._connected_before = True
        await self.claimer.forget_idle()
        self._settling.restored()
        self.claimer.look()

    async def _put_back(self) -> None:
        """After a reconnect: claims that a crash forgot are reasserted, and what was recorded within the hour is sent
        again, for an asynchronous failover can lose an acknowledged commit. What the database still has answers
        "already"."""
        await self.reconciler.compare()
        await self.finisher.replay(await asyncio.to_thread(self._spool.recently_done), REPLAY_SECONDS)

    def disconnected(self) -> None:
        self._settling.disconnected()
        self.claimer.listening = False

    def _beat_in_thread(self, beat: Beat) -> None:
        self._loop.call_soon_threadsafe(self._beat, beat)

    def _beat(self, beat: Beat) -> None:
        if beat.moved_to is not None or beat.after_silence:
            self.listener.leave(beat.moved_to)
            for lane in (self._claims, self._results):
                lane.leave(beat.moved_to, waiting=0.0 if beat.moved_to else BEAT_DEADLINE)
        self.leader.leads(beat.leads)
        self.retention.leads(beat.leads)
        if beat.died:
            log.warning("declared dead, no beat within their lease: %s", ", ".join(beat.died))
        if not beat.alive:
            log.warning("the database took this worker for dead, or lost its row: registering again")
            self._background.start(self._come_back(), "return after silence")
        if beat.to_rescue:
            self._background.start(self._rescue_quietly(), "rescue")

    async def _come_back(self) -> None:
        try:
            await self._register()
        except (psycopg.Error, OSError) as error:
            log.warning("cannot register: %s", db.reason(error))  # the next beat asks again
            return
        self.reconciler.want()
        await self._rewrite_idle()

    async def _rescue_quietly(self) -> None:
        try:
            await self._rescue("worker_silent")
        except (psycopg.Error, OSError) as error:
            log.warning("cannot rescue: %s", db.reason(error))  # the next beat asks again

    # ── drain ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _drain(self) -> None:
        self._draining = True
        self._heartbeat.may_lead = False
        self._state_changed()
        await drain(
            self._departure,
            self.claimer,
            self.runner,
            self.slots,
            self.finisher,
            self.reconciler,
            seconds=self._config.worker.drain_seconds,
            now=self._now,
        )

    async def _end_loops(self, loops: list[Service]) -> None:
        for loop in reversed(loops):
            await loop.stop()
        await self._background.close()

    async def _say_goodbye(self) -> None:
        try:
            await self.queue.deregister()
        except (psycopg.Error, OSError) as error:
            log.debug("not deregistered: %s", error)
        log.info("worker %s stopped", self.id)
