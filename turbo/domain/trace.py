"""Traces, as W3C trace context writes them: who inserted a task, the task and its runs are spans of one trace.

    inserter's span ──▶ turbo.task (insert to end) ──▶ turbo.wait, turbo.run (one a run) ──▶ turbo.turn, turbo.check

The ids of turbo's spans are computed from the task, so that each worker that runs it names the same ones, whatever crashed in between.
"""

import hashlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span, by its ids in hexadecimal. `sampled`: it is recorded, and so are those below it."""

    trace_id: str
    span_id: str
    sampled: bool = True

    def header(self) -> str:
        """As TRACEPARENT and the column `traceparent` have it."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse_traceparent(text: object) -> TraceContext | None:
    """None for any other form, as W3C trace context wants it: such a text counts as none."""
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None or not int(found[1], 16) or not int(found[2], 16):
        return None
    return TraceContext(found[1], found[2], bool(int(found[3], 16) & 1))


def current_traceparent() -> str | None:
    """Of the span that this program is in, if it uses OpenTelemetry. Nothing is imported for it."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return TraceContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", bool(context.trace_flags & 1)).header()


@dataclass(frozen=True, slots=True)
class Span:
    """`start`, `end`: seconds since 1970. `attributes`: ids, names, counts and money, never what a task or an agent wrote."""

    name: str
    context: TraceContext
    parent: TraceContext | None
    start: float
    end: float
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)
    failed: bool = False


@dataclass(frozen=True, slots=True)
class TaskTrace:
    """The spans of one task. `created`: seconds since 1970; a later task of the same id has others."""

    task_id: str
    created: float
    inserter: TraceContext | None

    @property
    def task(self) -> TraceContext:
        """From its insert to its end."""
        trace_id = self.inserter.trace_id if self.inserter is not None else self._id(16, "trace")
        return TraceContext(trace_id, self._id(8, trace_id), self.inserter is None or self.inserter.sampled)

    def part(self, *names: object) -> TraceContext:
        """A span below it: ("run", token), ("turn", token, 1), …"""
        return TraceContext(self.task.trace_id, self._id(8, self.task.trace_id, *names), self.task.sampled)

    def _id(self, size: int, *names: object) -> str:
        text = "\0".join(map(str, (self.task_id, f"{self.created:.6f}", *names)))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[: 2 * size]
