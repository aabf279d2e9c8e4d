"""What is done to the fleet, at random and often. Each fault says whether it bit: nothing is counted that did not happen."""

import signal
import threading
import time
from collections.abc import Callable

import psycopg

from tests.soak.fleet import LEASE_SECONDS, QUEUE, Fleet
from tests.support.waiting import until

HAND = ("cancelled", "pending", "completed", "failed")


def killed(fleet: Fleet) -> bool:
    return _signalled(fleet, signal.SIGKILL)


def drained(fleet: Fleet) -> bool:
    return _signalled(fleet, signal.SIGTERM)


def frozen(fleet: Fleet) -> bool:
    """Sometimes for longer than its lease: then it is taken for dead, and wakes into a world that went on."""
    worker = fleet.random.choice(fleet.workers)
    seconds = fleet.random.choice((0.2, 1.0, LEASE_SECONDS * 1.8))
    if worker.process.poll() is not None or worker.pid in fleet.stopped:
        return False
    worker.kill(signal.SIGSTOP)
    fleet.stopped.add(worker.pid)

    def thaw() -> None:
        time.sleep(seconds)
        fleet.stopped.discard(worker.pid)
        if worker.process.poll() is None:
            worker.kill(signal.SIGCONT)

    threading.Thread(target=thaw, daemon=True).start()
    return True


def _signalled(fleet: Fleet, number: signal.Signals) -> bool:
    worker = fleet.random.choice(fleet.workers)
    if worker.process.poll() is not None or worker.pid in fleet.stopped:
        return False
    worker.kill(number)
    return True


def session_ended(fleet: Fleet) -> bool:
    """One of the workers' sessions: a listener's, a heartbeat's, a lane's."""
    pids = fleet.bench.sql(
        "select pid from pg_stat_activity where application_name like 'turbo %%' and datname = current_database() order by pid"
    )
    if not pids:
        return False
    return bool(fleet.bench.sql("select pg_terminate_backend(%s)", fleet.random.choice(pids)[0])[0][0])


def answer_lost(fleet: Fleet) -> bool:
    """The next one with this text in it: any, or one with a claim in it, or what became of results."""
    before = fleet.wire.swallowed
    fleet.wire.swallow = fleet.random.choice((b"SELECT", b"fencing_token", b"verdict"))
    end = time.monotonic() + 1.0
    while fleet.wire.swallowed == before and time.monotonic() < end:
        time.sleep(0.005)
    fleet.wire.swallow = None
    return fleet.wire.swallowed > before


def edited(fleet: Fleet) -> bool:
    wish = fleet.random.choice(HAND)
    which = (
        "completed', 'failed', 'cancelled"
        if wish == "pending" and fleet.random.random() < 0.7
        else "pending', 'running', 'scheduled', 'waiting', 'blocked"
    )
    ids = fleet.bench.sql(f"select task_id from agent_tasks where status in ('{which}') order by random() limit 1")
    if not ids:
        return False
    task_id = ids[0][0]
    fleet.touched.add(task_id)
    fleet.bench.sql("update agent_tasks set status = %s where task_id = %s", wish, task_id)
    return True


def deleted(fleet: Fleet) -> bool:
    """A task that is over: others may wait for it, or go on with it."""
    ids = fleet.bench.sql(
        "select task_id from agent_tasks where status in ('completed', 'failed', 'cancelled') order by random() limit 1"
    )
    if not ids:
        return False
    task_id = ids[0][0]
    fleet.touched.add(task_id)
    if fleet.bench.sql("delete from agent_tasks where task_id = %s returning 1", task_id):
        fleet.deleted.add(task_id)
    return True


def paused(fleet: Fleet) -> bool:
    fleet.bench.sql("insert into agent_queues (queue) values (%s) on conflict do nothing", QUEUE)
    time.sleep(fleet.random.uniform(0.05, 0.4))
    until(lambda: fleet.bench.sql("delete from agent_queues where queue = %s returning 1", QUEUE), 5)
    return True


def server_restarted(fleet: Fleet) -> bool:
    fleet.server.stop("fast")
    fleet.server.start_again()
    return True


def server_crashed(fleet: Fleet) -> bool:
    fleet.server.stop("immediate")
    fleet.crashes += 1
    time.sleep(fleet.random.uniform(0, 2))
    fleet.server.start_again()
    return True


def failed_over(fleet: Fleet) -> bool:
    """To a standby that lags behind: the last commits are lost."""
    fleet.cluster.stand_by()
    fleet.cluster.lose(fleet.random)
    fleet.fail_over()
    return True


WEIGHTS: dict[Callable[[Fleet], bool], int] = {
    killed: 14,
    frozen: 12,
    drained: 8,
    session_ended: 22,
    answer_lost: 18,
    edited: 18,
    deleted: 4,
    paused: 6,
    server_restarted: 1,
    server_crashed: 1,
    failed_over: 1,
}


def inject(fleet: Fleet, fault: Callable[[Fleet], bool] | None = None) -> str | None:
    """One fault, a random one where none is named; its name if it bit."""
    fault = fault or fleet.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    try:
        return fault.__name__.replace("_", " ") if fault(fleet) else None
    except psycopg.Error:
        return None  # the database was away just then
