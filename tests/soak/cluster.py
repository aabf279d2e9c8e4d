"""The database of the soak: a primary, and a standby of it that is made when one is needed."""

import contextlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg

from tests.support.database import migrated_server
from tests.support.replication import Nodes, standby_of, streams
from tests.support.waiting import until
from turbo import embedded


@dataclass
class Cluster:
    primary: embedded.Server
    received: float = 0.0  # the last standby had everything that was committed until then, on our clock
    _its: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # what ends with the primary
    _pair: Nodes | None = None
    _next: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def stand_by(self) -> None:
        """There is a standby, and it streams."""
        if self._pair is None:
            self._pair = Nodes(self.primary, self._next.enter_context(standby_of(self.primary)))
        streams(self.primary)

    def lose(self, dice: random.Random) -> None:
        """The standby hears nothing more; after a moment the primary is gone."""
        assert self._pair is not None
        before = time.monotonic()
        with psycopg.connect(self.primary.dsn, autocommit=True) as db:
            position = db.execute("select pg_current_wal_flush_lsn()").fetchone()
            assert position is not None
            has_it = "select flush_lsn >= %s from pg_stat_replication"
            until(lambda: db.execute(has_it, position).fetchone() == (True,), 20, "the standby has it")
        self.received = before
        self._pair.cut()
        time.sleep(dice.choice((0.0, 0.2, 0.5)))
        self._pair.kill()

    def take_over(self) -> None:
        """The standby is the primary."""
        assert self._pair is not None
        self._pair.promote()
        self.primary = self._pair.standby
        with contextlib.suppress(embedded.EmbeddedError):
            self._its.close()
        self._its, self._next, self._pair = self._next, contextlib.ExitStack(), None

    def close(self) -> None:
        if self._pair is not None:
            self._pair.thaw()
        self._next.close()
        self._its.close()


@contextlib.contextmanager
def a_cluster() -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(migrated_server({"log_min_messages": "fatal"}))
        one = Cluster(primary)
        stack.callback(one.close)
        yield one
