"""`turbo logs`, as a person calls it: on the worker's host, and from another one."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import prefork, workers
from tests.support.prefork import TURBO
from tests.support.waiting import until
from tests.support.workers import Bench
from turbo import embedded

TALKER = """
import json, pathlib, sys, time
task = json.load(sys.stdin)
data = task["input_data"]
for number, gate in enumerate(data["gates"]):
    print("\\x1b[31mattempt", task["attempt"], "line", number, flush=True)
    while not pathlib.Path(gate).exists():
        time.sleep(0.01)
print("the end", flush=True)
sys.exit(data.get("exit", 0))
"""


def start_talkers(bench: Bench) -> None:
    program = bench.path / "talker.py"
    program.write_text(TALKER)
    config = bench.config()
    config["executors"]["talker"] = {"kind": "command", "command": [sys.executable, str(program)]}
    config["routes"]["default"] = "talker"
    bench.start(config).listening()


@pytest.fixture
def talkers(bench: Bench) -> Bench:
    start_talkers(bench)
    return bench


class Logs:
    """One call of `turbo logs`; on this host, unless `away`."""

    def __init__(self, bench: Bench, *arguments: str, away: bool = False) -> None:
        self.out, self.err = bench.path / "out", bench.path / "err"
        place = bench.path / ("elsewhere" if away else "state")
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = prefork.popen(
                [TURBO, "logs", *arguments, "--state-dir", place],
                env={**os.environ, "TURBO_DSN": bench.dsn},
                stdout=out,
                stderr=err,
            )

    def ended(self) -> tuple[int, str, str]:
        return self.process.wait(30), self.out.read_text(), self.err.read_text()

    def complained(self, text: str) -> None:
        until(lambda: text in self.err.read_text(), what=f"{text!r} in {self.err.read_text()!r}")

    def said(self, text: str) -> None:
        until(
            lambda: text in self.out.read_text(), what=f"{text!r} in {self.out.read_text()!r}\n{self.err.read_text()}"
        )


def gates(bench: Bench, number: int) -> list[Path]:
    return [bench.path / f"gate{n}" for n in range(number)]


def test_log_on_its_host_is_shown_whole_and_followed(talkers: Bench) -> None:
    first, second = gates(talkers, 2)
    talkers.insert("t", {"gates": [str(first), str(second)]})
    following = Logs(talkers, "t", "-f")
    following.said("line 0")
    first.touch()
    following.said("line 1")
    second.touch()
    code, out, err = following.ended()
    assert code == 0
    assert out == "\x1b[31mattempt 1 line 0\n\x1b[31mattempt 1 line 1\nthe end\n", "into a pipe: as it was, and once"
    assert err.count("the full log of attempt 1, on this host: ") == 1
    assert err.endswith("t is completed\n")
    code, again, err = Logs(talkers, "t").ended()
    assert (code, again) == (0, out)
    shown = json.loads(Logs(talkers, "t", "--json").ended()[1])
    assert (shown["source"], shown["status"], shown["text"]) == ("log", "completed", out)


def test_log_from_another_host_is_its_last_line(talkers: Bench) -> None:
    first, second = gates(talkers, 2)
    talkers.insert("t", {"gates": [str(first), str(second)]})
    until(lambda: talkers.sql("select 1 from agent_progress"))
    code, out, err = Logs(talkers, "t", away=True).ended()
    assert code == 0
    assert out.rstrip().endswith(r"\x1b[31mattempt 1 line 0"), (
        "a line goes to a person: nothing in it steers a terminal"
    )
    host = talkers.sql("select host from agent_workers")[0][0]
    assert err.startswith("last line from the database")
    assert f"the full log is on host {host}, in the state directory of worker w-" in err
    following = Logs(talkers, "t", "--follow", away=True)
    following.said("line 0")
    first.touch()
    following.said("line 1")
    second.touch()
    code, out, err = following.ended()
    assert code == 0
    assert out.count("line 0") == out.count("line 1") == 1
    assert err.endswith("t is completed\n")
    code, out, err = Logs(talkers, "t", away=True).ended()
    assert (code, out) == (1, "")
    assert "no log in this state directory; worker w-" in err
    assert str(talkers.path / "state" / "logs" / "t") in err


def test_next_attempt_is_followed_too(talkers: Bench) -> None:
    gate = gates(talkers, 1)[0]
    gate.touch()
    talkers.insert("t", {"gates": [str(gate)], "exit": 3}, max_retries=1)
    code, out, err = Logs(talkers, "t", "-f").ended()
    assert code == 0
    assert "attempt 2 line 0" in out
    assert "the full log of attempt 2" in err
    assert "t is failed: " in err


def test_missing_log_is_explained(talkers: Bench) -> None:
    code, out, err = Logs(talkers, "nobody").ended()
    assert (code, out) == (1, "")
    assert "no task 'nobody'; `turbo tasks` lists them" in err
    talkers.sql(
        "insert into agent_tasks (task_id, task_description, run_after) values ('later', 'x', now() + interval '1 h')"
    )
    code, out, err = Logs(talkers, "later").ended()
    assert (code, out, err) == (1, "", "later is scheduled: no log on this host; it waits to run\n")
    assert Logs(talkers, "later", "-f", "--json").ended()[0] == 2


def test_id_prefix_is_enough(talkers: Bench) -> None:
    gate = gates(talkers, 1)[0]
    gate.touch()
    talkers.insert("review_1", {"gates": [str(gate)]})
    talkers.insert("review_2", {"gates": [str(gate)]})
    talkers.wait("review_1")
    assert Logs(talkers, "review_1").ended()[1].endswith("the end\n")
    code, out, err = Logs(talkers, "review").ended()
    assert (code, out) == (1, "")
    assert "'review' is a prefix of several ids: review_1, review_2" in err


@pytest.mark.parametrize("away", [False, True], ids=["on its host", "elsewhere"])
def test_follow_survives_a_database_outage(own_server: embedded.Server, tmp_path: Path, away: bool) -> None:
    with workers.bench(own_server.dsn, tmp_path) as bench:
        start_talkers(bench)
        first, second = gates(bench, 2)
        bench.insert("t", {"gates": [str(first), str(second)]})
        following = Logs(bench, "t", "-f", away=away)
        following.said("line 0")
        own_server.stop("immediate")
        following.complained("the database is away, waiting: ")
        first.touch()
        if not away:
            following.said("line 1")  # its log goes on without the database
        own_server.start_again()
        following.complained("the database is back")
        following.said("line 1")
        second.touch()
        code, _, err = following.ended()
        assert code == 0
        assert err.count("the database is away") == 1
        assert err.endswith("t is completed\n")


def test_log_cannot_control_the_terminal(talkers: Bench) -> None:
    gate = gates(talkers, 1)[0]
    gate.touch()
    talkers.insert("t", {"gates": [str(gate)]})
    talkers.wait("t")
    ours, theirs = pty.openpty()
    command: list[str | Path] = [TURBO, "logs", "t", "--state-dir", talkers.path / "state", "--dsn", talkers.dsn]
    subprocess.run(command, stdout=theirs, stderr=subprocess.DEVNULL, check=True, timeout=30)
    os.close(theirs)
    seen = os.read(ours, 65536)
    os.close(ours)
    assert rb"\x1b[31mattempt 1 line 0" in seen
    assert b"\x1b" not in seen


def test_log_of_any_size_is_shown_in_bounded_time(talkers: Bench) -> None:
    """A program may write to the log of its run by name: turbo's own is never so long."""
    gate = gates(talkers, 1)[0]
    gate.touch()
    talkers.insert("t", {"gates": [str(gate)]})
    talkers.wait("t")
    (log,) = (talkers.path / "state" / "logs" / "t").glob("*.log")
    os.truncate(log, 1 << 40)
    with log.open("ab") as file:
        file.write(b"behind it\n")
    left_out = "bytes without content are left out here\nbehind it\n"
    status, out, _ = Logs(talkers, "t", "-f").ended()
    assert (status, out.endswith(left_out)) == (0, True), out[-300:]
    assert len(out) < 10_000
    status, out, _ = Logs(talkers, "t", "--json").ended()
    assert json.loads(out)["text"].endswith(left_out)
