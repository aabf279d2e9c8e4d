"""How turbo reaches PostgreSQL: sessions, lanes, what an error means, and a store for each kind of statement."""

from turbo.db.address import Address
from turbo.db.connect import CONNECT_TIMEOUT, Connection, connect, connect_arguments, cut, open_session, within
from turbo.db.errors import (
    DATABASE_ERRORS,
    LaneClosed,
    describe,
    is_about_one_row,
    is_about_this_role,
    is_exhausted,
    is_key_race,
    is_lasting,
    is_transient,
    is_unstorable,
    kind,
    outage,
    reason,
    why_refused,
    why_unreachable,
)
from turbo.db.lane import Lane, LaneObserver

__all__ = [
    "CONNECT_TIMEOUT",
    "DATABASE_ERRORS",
    "Address",
    "Connection",
    "Lane",
    "LaneClosed",
    "LaneObserver",
    "connect",
    "connect_arguments",
    "cut",
    "describe",
    "is_about_one_row",
    "is_about_this_role",
    "is_exhausted",
    "is_key_race",
    "is_lasting",
    "is_transient",
    "is_unstorable",
    "kind",
    "open_session",
    "outage",
    "reason",
    "why_refused",
    "why_unreachable",
    "within",
]
