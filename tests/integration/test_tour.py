"""`make tour`, at small size: it starts, its page answers, an agent asks, and nothing is left of it."""

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.support.waiting import until

TOUR = Path(__file__).parents[2] / "scripts" / "tour.py"

pytestmark = pytest.mark.xdist_group("web_task")


def test_tour_shows_a_question_and_leaves_nothing(tmp_path: Path):
    log = tmp_path / "log"
    with log.open("wb") as out:
        words = [sys.executable, str(TOUR), "--pace", "0.05", "--pause", "0.2", "--port", "0", "--no-history"]
        tour = subprocess.Popen(
            words, stdout=out, stderr=out, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        )
    try:
        page = _printed(log, tour, r"http://127\.0\.0\.1:\d+")
        dsn = _printed(log, tour, r"postgresql://\S+")
        scratch = Path(_printed(log, tour, r"their logs are in (\S+)"))
        with urllib.request.urlopen(f"{page}/healthz", timeout=10) as answer:
            assert answer.status == 200
        with psycopg.connect(dsn, autocommit=True) as db:
            asked = (
                "select 1 from agent_tasks where question ->> 'text' = 'What is a coupon worth?' and status = 'waiting'"
            )
            until(lambda: db.execute(asked).fetchone(), 60, lambda: _logs(log, scratch))
            said = "select 1 from agent_transcripts where lines like '%A coupon can take a share%'"
            until(lambda: db.execute(said).fetchone(), 30, lambda: _logs(log, scratch))
        family = psutil.Process(tour.pid).children(recursive=True)
        assert len(family) > 4
    finally:
        tour.send_signal(signal.SIGINT)
        assert tour.wait(60) == 0, log.read_text()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    assert not scratch.exists()
    assert "Traceback" not in log.read_text()
    assert [one.name for one in tmp_path.iterdir()] == ["log"]


def _printed(log: Path, tour: "subprocess.Popen[bytes]", pattern: str) -> str:
    found = until(
        lambda: re.search(pattern, log.read_text()) or tour.poll() is not None,
        90,
        lambda: f"{pattern} in {log.read_text()}",
    )
    assert found is not True, log.read_text()
    return str(found[1] if found.re.groups else found[0])


def _logs(log: Path, scratch: Path) -> str:
    return log.read_text() + "".join(one.read_text()[-2000:] for one in scratch.glob("*.log"))
