"""A PostgreSQL backend whose instructions are counted: `postgres --single` under valgrind's callgrind.

    filled cluster ──copy──▶ run A: all rounds, calls in the first few ──▶ instructions A ─┐
          └─────────copy──▶ run B: all rounds, a call in each          ──▶ instructions B ─┴▶ (B - A) / more calls in B

Both runs contain the start, the warm-up, the first calls (they fill the caches and make the plans) and what comes before a
call. So all of that cancels out. Where run A leaves out a call, it reads the same text as a comment: a single-user server
reads its input character by character, which a session over a socket does not. The checkpoint at the end is not counted,
because it grows with the pages that were written. Both runs begin with a copy of the same cluster. After each run an
ordinary single-user server counts the rows that the calls wrote.
"""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path

import psycopg

from benchmarks.cost.statements import ROUNDS, WARM, Measure, fill, measures
from turbo import embedded
from turbo.migrate import migrate

SETTINGS = {
    # No page is read twice, and none is copied into the WAL whole because a checkpoint came before: both would make a
    # call dearer or cheaper by where it comes in the run.
    "shared_buffers": "256MB",
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "track_counts": "off",  # a backend writes its statistics once a second: instructions that depend on the clock
}
_FAILED = re.compile(r"\b(?:ERROR|FATAL|PANIC): .*")
_TOTAL = re.compile(r"^totals: (\d+)", re.MULTILINE)
_COUNT = re.compile(r'\bcount = "(\d+)"')


class CostError(Exception):
    """Nothing was measured; the message says what to do."""


@dataclass
class Backend:
    """A filled cluster that is stopped, and the programs that run copies of it."""

    server: embedded.Server
    valgrind: str
    measures: list[Measure]
    rounds: Mapping[int, tuple[int, int]]
    versions: dict[str, str]

    def __post_init__(self) -> None:
        self._home = self.server.data_dir.parent / "runs"
        self._numbers = numbers()

    def cost(self, measure: Measure) -> float:
        """Instructions of one call."""
        few, many = self.rounds[measure.rows]
        with ThreadPoolExecutor(2) as pool:
            low, high = pool.map(lambda calls: self._run(measure, many, calls), (few, many))
        return (high - low) / (many - few)

    def _run(self, measure: Measure, rounds: int, calls: int) -> int:
        lines = [*WARM, *measure.session]
        for k in range(rounds):
            lines += [measure.before(k)] if measure.before else []
            lines.append(measure.call(k) if k < calls else f"-- {measure.call(k)}")
        with self._copy() as (cluster, files):
            counted = files / "callgrind.out"
            self._single(cluster, lines, self.valgrind, *_callgrind(counted))
            text = counted.read_text()
            answer = self._single(cluster, [measure.written])
        total, written = _TOTAL.search(text), _COUNT.search(answer)
        if total is None or "PostgresMain" not in text:
            raise CostError("callgrind counted nothing: is PostgreSQL's program without symbols?")
        if written is None or int(written[1]) != calls * measure.rows:
            raise CostError(
                f"{measure.name}: {calls} calls wrote {written and written[1]} rows, not {calls * measure.rows}: "
                "the statement did not do its work, so its cost means nothing"
            )
        return int(total[1])

    @contextlib.contextmanager
    def _copy(self) -> Iterator[tuple[embedded.Server, Path]]:
        """A copy of the cluster, and a directory that the server's user may write to."""
        files = self._home / str(next(self._numbers))
        try:
            self._home.mkdir(exist_ok=True)
            files.mkdir()
            shutil.copystat(self.server.data_dir, files)
            subprocess.run(["cp", "-a", str(self.server.data_dir), str(files / "data")], check=True)
            owner = self.server.data_dir.stat()
            shutil.chown(files, owner.st_uid, owner.st_gid)
            yield embedded.Server(files / "data", 0, self.server.bin_dir), files
        finally:
            shutil.rmtree(files, ignore_errors=True)

    def _single(self, cluster: embedded.Server, lines: list[str], *wrapper: str) -> str:
        """Send `lines` to a single-user server. What it prints."""
        script = cluster.data_dir / "cost.sql"
        script.write_text("".join(f"{line}\n" for line in lines))
        script.chmod(0o644)
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        postgres = [str(cluster.bin_dir / "postgres"), "--single", "-D", str(cluster.data_dir), *settings, "postgres"]
        try:
            # An absolute path is taken as it is. The shell gives the server its input.
            printed = cluster.run("/bin/sh", "-c", 'exec "$@" <"$0"', str(script), *wrapper, *postgres)
        except embedded.EmbeddedError as error:
            raise CostError(f"the single-user server failed: {error}") from error
        if failed := _FAILED.search(printed):
            raise CostError(f"a statement failed: {failed[0]}")
        return printed


@contextlib.contextmanager
def backend(rounds: Mapping[int, tuple[int, int]] = ROUNDS) -> Iterator[Backend]:
    """A cluster with turbo's schema and the rows that `rounds` calls need. Raises CostError without valgrind."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise CostError("valgrind is not installed: apt-get install valgrind")
    with embedded.temporary(trust=True, settings=SETTINGS) as server:
        migrate(server.dsn)
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            for line in fill(rounds):
                connection.execute(line.encode())
            found = measures(connection)
            version = str(connection.info.parameter_status("server_version"))
        server.stop()
        output = subprocess.run([valgrind, "--version"], capture_output=True, text=True, check=True).stdout
        versions = {"PostgreSQL": version, "valgrind": output.strip().removeprefix("valgrind-")}
        yield Backend(server, valgrind, found, rounds, versions)


def _callgrind(counted: Path) -> tuple[str, ...]:
    # Counting is on from the start; on entry to ShutdownXLOG, which makes the last checkpoint, it goes off.
    return (
        "--tool=callgrind",
        "--vgdb=no",
        "--quiet",
        "--toggle-collect=ShutdownXLOG",
        "--collect-atstart=yes",
        f"--callgrind-out-file={counted}",
    )
