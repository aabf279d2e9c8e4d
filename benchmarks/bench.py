"""One run: the server, its databases, the contenders that take part, and interleaved rounds."""

import contextlib
import re
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import conninfo

from benchmarks.contender import Contender, Silent
from benchmarks.contenders import contenders
from turbo import embedded

SERVER_SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "wal_compression": "on",
}
"""fsync and synchronous_commit stay on. What else is set keeps checkpoints out of single rounds."""


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def spread(values: Iterable[float]) -> float:
    """(largest − smallest) ÷ median of the rounds' figures: how far the machine's noise reaches."""
    found = list(values)
    middle = statistics.median(found)
    return (max(found) - min(found)) / middle if middle else 0.0


@dataclass
class Table:
    """What a measure found. `rows`: (who, figures by column); `ratio`: the column whose ratio to `base` is shown."""

    title: str
    columns: list[str]
    rows: list[tuple[str, dict[str, float]]]
    note: str = ""
    plot: str | None = None  # the column that is drawn
    plot_unit: str = ""
    plot_log: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    less_is_better: tuple[str, ...] = ()
    more_is_better: tuple[str, ...] = ()
    """Ratios of turbo that `--check` compares with those of the last run (guard.py)."""

    def document(self) -> dict[str, Any]:
        return dict(self.__dict__)


@dataclass
class Bench:
    server: embedded.Server
    rounds: int
    quick: bool
    names: list[str]
    _templates: dict[tuple[str, str, int], str] = field(default_factory=dict)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def taking_part(self) -> list[Contender]:
        """Those that were asked for and can run here."""
        return [
            c
            for c in contenders()
            if (not self.names or c.name in self.names or c.module in self.names) and c.unavailable() is None
        ]

    @contextlib.contextmanager
    def database(self, contender: Contender, slots: int) -> Iterator[str]:
        """A new database with the contender's schema, copied from one that was set up once."""
        key = (contender.module, contender.variant, slots)
        with psycopg.connect(self.server.dsn, autocommit=True) as admin:
            if key not in self._templates:
                name = re.sub(r"\W", "_", f"t_{contender.module}_{contender.variant}_{slots}")
                admin.execute(f"create database {name}")
                contender.setup(self.dsn_of(name), slots)
                self._templates[key] = name
            name = f"b_{uuid.uuid4().hex[:10]}"
            admin.execute(f"create database {name} template {self._templates[key]}")
            try:
                yield self.dsn_of(name)
            finally:
                admin.execute(f"drop database {name} with (force)")

    def copy(self, dsn: str) -> str:
        """A copy of a database that nobody is connected to."""
        name = f"b_{uuid.uuid4().hex[:10]}"
        with psycopg.connect(self.server.dsn, autocommit=True) as admin:
            admin.execute(f"create database {name} template {conninfo.conninfo_to_dict(dsn)['dbname']}")
        return self.dsn_of(name)

    def drop(self, dsn: str) -> None:
        with psycopg.connect(self.server.dsn, autocommit=True) as admin:
            admin.execute(f"drop database {conninfo.conninfo_to_dict(dsn)['dbname']} with (force)")

    def dsn_of(self, database: str) -> str:
        return f"{self.server.dsn.rpartition('/')[0]}/{database}"  # a URL: what node, asyncpg and Rust read too

    def interleave(
        self, who: list[Contender], one: Callable[[Contender, int], dict[str, float]]
    ) -> dict[str, list[dict[str, float]]]:
        """Round after round, each contender once a round, the first one another each time. One that fails is left out, and
        said so."""
        found: dict[str, list[dict[str, float]]] = {c.name: [] for c in who}
        failed: set[str] = set()
        for number in range(self.rounds):
            turn = number % len(who) if who else 0
            for contender in who[turn:] + who[:turn]:
                if contender.name in failed:
                    continue
                began = time.monotonic()
                try:
                    figures = one(contender, number)
                except (Silent, psycopg.Error) as error:
                    self.say(f"  {contender.name}: left out: {error}")
                    failed.add(contender.name)
                    continue
                found[contender.name].append(figures)
                shown = ", ".join(f"{k} {v:,.4g}" for k, v in figures.items() if k != "times")
                self.say(f"  round {number + 1} {contender.name}: {shown}   ({time.monotonic() - began:.1f} s)")
        return {name: rounds for name, rounds in found.items() if rounds and name not in failed}
