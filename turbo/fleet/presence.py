"""The fleet's workers as agent_workers has them, and their /metrics pages."""

import contextlib
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import psycopg
from prometheus_client.parser import text_string_to_metric_families
from psycopg.rows import dict_row

from turbo import db
from turbo.client.fleet_status import WorkerLine, worker_lines
from turbo.fleet.instance import WorkerInstance
from turbo.fleet.manager import MARK, Manager, sections
from turbo.fleet.shell import FleetError
from turbo.sql import statement

CONNECT_AGAIN_SECONDS = 1.0


MOST_WORKERS = 5000
"""Rows that are read: more than a fleet has."""


class Presence:
    """Reads agent_workers over one connection, reopened when lost. `with Presence(dsn) as presence: …`"""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection = self._connect()

    def _connect(self) -> psycopg.Connection[Any]:
        return db.open_client(self._dsn, "turbo fleet")

    def __enter__(self) -> "Presence":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def rows(self) -> list[WorkerLine]:
        """The rows of all workers, including those outside the fleet. Raises psycopg.Error."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return worker_lines(cursor.execute(statement("status/workers"), {"limit": MOST_WORKERS}, prepare=False))

    def rows_or_none(self) -> list[WorkerLine] | None:
        """The same during a possible outage: None if the database is away, and a new connection for the next call."""
        try:
            return self.rows()
        except psycopg.OperationalError:
            time.sleep(CONNECT_AGAIN_SECONDS)
            with contextlib.suppress(psycopg.OperationalError):
                self._connection = self._connect()
            return None


@dataclass(frozen=True, slots=True)
class Page:
    """A worker's /metrics page."""

    version: str
    slots: int
    listener_up: bool


def pages(manager: Manager, addresses: Mapping[str, str]) -> dict[str, Page | None]:
    """Service → its page, read on the host itself; None without an answer. `addresses`: service → host:port. Tries plain HTTP
    first, then TLS without checking the certificate, which belongs to the same host. Raises FleetError."""
    if not addresses:
        return {}
    asked = " ".join(shlex.quote(f"{name} {address}") for name, address in addresses.items())
    done = manager.run(
        "command -v curl >/dev/null || exit 127; "
        f"for a in {asked}; do echo; echo '{MARK}'\"${{a% *}}\"; "
        'curl -fs --max-time 3 "http://${a#* }/metrics" || curl -fsk --max-time 3 "https://${a#* }/metrics"; done'
    )
    if done.code == 127:
        raise FleetError(f"{manager.host.name}: there is no curl to read the workers' /metrics; install it")
    return {name: _page(text) for name, text in sections(done.out).items()}


def _page(text: str) -> Page | None:
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    build = next((s for s in samples if s.name == "turbo_build_info"), None)
    if build is None:
        return None
    slots = sum(int(s.value) for s in samples if s.name == "turbo_slots")
    return Page(build.labels.get("version", ""), slots, any(s.value for s in samples if s.name == "turbo_listener_up"))


def address(instance: WorkerInstance, row: WorkerLine | None) -> str:
    """Where its host can reach its /metrics: the address in its row; 127.0.0.1 for a wildcard."""
    known = row.metrics_address if row is not None else None
    if known is None:
        return f"127.0.0.1:{instance.metrics_port}"
    host, _, port = known.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("0.0.0.0", "::", "[::]", "") else known  # noqa: S104 - compared, not bound


def rows_of(name: str, pid: int | None, rows: Sequence[WorkerLine]) -> list[WorkerLine]:
    """The live rows with this name, and with this pid if it is known."""
    return [row for row in rows if row.name == name and row.live and pid in (None, row.pid)]
