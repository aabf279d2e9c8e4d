"""A collector of traces for the length of a test: OTLP over HTTP, on a free port of 127.0.0.1."""

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.waiting import until


@dataclass
class Received:
    """One span, with ids in hexadecimal and times in seconds since 1970."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: float
    end: float
    failed: bool
    attributes: dict[str, object]


@dataclass
class Collector:
    endpoint: str
    spans: list[Received] = field(default_factory=list)
    raw: bytes = b""
    """All that was received, for what must not be in it."""

    def of(self, name: str) -> list[Received]:
        return [span for span in list(self.spans) if span.name == name]

    def wait_for(self, name: str, many: int = 1) -> list[Received]:
        until(lambda: len(self.of(name)) >= many, 20, lambda: f"{many} {name} in {[s.name for s in self.spans]}")
        return self.of(name)

    def take(self, body: bytes) -> None:
        self.raw += body
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += [_received(span) for span in scope.spans]


def _received(span: Any) -> Received:
    return Received(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano / 1e9,
        span.end_time_unix_nano / 1e9,
        span.status.code == 2,
        {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes},
    )


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.take(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
