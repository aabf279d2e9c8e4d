"""Spans on their way to a collector, by OTLP over HTTP. Nothing waits for them: a thread of its own sends what is there.

    add ──▶ at most 2,048 spans ──▶ thread ──▶ collector
              └── full: the oldest are dropped

A collector that is away costs one line in the log, and one when it is back. This module is imported only where telemetry is
configured: it needs the extra `otel`.
"""

import logging
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from turbo import __version__
from turbo.domain.trace import Span, TraceContext

log = logging.getLogger(__name__)

QUEUED: Final = 2048
BATCH: Final = 512
GATHER_SECONDS = 0.5
"""From the first span to its batch."""

EXPORT_SECONDS = 5.0
CLOSE_SECONDS = 2.0

_SCOPE = InstrumentationScope("turbo", __version__)


@dataclass(frozen=True, slots=True)
class Collector:
    """`endpoint` None: as OTEL_EXPORTER_OTLP_ENDPOINT says. Headers, certificates and compression: OTEL_EXPORTER_OTLP_* of the
    environment."""

    endpoint: str | None
    service_name: str
    attributes: Mapping[str, str]


class SpanExport:
    def __init__(self, collector: Collector) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)  # a dead collector is said once, below
        url = None if collector.endpoint is None else f"{collector.endpoint}/v1/traces"
        self._exporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_SECONDS)
        self._resource = Resource.create({"service.name": collector.service_name, **collector.attributes})
        self._spans: deque[ReadableSpan] = deque(maxlen=QUEUED)
        self._changed = threading.Condition()
        self._closed = self._failing = False
        self._thread = threading.Thread(target=self._send, name="turbo traces", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, span: Span) -> None:
        """From any thread. Returns at once."""
        if not span.context.sampled:
            return
        readable = ReadableSpan(
            span.name,
            _context(span.context),
            None if span.parent is None else _context(span.parent),
            self._resource,
            dict(span.attributes),
            kind=SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR) if span.failed else Status(StatusCode.UNSET),
            start_time=int(span.start * 1e9),
            end_time=int(max(span.start, span.end) * 1e9),
            instrumentation_scope=_SCOPE,
        )
        with self._changed:
            self._spans.append(readable)
            self._changed.notify()

    def close(self) -> None:
        """Send what is there, within CLOSE_SECONDS. Blocks so long at most."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)

    def _send(self) -> None:
        while batch := self._batch():
            try:
                sent = self._exporter.export(batch) is SpanExportResult.SUCCESS
            except Exception:  # whatever the exporter makes of its network or its settings
                sent = False
            if sent is self._failing:
                self._failing = not sent
                if sent:
                    log.info("traces are exported again")
                else:
                    log.warning(
                        "traces cannot be exported: the collector is away, or refuses them; tasks go on without"
                    )

    def _batch(self) -> list[ReadableSpan]:
        """Empty: it is closed, and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._spans or self._closed)
            self._changed.wait_for(lambda: len(self._spans) >= BATCH or self._closed, GATHER_SECONDS)
            return [self._spans.popleft() for _ in range(min(BATCH, len(self._spans)))]


def _context(context: TraceContext) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16), int(context.span_id, 16), is_remote=False, trace_flags=TraceFlags(context.sampled)
    )
