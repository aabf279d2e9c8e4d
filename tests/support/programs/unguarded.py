"""A worker as `turbo worker` runs it, with named guards taken out: the controls of tests that show what a guard is for.

    python tests/support/programs/unguarded.py CONFIG '["fence", …]'

A guard that is a condition in a statement is edited out of its text; the edit fails when the text is not there, so that a
control never runs guarded without anybody noticing.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turbo import db, sql
from turbo.config.worker import load_worker_config
from turbo.db import claim_store as queue
from turbo.host.spool import Spool, SpoolUnavailable
from turbo.observability import log
from turbo.worker import completer as finisher
from turbo.worker import worker
from turbo.worker.reconciler import Reconciler
from turbo.worker.recovery_gate import RecoveryGate

GUARDS: dict[str, Callable[[], None]] = {}


def guard(take_out: Callable[[], None]) -> Callable[[], None]:
    GUARDS[take_out.__name__] = take_out
    return take_out


def edit(name: str, old: str, new: str) -> None:
    """Change one statement, everywhere it is used."""
    text: str = sql.statement(name)
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {name}.sql"
    _edited[name] = text.replace(old, new)


_edited: dict[str, str] = {}


@guard
def fence() -> None:
    """Results are recorded whoever has the task by now."""
    edit("tasks/finish", "c.current_token = c.token and (c.was = 'running'", "(true")


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
        "where t.task_id = m.task_id and t.fencing_token = m.fencing_token and t.status",
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
    queue.INFRA_CAP = 1_000


@guard
def lost_lease() -> None:
    """What this worker runs and somebody else has is left to run."""

    async def compare(self: Reconciler) -> None:
        await self._queue.reconcile(self._slots.known())

    Reconciler.compare = compare  # type: ignore[method-assign]


@guard
def reassert() -> None:
    """A claim that the database lost is not taken back."""

    async def nothing(*_: object) -> list[Any]:
        return []

    queue.Queue.reassert = nothing  # type: ignore[method-assign]


@guard
def replay() -> None:
    """What was recorded is not sent again after a reconnect."""
    Spool.recently_done = lambda _self: []  # type: ignore[method-assign]


@guard
def spool() -> None:
    """Results are nowhere but in memory until they are recorded."""

    async def nowhere(*_: object) -> None:
        return None

    finisher.Completer._put = nowhere  # type: ignore[method-assign]


@guard
def full_disk() -> None:
    """A result is handed over only when the disk has taken it, and claims go on when it does not."""

    async def hand_over(self: finisher.Completer, result: Any, *, durable: bool) -> None:
        try:
            entry = await asyncio.to_thread(self._spool.put, result) if durable else None
        except SpoolUnavailable as error:
            self._disk(str(error))
            return
        self.push(result, entry)

    finisher.Completer.hand_over = hand_over  # type: ignore[method-assign]
    worker.Worker._disk_changed = lambda _self, _trouble: None  # type: ignore[method-assign]


@guard
def settling() -> None:
    """After a crash claims go on at once."""

    async def at_once(_: object) -> None:
        return None

    RecoveryGate.settled = at_once  # type: ignore[method-assign]


@guard
def quick_return() -> None:
    """No guard: a worker that is always back at once, for a test that steps who comes first."""
    db.Backoff.next = lambda _self: 0.02  # type: ignore[method-assign]


async def main(file: str, names: str = "[]") -> int:
    original = sql.statement
    for name in json.loads(names):
        GUARDS[name]()

    def statement(name: str) -> str:
        return _edited.get(name) or original(name)

    for module in list(sys.modules.values()):
        if getattr(module, "statement", None) is original:
            module.statement = statement  # type: ignore[attr-defined]
    one = worker.Worker(load_worker_config(Path(file)), dsn=os.environ["TURBO_DSN"])
    log.configure(one.id)
    return await one.run()


if __name__ == "__main__":
    log.configure()
    sys.exit(asyncio.run(main(*sys.argv[1:])))
