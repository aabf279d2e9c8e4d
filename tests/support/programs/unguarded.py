"""A worker as `turbo worker` runs it, with named guards taken out: the controls of tests that show what a guard is for.

    python tests/support/programs/unguarded.py CONFIG '["fence", …]'

A guard that is a condition in a statement is edited out of its text; the edit fails when the text is not there, so that a
control never runs guarded without anybody noticing.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import psycopg

from turbo import sql
from turbo.accounts.manager import AccountManager
from turbo.config.worker import load_worker_config
from turbo.db import result_store
from turbo.db.address import Address
from turbo.db.claim_store import ClaimStore, Reasserted
from turbo.db.identity import ListeningServer
from turbo.db.settle_store import SettleStep, SettleStore
from turbo.domain.check import WorkCheck
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.domain.problem import ProblemKind
from turbo.domain.question import Answered
from turbo.domain.result import RunResult
from turbo.domain.run import Running
from turbo.domain.states import StopCause
from turbo.domain.task import Task
from turbo.executors.checks.state import StateFile
from turbo.host.spool import Spool, SpoolEntry
from turbo.host.spool_writer import SpoolWriter
from turbo.observability import log
from turbo.runtime.backoff import Backoff
from turbo.worker.claim_gate import ClaimGate
from turbo.worker.completer import Completer
from turbo.worker.presence import WorkerPresence
from turbo.worker.recovery_gate import RecoveryGate
from turbo.worker.runner import Runner
from turbo.worker.settler import Settled, Settler
from turbo.worker.signals import WorkerSignals
from turbo.worker.worker import Worker

GUARDS: dict[str, Callable[[], None]] = {}


def guard(take_out: Callable[[], None]) -> Callable[[], None]:
    GUARDS[take_out.__name__] = take_out
    return take_out


def edit(name: str, old: str, new: str) -> None:
    """Change one statement, everywhere it is used."""
    text: str = _edited.get(name, sql.statement(name))
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {name}.sql"
    _edited[name] = text.replace(old, new)


_edited: dict[str, str] = {}


@guard
def unavailable() -> None:
    """What is away counts as the task's failure."""

    async def fails(_self: AccountManager, _run: Running, outcome: Outcome) -> Outcome:
        return replace(outcome, kind=OutcomeKind.FAILED)

    AccountManager._away = fails  # type: ignore[method-assign]


@guard
def fence() -> None:
    """Results are recorded whoever has the task by now."""
    edit("tasks/finish", "c.current_token = c.token and (c.was = 'running'", "(true")


@guard
def verdict() -> None:
    """Whatever a check finds, the work is taken for good."""
    WorkCheck.passed = property(lambda _self: True)  # type: ignore[method-assign, assignment]


@guard
def check_state() -> None:
    """A run knows nothing of the checks of the run before it."""

    def nothing(_self: StateFile, _task: Task) -> None:
        return None

    StateFile.read = nothing  # type: ignore[method-assign]


@guard
def ask_fence() -> None:
    """A question is recorded whoever has the task by now, and however often it is sent."""
    edit(
        "tasks/ask",
        "and (c.current_token = i.token and c.was in ('running', 'pending', 'scheduled') or c.was in",
        "and (c.task_id is not null or c.was in",
    )


@guard
def last_need() -> None:
    """A task is let go while one of its needs is still open."""
    edit("settle/settle", "sum(x.n) <= 0 or", "sum(x.n) <= 1 or")
    edit("settle/settle", "(b.needs_left <= 0 or", "(b.needs_left <= 1 or")


@guard
def settler() -> None:
    """Nobody settles."""

    async def nothing(_self: Settler) -> Settled:
        return Settled()

    Settler.once = nothing  # type: ignore[method-assign]


@guard
def left_over() -> None:
    """Nobody looks for messages that no run will take."""

    async def nothing(_self: SettleStore) -> SettleStep:
        return SettleStep()

    SettleStore.left_over = nothing  # type: ignore[method-assign]


@guard
def consumed_token() -> None:
    """A recorded result leaves its token in the row as it was."""
    edit("tasks/finish", "fencing_token = - d.token,", "fencing_token = d.token,")


@guard
def same_id() -> None:
    """A waiting row that was never claimed takes the result of whatever had its id."""
    edit(
        "tasks/finish",
        "and not coalesce((select true from public.agent_actions a where a.task_id = c.task_id and a.fencing_token = c.token"
        " limit 1), false)",
        "",
    )


@guard
def random_token() -> None:
    """Tokens are what the sequence says, and nothing else."""
    edit("tasks/claim", "| floor(random() * 1048576)::bigint", "")


