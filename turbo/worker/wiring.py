"""Wiring: builds every part of one worker in the order of their dependencies, by constructor arguments only.

    listener ──▶ claimer ──▶ runner ──▶ executor ──▶ completer        the path of a task

What several parts share is made first: Lifecycle (are we stopping?), ClaimGate (may we claim?), WakeUps (from which queue,
and when?), Slots (what runs?), DatabaseContact (when did we reach the database?), Leadership (do we lead?).
"""

import asyncio
import functools
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from turbo import __version__
from turbo.accounts.breaker import AccountTimings
from turbo.accounts.chooser import AccountChooser
from turbo.accounts.conversations import KeptAccounts
from turbo.accounts.headroom import Headroom
from turbo.accounts.manager import AccountManager, accounts_of, payers
from turbo.accounts.windows import AccountWindows
from turbo.config.executors import PythonSection
from turbo.config.loader import ConfigError, has_password
from turbo.config.worker import MetricsSection, PriceSection, RetentionSection, WorkerConfig
from turbo.db.account_store import AccountStore
from turbo.db.address import Address
from turbo.db.budget_store import BudgetStore
from turbo.db.channels import Notifier
from turbo.db.claim_store import ClaimStore
from turbo.db.file_store import FileStore
from turbo.db.lane import Lane
from turbo.db.message_store import MessageStore
from turbo.db.question_store import QuestionStore
from turbo.db.quiet_store import QuietStore
from turbo.db.refusals import Refusals
from turbo.db.result_store import ResultStore
from turbo.db.retention_store import RetentionAges, RetentionStore
from turbo.db.schedule_store import ScheduleStore
from turbo.db.settle_store import SettleStore
from turbo.db.trace_store import TraceStore
from turbo.db.window_store import WindowStore
from turbo.db.worker_registry import WorkerRegistry, WorkerRow
from turbo.domain.dependency import account_behind
from turbo.domain.limits import InputLimits
from turbo.domain.problem import ProblemKind
from turbo.domain.redact_patterns import bounded_patterns
from turbo.domain.redaction import secrets_in
from turbo.domain.usage import Price, Prices
from turbo.events.build import build_courier
from turbo.executors.exclusive_directories import ExclusiveDirectories
from turbo.executors.pool import each_member
from turbo.executors.protocol import Executor
from turbo.executors.registry import build_executors
from turbo.executors.sandboxes import build_sandboxes
from turbo.executors.work_areas import (
    exclusive_directories,
    pushing,
    workspace_git_configs,
    workspace_policies,
)
from turbo.host.spool import Spool
from turbo.host.spool_writer import SpoolWriter
from turbo.host.state_dir import StateDir, WorkerHome
from turbo.maintenance.file_retention import FileRetention
from turbo.maintenance.leader import Leader
from turbo.maintenance.leadership import Leadership
from turbo.maintenance.reminders import Reminders
from turbo.maintenance.row_retention import RowRetention
from turbo.maintenance.settle_audit import SettleAudit
from turbo.maintenance.spool_maintenance import SpoolMaintenance
from turbo.migrate import SCHEMA_VERSION
from turbo.observability.endpoint import Endpoint, TlsFiles
from turbo.observability.metrics import Metrics
from turbo.process.journal import Journal
from turbo.process.reaper import ReaperWatcher
from turbo.runtime.problems import Problems
from turbo.runtime.service import Service
from turbo.worker.agent_sessions import AgentSessions
from turbo.worker.availability import ExecutorAvailability
from turbo.worker.beat_handler import BeatHandler
from turbo.worker.budget_keeper import BudgetKeeper
from turbo.worker.claim_gate import ClaimGate
from turbo.worker.claimer import Claimer
from turbo.worker.completer import Completer
from turbo.worker.contact import DatabaseContact
from turbo.worker.crowding import Crowding
from turbo.worker.file_keeper import FileKeeper
from turbo.worker.health import Health
from turbo.worker.heartbeat import Heartbeat
from turbo.worker.killed_runs import KilledRuns
from turbo.worker.lifecycle import Lifecycle
from turbo.worker.listener import Listener
from turbo.worker.loop_health import LoopHealth
from turbo.worker.loop_watch import LoopWatch
from turbo.worker.message_desk import MessageDesk
from turbo.worker.poller import Poller
from turbo.worker.presence import WorkerPresence
from turbo.worker.progress import ProgressWriter
from turbo.worker.question_gate import QuestionGate
from turbo.worker.quiet_keeper import QuietKeeper
from turbo.worker.reconciler import Reconciler
from turbo.worker.recovery import Recovery
from turbo.worker.recovery_gate import RecoveryGate
from turbo.worker.rescuer import Rescuer
from turbo.worker.route_chooser import RouteChooser
from turbo.worker.runner import RetryPolicy, Runner
from turbo.worker.scheduler import Scheduler
from turbo.worker.sessions import Sessions
from turbo.worker.settler import Settler
from turbo.worker.shutdown import Shutdown
from turbo.worker.shutdown_deadline import ShutdownDeadline
from turbo.worker.slots import Slots
from turbo.worker.startup import Startup
from turbo.worker.traces import NO_TRACES, NoTraces, Traces
from turbo.worker.transcripts import TranscriptWriter
from turbo.worker.wakeups import WakeUps
from turbo.workspaces.sweep import WorkspaceRetention

