"""Subscriptions in tests: a target that a test decides over, couriers, and receivers of webhooks."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg

from turbo.db.lane import Lane
from turbo.db.subscription_store import SubscriptionStore
from turbo.domain.event import Notice
from turbo.domain.redaction import Redactor
from turbo.events.courier import EventCourier
from turbo.events.delivery import LEASE_SECONDS, Retries
from turbo.events.failure import DeliveryFailed
from turbo.observability.metrics import Metrics

NO_SECRETS = Redactor(frozenset())


@dataclass
class FakeTarget:
    """Takes what `judge` lets it: it returns None, or why the delivery failed. `taken`: the bodies, in order."""

    judge: Callable[[Notice], str | None] = lambda _notice: None
    fold_over: int | None = 10
    with_output: bool = False
    taken: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0

    async def deliver(self, notice: Notice) -> None:
        await asyncio.sleep(0)
        if (why := self.judge(notice)) is not None:
            self.refused += 1
            raise DeliveryFailed(why)
        self.taken.append(dict(notice.body))

    def secrets(self) -> Iterable[str]:
        return ()

    def missing(self) -> str | None:
        return None

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for body in self.taken for event in body["events"]]

    @property
    def told(self) -> list[tuple[str, str]]:
        """What happened, and to which task or what else."""
        return [(event["event"], event.get("task_id") or event["about"]) for event in self.events]


@contextlib.asynccontextmanager
async def courier(
    dsn: str,
    target: FakeTarget,
    worker_id: str = "courier-1",
    *,
    first: float = 0.01,
    killed: bool = False,
    targets: Mapping[str, FakeTarget] | None = None,
) -> AsyncIterator[EventCourier]:
    """A courier with this one target, `desk`; not started: `once` is one look. `killed`: it loses its session in the end, so it gives
    up nothing that it holds. `targets`: in place of that one."""
    lane = Lane(dsn, f"turbo events {worker_id}")
    made = EventCourier(
        SubscriptionStore(lane, worker_id, lease=LEASE_SECONDS),
        {"desk": target} if targets is None else targets,
        lambda: NO_SECRETS,
        Metrics(),
        web_url="https://turbo.example.com",
        retries=Retries(first, first),
        holding_seconds=0.05,
        poll_seconds=0.2,
    )
    try:
        yield made
    finally:
        if killed:
            await lane.over()
        await made.stop()
        await lane.close()


def subscribe(
    db: psycopg.Connection, name: str = "s", events: str = "{completed,failed,asked}", **columns: object
) -> None:
    """`columns`: of agent_subscriptions."""
    known = {"name": name, "events": events, "target": "desk", **columns}
    names, marks = ", ".join(known), ", ".join(["%s"] * len(known))
    db.execute(f"insert into agent_subscriptions ({names}) values ({marks})", list(known.values()))


def act(
    db: psycopg.Connection, task_id: str, action: str = "finished", to: str = "completed", detail: str = "{}"
) -> int:
    """A row of the trail, as a finish writes it; its action_id."""
    row = db.execute(
        "insert into agent_actions (task_id, action_type, success, actor, from_status, to_status, detail)"
        " values (%s, %s, true, 'w', 'running', %s, %s) returning action_id",
        [task_id, action, to, detail],
    ).fetchone()
    assert row is not None
    return int(row[0])


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """A webhook's receiver on the loopback. `answer(received)`: the status, and headers."""

    def __init__(self, answer: Callable[[Received], tuple[int, dict[str, str]]] = lambda _one: (204, {})) -> None:
        self.received: list[Received] = []
        self.answer = answer
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                one = Received(self.path, {key.lower(): value for key, value in self.headers.items()}, body)
                receiver.received.append(one)
                status, headers = receiver.answer(one)
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def receiver(answer: Callable[[Received], tuple[int, dict[str, str]]] = lambda _one: (204, {})) -> Iterator[Receiver]:
    one = Receiver(answer)
    try:
        yield one
    finally:
        one.close()
