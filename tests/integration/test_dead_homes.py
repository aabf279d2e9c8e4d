"""What dead workers left in the state directory, of any shape: the next worker starts, says what it leaves alone, and shows it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.requirements import missing
from tests.support.rig import finished
from tests.support.shell import Shell
from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess
from turbo.domain.claim import ClaimRef
from turbo.host.regular_file import NotRegular
from turbo.host.spool import Spool
from turbo.host.state_dir import DIRECTORIES, StateDir, StateDirUnusable

KEPT = "w-999999991-abcdef"  # no pid is so high
FINE = "w-999999992-abcdef"
LOCKS = {"fifo": "w-999999993-abcdef", "directory": "w-999999994-abcdef", "link": "w-999999995-abcdef"}
ABROAD = "w-999999996-abcdef"


@pytest.fixture
def other_disk(bench: Bench) -> Iterator[None]:
    """The spool of one dead worker is on a disk of its own: its results cannot be renamed into another spool."""
    if os.geteuid() != 0:
        missing("only root can mount a disk")
    spool = bench.path / "state" / "workers" / KEPT / "spool"
    StateDir(bench.path / "state")
    spool.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(spool)], check=True)
    yield
    bench.close()
    subprocess.run(["umount", "-l", str(spool)], check=True)


def left(state: Path, worker: str, task: str) -> Spool:
    spool = Spool(state / "workers" / worker / "spool")
    spool.put(finished(ClaimRef(task, 7), worker))
    (state / "workers" / worker / "database").write_text("")
    return spool


@pytest.mark.usefixtures("other_disk")
def test_one_odd_home_keeps_no_worker_from_starting(bench: Bench, shell: Shell) -> None:
    state = bench.path / "state"
    kept = left(state, KEPT, "t")
    left(state, FINE, "u")
    for shape, home in LOCKS.items():
        left(state, home, "v")
        lock = state / "workers" / home / "lock"
        if shape == "fifo":
            os.mkfifo(lock)
        elif shape == "link":
            lock.symlink_to("/nowhere")
        else:
            lock.mkdir()
    abroad = bench.path / "abroad"
    abroad.mkdir()
    (abroad / "precious.json").write_text("{}")
    (state / "workers" / ABROAD).mkdir()
    (state / "workers" / ABROAD / "database").write_text("")
    for name in ("spool", "journal"):
        (state / "workers" / ABROAD / name).symlink_to(abroad)
    worker = bench.start(bench.config(poll_seconds=1, heartbeat_seconds=1)).listening()
    bench.insert("ours")
    bench.wait("ours")
    assert not (state / "workers" / FINE).exists(), "control: another's is taken over"
    assert [entry.result.task_id for entry in kept.pending()] == ["t"], "nothing is lost"
    assert f"left in {state / 'workers' / KEPT} cannot be taken over: [Errno 18]" in worker.log
    for home in LOCKS.values():
        assert f"left in {state / 'workers' / home} cannot be taken over" in worker.log
    assert list(abroad.iterdir()) == [abroad / "precious.json"], "no link is followed"
    (problems,) = bench.sql("select problems from agent_workers where worker_id = %s", worker.worker_id)
    assert [problem["kind"] for problem in problems[0]] == ["left_behind"] * 4
    status = shell("status")
    assert f"left in {state / 'workers' / KEPT}" in status.out
    doctor = shell("doctor", "--config", next(bench.path.glob("*.yaml")))
    for home in LOCKS.values():
        assert str(state / "workers" / home / "lock") in doctor.out
    workers = state / "workers"
    for home in (LOCKS["fifo"], LOCKS["link"]):
        (workers / home / "lock").unlink()
    (workers / LOCKS["directory"]).rename(bench.path / "taken away")
    (workers / ABROAD / "spool").unlink()
    (workers / ABROAD / "journal").unlink()
    until(
        lambda: problems_of(bench, worker) == [str(workers / KEPT)],
        20,
        lambda: f"{problems_of(bench, worker)} {worker.log}",
    )
    assert not (workers / LOCKS["fifo"]).exists(), "taken over"
    assert worker.stop() == 0


def problems_of(bench: Bench, worker: WorkerProcess) -> list[str]:
    """The directories that its problems name."""
    (problems,) = bench.sql("select problems from agent_workers where worker_id = %s", worker.worker_id)
    return [problem["what"].partition(" left in ")[2].partition(" cannot ")[0] for problem in problems[0]]


def test_link_in_the_state_directory_is_refused(bench: Bench, shell: Shell) -> None:
    state, elsewhere = bench.path / "state", bench.path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    state.mkdir(mode=0o700)
    for name in (*DIRECTORIES, "databases"):
        (state / name).symlink_to(elsewhere)
        with pytest.raises(StateDirUnusable, match=f"{state / name} is a symbolic link"):
            StateDir(state)
        (state / name).unlink()
    (state / "databases").mkdir(exist_ok=True)
    (state / "databases" / "d").symlink_to(elsewhere)
    (state / "database").write_text("another")
    with pytest.raises(NotRegular, match="databases/d is a symbolic link"):
        StateDir(state).use("d", claim=False)
    name = "tasks"
    (state / name).rmdir()
    (state / name).symlink_to(elsewhere)
    worker = bench.start()
    assert worker.process.wait(timeout=20) != 0
    assert [line for line in worker.log.splitlines() if f"{state / name} is a symbolic link" in line] == [
        worker.log.strip()
    ]
    assert not list(elsewhere.iterdir())
    doctor = shell("doctor", "--config", next(bench.path.glob("*.yaml")))
    assert f"{state / name} is a symbolic link" in doctor.out


def test_more_dead_homes_than_open_files_are_taken_over(bench: Bench) -> None:
    """Each lock that is held is an open file. Any program of the worker's user can make such directories."""
    workers = StateDir(bench.path / "state").root / "workers"
    for number in range(300):
        home = workers / f"d-{990_000_000 + number}-abcdef"
        home.mkdir()
        for name in ("lock", "database"):
            (home / name).touch()
    bench.program = ("sh", "-c", 'ulimit -Sn 256 && exec "$0" "$@"', *bench.program)
    worker = bench.start()
    worker.listening()
    limits = Path(f"/proc/{worker.process.pid}/limits")
    if limits.exists():
        (line,) = [line for line in limits.read_text().splitlines() if line.startswith("Max open files")]
        assert line.split()[3] == "256", "the fault bites"
    assert [home.name for home in workers.iterdir()] == [worker.worker_id]