WORKER_ID_NAME = 26
"""Characters of the name that go into a worker id: `name-pid-6hex` must fit an adopted varchar(50)."""

CLAIMS_DEADLINE = 10.0
RESULTS_DEADLINE = 20.0
"""A statement that takes longer is cut off and sent again: a half-open connection would hold it for ever. Results have
longer: a claim waits for no lock, but a batch of results may wait for a row that a person is editing."""

RESULTS_LOCK = 1.0
"""A result whose row another transaction keeps locked is set aside after this long; the rest of its batch is recorded."""

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that a worker drives, or a test. `services`: started in this order once start-up is done, stopped in reverse."""

    worker_id: str
    home: WorkerHome
    lifecycle: Lifecycle
    slots: Slots
    claims: Lane
    results: Lane
    watcher: ReaperWatcher
    loop_watch: LoopWatch
    endpoint: Endpoint
    presence: WorkerPresence
    availability: ExecutorAvailability
    completer: Completer
    heartbeat: Heartbeat
    startup: Startup
    shutdown: Shutdown
    deadline: ShutdownDeadline
    services: tuple[Service, ...]


def wire(
    config: WorkerConfig,
    where: str | Address,
    *,
    executors: Mapping[str, Executor] | None = None,
    account_timings: AccountTimings | None = None,
) -> Parts:
    """`executors` and `account_timings` are for tests: in place of the configured ones.

    Raises ConfigError, StateDirUnusable and OSError: what cannot be used on this host."""
    settings = config.worker
    where = where if isinstance(where, Address) else Address(where)
    dsn = where.dsn  # for messages
    host = settings.this_host
    worker_id = new_worker_id(settings.name or host)

    # What the parts share.
    lifecycle, loop_health = Lifecycle(), LoopHealth()
    metrics = Metrics()
    slots = Slots(settings.slots)
    problems = Problems()
    routes = config.executors_by_type
    gate = ClaimGate(problems, routes)
    contact = DatabaseContact()
    leadership = Leadership()
    recovery_gate = RecoveryGate(pooled=where.apart)
    wakeups = WakeUps(settings.queues, poll_seconds=settings.poll_seconds)
    asking = frozenset(name for name, section in config.executors.items() if section.ask is not None)
    questions = QuestionGate(problems, tuple(settings.queues), asking)
    claiming, reconcile = asyncio.Lock(), asyncio.Event()

    # This host.
    state = StateDir(settings.state_dir)
    home = state.open_worker(worker_id)
    journal = Journal(home.journal)
    spool = Spool(home.spool)
    spool_writer = SpoolWriter(
        spool,
        functools.partial(gate.hold, ProblemKind.DISK, do="make its state_dir writable, or free space there"),
        functools.partial(_report_moves, problems),
    )
    exclusive = ExclusiveDirectories(state.locks, home.journal, exclusive_directories(config), routes, wakeups.wake_all)

    # The database.
    sessions = Sessions(where, problems)
    claims = Lane(where, f"turbo claims {worker_id}", sessions.need("claims", recovery_gate), deadline=CLAIMS_DEADLINE)
    results = Lane(
        where,
        f"turbo results {worker_id}",
        sessions.need("results"),
        deadline=RESULTS_DEADLINE,
        lock_seconds=RESULTS_LOCK,
    )
    progress_lane = sessions.courtesy(f"turbo progress {worker_id}")
    settle_lane = sessions.courtesy(f"turbo settle {worker_id}")
    deadline = ShutdownDeadline(claims, results, progress_lane)
    refusals = Refusals(problems, metrics)
    registry = WorkerRegistry(claims, worker_id, refusals)
    sandboxes = build_sandboxes(config, own_files=where.files)
    if executors is None:
        executors = build_executors(
            config,
            journal,
            exclusive.enter,
            lambda: state.workspaces,
            registry.goes_on,
            registry.earlier_work,
            sandboxes,
        )
    account_names = accounts_of(executors)
    each = {name: name for name in executors}  # for those who close executors, whatever their types
    claim_store = ClaimStore(
        claims,
        worker_id,
        refusals,
        host=host,
        labels=config.worker.all_labels,
        stay_seconds=config.worker.stay_seconds,
        accounts=account_names,
        limits=InputLimits(int(config.worker.max_input_mb * 1_000_000)),
        has_files=state.has_files,
    )
    budgets = BudgetKeeper(BudgetStore(claims), routes, payers(executors), wakeups.wake_all)
    result_store = ResultStore(results, worker_id, refusals, host=host, used=budgets.used)
    prices = _prices(config.prices)
    notifier = Notifier(claims)
    settle_store = SettleStore(settle_lane, worker_id, refusals)
    retention_store = RetentionStore(sessions.courtesy(f"turbo retention {worker_id}"), _ages(config.retention))

    # What the fleet and Prometheus see of this worker.
    health = Health(lifecycle, loop_health, contact, gate, dsn=dsn, heartbeat_seconds=settings.heartbeat_seconds)
    endpoint = Endpoint(
        metrics.registry,
        config.metrics.host,
        config.metrics.port,
        _tls(config.metrics),
        unhealthy=health.unhealthy,
        unready=health.unready,
    )
    shown_names = tuple(name for name in account_names if account_behind(name) == name)
    presence = WorkerPresence(registry, _row(config, host, shown_names), endpoint, gate, wakeups, lifecycle)
    checked = [name for name, one in config.executors.items() if one.checked]
    metrics.declare_series(settings.queues, executors, checked, pushing(config))
    metrics.observe(slots, tuple(each_member(executors)))
    metrics.observe_problems(problems.count)
    metrics.loop_lag.set_function(lambda: loop_health.lag)

    # The path of a task, from its end to its beginning.
    settler = Settler(settle_store, notifier, wakeups, unsettled=SettleStore(claims, worker_id, refusals).unsettled)
    settle_audit = SettleAudit(settle_store, leadership, settler.wake)
    schedule_store = ScheduleStore(claims, worker_id)
    scheduler = Scheduler(schedule_store, metrics)
    messages = MessageDesk(MessageStore(claims), worker_id, slots, settler.wake)
    agent_sessions = AgentSessions(sessions.courtesy(f"turbo agent sessions {worker_id}"), host)
    transcripts = TranscriptWriter(
        sessions.courtesy(f"turbo transcripts {worker_id}"),
        [name for name, one in config.executors.items() if not isinstance(one, PythonSection) and one.transcripts],
        metrics,
        problems,
        secrets=functools.partial(_own_secrets, where, claims),
        patterns=bounded_patterns(config.redact),
    )
    progress = ProgressWriter(progress_lane, worker_id, slots, refusals)
    accounts = AccountManager(
        AccountStore(claims, worker_id, host),
        host,
        executors,
        each,
        metrics,
        gate.closer("accounts"),
        shared=config.accounts,
        timings=account_timings,
    )
    availability = ExecutorAvailability(
        executors,
        each,
        gate.closer("executor availability"),
        problems,
        accounts_changed=accounts.usable_changed,
        sandboxes=sandboxes,
    )
    headroom = Headroom()
    metrics.windows.observe(headroom.shown)
    windows = AccountWindows(WindowStore(claims), headroom, config.accounts)
    chooser = AccountChooser(
        config.accounts,
        headroom,
        windows,
        KeptAccounts(home.logs),
        accounts.open_members,
        lambda: slots.running.values(),
        availability.check,
    )
    courier = build_courier(
        config,
        sessions.courtesy(f"turbo events {worker_id}"),
        worker_id,
        metrics,
        journal,
        home.path / "notify",
        functools.partial(_own_secrets, where, claims),
    )
    traces = _traces(config, TraceStore(sessions.courtesy(f"turbo traces {worker_id}")), worker_id, host)
    completer = Completer(
        result_store,
        spool_writer,
        slots,
        wakeups,
        problems,
        metrics,
        functools.partial(
            gate.hold,
            ProblemKind.RESULTS_WAIT,
            do="the results are kept, and recorded as soon as the database takes them; see this worker's log",
        ),
        settler.wake,
        was_recorded=messages.recorded,
        task_failed=scheduler.task_failed,
        traced=traces.recorded,
    )
    runner = Runner(
        worker_id,
        executors,
        routes,
        result_store,
        slots,
        wakeups,
        completer,
        home,
        (availability, accounts),
        progress,
        exclusive,
        messages,
        chooser,
        RetryPolicy(config.retry.base_seconds, config.retry.max_seconds),
        problems,
        metrics,
        questions,
        lifecycle.crashed,
        reconcile=reconcile,
        prices=prices,
        budgets=budgets,
        transcripts=transcripts,
        sessions=agent_sessions,
        choose=RouteChooser(executors, payers(executors), gate.serves, budgets.spent_accounts).choose,
        keeper=FileKeeper(FileStore(sessions.courtesy(f"turbo files {worker_id}"))),
        traces=traces,
    )
    poller = Poller(
        claim_store, settings.queues, wakeups, accounts, reconcile, settler, messages.any_open, scheduler, budgets
    )
    claimer = Claimer(
        claim_store,
        notifier,
        wakeups,
        poller,
        gate,
        recovery_gate,
        presence,
        exclusive,
        slots,
        runner,
        metrics,
        claiming=claiming,
        reconcile=reconcile,
        budgets=budgets,
    )
    reconciler = Reconciler(
        claim_store,
        slots,
        runner,
        contact,
        metrics,
        claiming=claiming,
        wanted=reconcile,
        seconds=settings.heartbeat_seconds,
        lease_seconds=settings.lease_seconds,
        kill_when_cut_off=settings.on_lost_lease == "kill",
    )
    rescuer = Rescuer(registry, wakeups, poller, metrics)
    recovery = Recovery(
        (claims, results, settle_lane),
        recovery_gate,
        sessions.need("notifications"),
        contact,
        presence,
        reconciler,
        completer,
        spool,
        rescuer,
        wakeups,
        settle_audit.soon,
        where.server,
    )
    quiet = QuietKeeper(QuietStore(claims, worker_id), poll_seconds=settings.poll_seconds)
    listener = Listener(
        where.listen,
        worker_id,
        settings.queues,
        notifier,
        wakeups,
        poller,
        recovery,
        problems,
        metrics,
        reconcile=reconcile,
        poll_seconds=settings.poll_seconds,
        settle=settler.heard,
        message=messages.heard,
        schedule=scheduler.heard,
        budgets=budgets.heard,
        subscriptions=courier.heard,
        woken=quiet.heard,
        apart=where.apart,
    )

    # Heartbeat, start-up and shutdown.
    heartbeat = Heartbeat(
        where.listen,
        worker_id,
        slots,
        contact,
        sessions.need("heartbeats"),
        problems,
        leadership,
        deadline,
        metrics,
        BeatHandler(listener, (claims, results), leadership, recovery, Crowding(wakeups, problems), questions),
        seconds=settings.heartbeat_seconds,
        asking=questions.queues,
        detour=where if where.apart else None,
    )
    startup = Startup(
        claims,
        where,
        registry,
        state,
        home,
        spool,
        completer,
        rescuer,
        presence,
        accounts,
        problems,
        KilledRuns(result_store, prices),
        host=host,
        again_seconds=settings.poll_seconds,
    )
    shutdown = Shutdown(
        deadline,
        lifecycle,
        leadership,
        presence,
        claimer,
        runner,
        slots,
        completer,
        reconciler,
        drain_seconds=settings.drain_seconds,
    )
    services: tuple[Service, ...] = (
        *((traces,) if isinstance(traces, Traces) else ()),
        heartbeat,
        progress,
        agent_sessions,
        transcripts,
        messages,
        presence,
        SpoolMaintenance(spool_writer),
        reconciler,
        Leader(registry, leadership, metrics),
        Reminders(QuestionStore(claims, worker_id), leadership),
        settle_audit,
        settler,
        scheduler,
        budgets,
        RowRetention(retention_store, leadership, metrics, before=schedule_store.judge),
        WorkspaceRetention(
            lambda: state.workspaces,
            state.locks,
            journal,
            workspace_policies(config),
            git_configs=workspace_git_configs(config),
            unfinished=registry.unfinished_if_known,
        ),
        FileRetention(registry, state, slots, days=settings.files_days, gigabytes=settings.files_gb),
        accounts,
        windows,
        availability,
        courier,
        quiet,
        recovery,
        listener,
        claimer,
    )
    return Parts(
        worker_id=worker_id,
        home=home,
        lifecycle=lifecycle,
        slots=slots,
        claims=claims,
        results=results,
        watcher=ReaperWatcher(),
        loop_watch=LoopWatch(loop_health, problems, runner.run_in, lease_seconds=settings.lease_seconds),
        endpoint=endpoint,
        presence=presence,
        availability=availability,
        completer=completer,
        heartbeat=heartbeat,
        startup=startup,
        shutdown=shutdown,
        deadline=deadline,
        services=services,
    )


def _traces(config: WorkerConfig, store: TraceStore, worker_id: str, host: str) -> Traces | NoTraces:
    """NO_TRACES: not configured, and nothing of it is loaded. Raises ConfigError."""
    if (otlp := config.telemetry.otlp) is None:
        return NO_TRACES
    try:
        from turbo.observability.otlp import Collector, SpanExport
    except ModuleNotFoundError as error:
        raise ConfigError(f"telemetry: the package {error.name} is missing: pip install 'agent-turbo[otel]'") from None
    attributes = {"service.instance.id": worker_id, "host.name": host}
    return Traces(store, SpanExport(Collector(otlp.endpoint, otlp.service_name, attributes)))


def new_worker_id(name: str) -> str:
    """Unique per process start. Contains the name, for queries with LIKE '%alpha%'."""
    return f"{name[:WORKER_ID_NAME]}-{os.getpid()}-{secrets.token_hex(3)}"


def _row(config: WorkerConfig, host: str, accounts: tuple[str, ...]) -> WorkerRow:
    settings = config.worker
    return WorkerRow(
        name=settings.name or host,
        host=host,
        pid=os.getpid(),
        version=__version__,
        slots=settings.slots,
        queues=tuple(settings.queues),
        labels=settings.all_labels,
        accounts=accounts,
        metrics_address=None,
        heartbeat_seconds=settings.heartbeat_seconds,
        lease_seconds=settings.lease_seconds,
        poll_seconds=settings.poll_seconds,
        schema=SCHEMA_VERSION,
    )


def _report_moves(problems: Problems, why: str | None) -> None:
    if why is None:
        problems.clear(ProblemKind.DISK, "moves")
    else:
        problems.report(ProblemKind.DISK, "moves", f"recorded results cannot be put away: {why}", "make it writable")


def _own_secrets(where: Address, lane: Lane) -> frozenset[str]:
    """The worker's: what it logs in to the database with, and what its environment has under a name that says so."""
    own = {lane.password, where.listen.password, *secrets_in(os.environ)}
    own |= {dsn for dsn in (where.dsn, where.listen.dsn) if has_password(dsn)}
    return frozenset(own)


def _ages(section: RetentionSection) -> RetentionAges:
    days = (
        section.completed_days,
        section.failed_days,
        section.cancelled_days,
        section.actions_days,
        section.usage_days,
        section.transcript_days,
    )
    return RetentionAges(*(None if age is None else age * DAY for age in days))


def _prices(sections: Mapping[str, PriceSection]) -> Prices:
    def price(section: PriceSection) -> Price:
        read = section.input if section.cache_read is None else section.cache_read
        written = section.input if section.cache_write is None else section.cache_write
        return Price(section.input, section.output, read, written)

    return Prices({model: price(section) for model, section in sections.items()})


def _tls(section: MetricsSection) -> TlsFiles | None:
    tls = section.tls
    if tls is None:
        return None
    return TlsFiles(str(tls.certfile), str(tls.keyfile), str(tls.client_ca) if tls.client_ca else None)