@guard
def orphans() -> None:
    """A claim whose answer was lost is not looked for."""
    edit(
        "tasks/reconcile",
        "where t.task_id = f.task_id and t.fencing_token = f.fencing_token and t.status",
        "where false and t.status",
    )


@guard
def counted_silence() -> None:
    """A worker is dead when its last beat is older than its lease, whoever kept it from beating."""
    edit(
        "workers/beat",
        "(w.silent_beats + 1) * w.heartbeat_seconds >= w.lease_seconds",
        "w.heartbeat_at < clock_timestamp() - make_interval(secs => w.lease_seconds)",
    )


@guard
def poison_cap() -> None:
    """A task is rescued as often as it takes."""
    result_store.INFRA_CAP = 1_000


@guard
def lost_lease() -> None:
    """A run whose task another worker has goes on."""
    stop = Runner.stop

    def keep_lost(self: Runner, claim: ClaimRef, cause: StopCause) -> None:
        if cause is not StopCause.LOST:
            stop(self, claim, cause)

    Runner.stop = keep_lost  # type: ignore[method-assign]


@guard
def reassert() -> None:
    """A claim that the database lost is not taken back."""

    async def nothing(_self: ClaimStore, _lost: Mapping[ClaimRef, Answered | None]) -> Reasserted:
        return Reasserted(())

    ClaimStore.reassert = nothing  # type: ignore[method-assign]


@guard
def replay() -> None:
    """What was recorded is not sent again after a reconnect."""

    def nothing(_self: Spool) -> list[SpoolEntry]:
        return []

    Spool.recently_done = nothing  # type: ignore[method-assign]


@guard
def spool() -> None:
    """Results are only in memory until they are recorded."""

    async def nowhere(_self: SpoolWriter, _result: RunResult) -> SpoolEntry | None:
        return None

    SpoolWriter.put = nowhere  # type: ignore[method-assign]


@guard
def full_disk() -> None:
    """A result that the disk does not take is dropped, and claims go on."""
    put, submit = SpoolWriter.put, Completer.submit

    class Dropped(Exception):
        pass

    async def put_or_drop(self: SpoolWriter, result: RunResult) -> SpoolEntry:
        entry = await put(self, result)
        if entry is None:
            raise Dropped
        return entry

    async def submit_if_spooled(self: Completer, result: RunResult, *, durable: bool) -> None:
        try:
            await submit(self, result, durable=durable)
        except Dropped:
            return

    def go_on(_self: ClaimGate, _kind: ProblemKind, _reason: str | None, do: str = "") -> None:
        return None

    SpoolWriter.put = put_or_drop  # type: ignore[method-assign, assignment]
    Completer.submit = submit_if_spooled  # type: ignore[method-assign]
    ClaimGate.hold = go_on  # type: ignore[method-assign]


@guard
def recovery_gate() -> None:
    """After a crash claims go on at once."""

    async def at_once(_self: RecoveryGate) -> None:
        return None

    RecoveryGate.wait_open = at_once  # type: ignore[method-assign]


@guard
def one_server() -> None:
    """A worker with two DSNs does not compare the servers they lead to."""

    def pass_by(_self: ListeningServer, _found: str) -> None:
        return None

    ListeningServer.check = pass_by  # type: ignore[method-assign]


@guard
def claims_session() -> None:
    """No guard: the claims' session fails three times in what follows a connect of the listener."""
    reset_idle, failures = WorkerPresence.reset_idle, iter(range(3))

    async def fail_first(self: WorkerPresence) -> None:
        if next(failures, None) is not None:
            raise psycopg.OperationalError("the claims' session failed")
        await reset_idle(self)

    WorkerPresence.reset_idle = fail_first  # type: ignore[method-assign]


@guard
def quick_return() -> None:
    """No guard: a worker that is always back at once, for a test that steps which worker comes first."""

    def short(_self: Backoff) -> float:
        return 0.02

    Backoff.next = short  # type: ignore[method-assign]


async def main(file: str, names: str = "[]") -> int:
    original = sql.statement
    for name in json.loads(names):
        GUARDS[name]()

    def statement(name: str, variant: sql.Variant | None = None) -> str:
        return original(name, variant) if variant is not None else _edited.get(name) or original(name)

    for module in list(sys.modules.values()):
        if getattr(module, "statement", None) is original:
            module.statement = statement  # type: ignore[attr-defined]
    listen = os.environ.get("TURBO_LISTEN_DSN")
    where = Address(os.environ["TURBO_DSN"], listen=Address(listen) if listen else None)
    one = Worker(load_worker_config(Path(file)), dsn=where)
    log.configure(one.id)
    WorkerSignals().handle(asyncio.get_running_loop(), one.stop, one.reload)
    return await one.run()


if __name__ == "__main__":
    log.configure()
    sys.exit(asyncio.run(main(*sys.argv[1:])))
