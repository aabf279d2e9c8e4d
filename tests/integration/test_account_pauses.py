"""`turbo pause|resume --account`, and what becomes of an account whose prober is killed; real CLI, real workers."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support import messages_api
from tests.support.accounts import ACCOUNT, BAD, AccountsBench, HeldRequests, accounts_bench, is_probe, refuse_bad_keys
from tests.support.claude import bash
from tests.support.messages_api import Answer, Request
from tests.support.waiting import gone, until
from tests.support.workers import WorkerProcess

MANUAL = {(ACCOUNT, "*"): ("paused", "manual")}


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator[AccountsBench]:
    with accounts_bench(dsn, tmp_path) as one:
        yield one


def paused(bench: AccountsBench, worker: WorkerProcess, reason: str = "manual") -> bool:
    return worker.metric(bench.dsn, "turbo_account_paused", account=ACCOUNT, reason=reason) == 1


def test_pause_and_resume_reach_every_host_by_notify(bench: AccountsBench) -> None:
    workers = [bench.worker(host, timings={"resume_spread": 3600.0}) for host in ("alpha", "beta")]
    bench.turbo("pause", "--account", ACCOUNT, "--reason", "the budget")
    for worker in workers:  # they poll once an hour: only the notification can have told them
        bench.until(lambda w=worker: paused(bench, w))
    assert bench.breakers() == MANUAL
    assert bench.breaker("*")["why"] == "the budget"
    bench.task("t")
    bench.task("other", task_type="noop")
    bench.wait("other")
    assert bench.counts("t") == [("pending", 0, 0)]
    bench.turbo("resume", "--account", ACCOUNT)
    bench.wait("t")
    assert not any(paused(bench, worker) for worker in workers)
    assert bench.probes() == 0


def test_poll_finds_a_pause_whose_notification_was_lost(bench: AccountsBench) -> None:
    polls = bench.worker("alpha", worker={"poll_seconds": 0.5})
    deaf = bench.worker("beta", rechecks=False)  # the control: it polls once an hour
    bench.sql("alter table agent_accounts disable trigger turbo_notify_accounts")
    with psycopg.connect(bench.dsn, autocommit=True) as listener:
        listener.execute("listen turbo_ctl")
        bench.turbo("pause", "--account", ACCOUNT)
        bench.until(lambda: paused(bench, polls))
        assert not paused(bench, deaf)
        bench.turbo("resume", "--account", ACCOUNT)
        bench.until(lambda: not paused(bench, polls))
        assert list(listener.notifies(timeout=0)) == [], "the fault did not bite"


def test_good_probe_does_not_lift_a_pause_by_hand(bench: AccountsBench) -> None:
    probe = HeldRequests()

    def decide(request: Request) -> Answer | None:
        if is_probe(request):
            probe.wait()
            return None
        return messages_api.error(403, "permission_error", "Request not allowed")

    bench.api.decide = decide
    worker = bench.worker("alpha")
    bench.task("t", max_retries=0)
    bench.until(probe.here.is_set)
    assert bench.breakers() == {(ACCOUNT, "alpha"): ("suspect", None)}
    bench.turbo("pause", "--account", ACCOUNT)
    bench.until(lambda: paused(bench, worker))
    probe.go.set()
    worker.said("probe good")
    bench.until(lambda: bench.breakers() == MANUAL)
    # Nobody can say whose fault it was: it goes back, and costs nothing.
    bench.until(lambda: bench.counts("t") == [("pending", 0, 0)])
    assert paused(bench, worker)


def test_resume_during_a_probe_opens_at_once(bench: AccountsBench) -> None:
    probe = HeldRequests()

    def decide(request: Request) -> Answer | None:
        if is_probe(request):
            probe.wait()
            return None
        return messages_api.error(403, "permission_error", "Request not allowed")

    bench.api.decide = decide
    bench.worker("alpha")
    bench.task("t", max_retries=0)
    bench.until(probe.here.is_set)
    bench.turbo("resume", "--account", ACCOUNT)
    probe.go.set()
    assert bench.wait("t", "failed")["failure_kind"] == "auth"
    assert bench.probes() == 2, "the first one's word no longer counted"
    assert bench.breakers() == {}


def test_another_worker_probes_after_the_prober_is_killed(bench: AccountsBench) -> None:
    held = HeldRequests()

    def decide(request: Request) -> Answer | None:
        if is_probe(request) and not held.here.is_set():
            held.wait()
        return refuse_bad_keys(request)

    bench.api.decide = decide
    timings = {"probe_lease": 3.0}
    workers = [bench.worker("alpha", BAD, timings=timings) for _ in range(2)]
    bench.task("t", max_retries=0)
    bench.until(held.here.is_set)
    probing = bench.breaker("alpha")["probe_by"]
    (prober,) = (w for w in workers if w.worker_id == probing)
    (other,) = (w for w in workers if w is not prober)
    prober.kill(signal.SIGKILL)
    bench.until(lambda: bench.breakers() == {(ACCOUNT, "alpha"): ("paused", "auth")})
    assert bench.probes() == 2
    other.said("is suspect: probing")
    held.go.set()
    bench.until(lambda: bench.counts("t")[0][:2] == ("pending", 0) or bench.counts("t")[0][:2] == ("scheduled", 0))


def test_suspicion_of_a_dead_worker_is_decided_by_another(bench: AccountsBench) -> None:
    bench.sql(
        "insert into agent_accounts (account, host, state, changed_at)"
        " values (%s, 'alpha', 'suspect', now() - interval '8 seconds')",
        ACCOUNT,
    )
    bench.worker("alpha")
    bench.task("t")
    assert bench.probes() == 0
    bench.wait("t")
    assert bench.probes() == 1
    assert bench.breakers() == {}


def test_killed_worker_leaves_no_tool_behind(bench: AccountsBench) -> None:
    pids = bench.path / "pids"
    tool = bash(f"sleep 600 & sleep 601 & echo $$ $! $PPID > {pids}.new; mv {pids}.new {pids}; wait")
    bench.api.answer(tool, messages_api.text("done"))
    worker = bench.worker("alpha", allowed_tools=["Bash"])
    bench.task("t")
    bench.until(pids.exists)
    running = [int(pid) for pid in pids.read_text().split()]
    (cli,) = [int(line.split()[1]) for line in _processes() if int(line.split()[0]) == running[2]] or [0]
    everything = {*running, *_descendants(worker.pid)}
    assert len(everything) >= 4, "the CLI, its shell, and two sleeps"
    assert cli
    assert not any(gone(pid) for pid in everything), "they run before the kill"
    sessions = {line.split()[2] for line in _processes() if int(line.split()[0]) in running}
    assert len(sessions) > 1, "the tool has a session of its own: ending the CLI's group would not do"
    worker.kill(signal.SIGKILL)
    until(lambda: all(gone(pid) for pid in everything - {worker.pid}), 5, f"alive: {everything}")


def _processes() -> list[str]:
    """pid ppid session, of every process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        found.append(f"{stat.parent.name} {after[1]} {after[3]}")
    return found


def _descendants(root: int) -> set[int]:
    parents = {int(pid): int(ppid) for pid, ppid, _ in (line.split() for line in _processes())}
    found: set[int] = set()
    level = {root}
    while level := {pid for pid, ppid in parents.items() if ppid in level} - found:
        found |= level
    return found
