"""How turbo reaches PostgreSQL: sessions, lanes, and what an error means."""

from turbo.db.connect import (
    CONNECT_TIMEOUT,
    Backoff,
    Connection,
    Lane,
    LaneClosed,
    connect,
    connect_arguments,
    cut,
    describe,
    is_transient,
    open_session,
    reason,
    why_unreachable,
    within,
)

__all__ = [
    "CONNECT_TIMEOUT",
    "Backoff",
    "Connection",
    "Lane",
    "LaneClosed",
    "connect",
    "connect_arguments",
    "cut",
    "describe",
    "is_transient",
    "open_session",
    "reason",
    "why_unreachable",
    "within",
]
