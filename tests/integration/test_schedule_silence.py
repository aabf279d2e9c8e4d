"""Between slots, a fleet with a hundred schedules asks the database what one without any asks. The server's log counts."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support import schedules
from tests.support.database import migrated_server
from tests.support.waiting import until
from tests.support.workers import Bench
from turbo import embedded

LOGGED = {"log_statement": "all", "log_line_prefix": "%a | ", "fsync": "off", "autovacuum": "off"}
STATEMENT = re.compile(
    r"^turbo[^|]* \| LOG:  (?:execute [^:]*|statement): (?:/\* turbo (\S+) \*/|(.{1,60}))", re.MULTILINE
)
BEAT, LOOK, FIRE = "workers/beat", "schedules/due", "schedules/fire"
BEATS = 6


@pytest.fixture
def server() -> Iterator[embedded.Server]:
    with migrated_server(LOGGED) as one:
        yield one


@pytest.fixture
def bench(server: embedded.Server, tmp_path: Path) -> Iterator[Bench]:
    one = Bench(server.dsn, tmp_path)
    yield one
    one.close()


class Log:
    """What turbo's sessions sent: each statement by its name, or by how it begins."""

    def __init__(self, server: embedded.Server) -> None:
        self.path = server.data_dir / "server.log"
        self.at = 0

    def asked(self) -> Counter[str]:
        """Since the last `read`."""
        with self.path.open(errors="replace") as log:
            log.seek(self.at)
            return Counter(name or words for name, words in STATEMENT.findall(log.read()))

    def read(self) -> Counter[str]:
        found = self.asked()
        self.at = self.path.stat().st_size
        return found

    def idle(self) -> Counter[str]:
        """While the workers send some heartbeats."""
        self.read()
        until(lambda: self.asked()[BEAT] >= BEATS, 60)
        return self.read()


def test_hundred_schedules_are_no_queries_between_slots(server: embedded.Server, bench: Bench) -> None:
    log = Log(server)
    for name in ("a", "b"):
        bench.start(name=name, state_dir=str(bench.path / name), poll_seconds=600).listening()
    until(lambda: log.asked()[LOOK] >= 2, 20, lambda: str(log.asked()))
    known = log.read() + log.idle()
    assert known[BEAT] >= BEATS
    with psycopg.connect(server.dsn, autocommit=True) as db:
        for n in range(100):
            schedules.add(db, f"s{n}", f"{n % 60} 3 29 2 *", task_type="noop")
        computed = "select from agent_schedules where next_at is null"
        until(lambda: not db.execute(computed).fetchall(), 60, "every next slot is computed")
        changed = log.idle()
        with_schedules = log.idle()
        assert with_schedules[LOOK] == with_schedules[FIRE] == 0, (changed, with_schedules)
        assert with_schedules.keys() <= known.keys(), "nothing that the fleet without them did not ask"
        db.execute("update agent_schedules set next_at = date_trunc('second', now()), rev = rev + 1 where name = 's7'")
        db.execute("select pg_notify('turbo_ctl', 'schedule')")
        until(lambda: log.asked()[FIRE], 60, "the control: at a slot, the log has what a scheduler asks")
        assert log.asked()[LOOK] >= 1
