"""Statements of subscriptions: who holds one, what is new for it, and how far it was delivered (turbo.events).

A position is, of each stream: the highest id that was read (`seen`), the ids below it that nobody could see then (`gaps`), and those
that were read and are still to be delivered (`owed`). Gaps are forgotten by a mark: an id, and a transaction that began well after
every id up to it was drawn. Once all transactions before that one have ended, what is in a gap up to the mark will never come.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from turbo.db.lane import Lane
from turbo.db.store import Store
from turbo.domain.event import Event

STREAMS = ("actions", "events")
MOST_SUBSCRIPTIONS = 1000
OUTPUT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class StreamPlace:
    """Up to where one stream was read. `gaps`: an int8multirange as text. `mark`, `xid`: see above."""

    seen: int = 0
    gaps: str = "{}"
    owed: tuple[int, ...] = ()
    mark: int | None = None
    xid: int | None = None

    @property
    def gap_count(self) -> int:
        return self.gaps.count("[")

    def document(self) -> dict[str, object]:
        known = {"seen": self.seen, "gaps": self.gaps, "owed": list(self.owed), "mark": self.mark, "xid": self.xid}
        return {key: value for key, value in known.items() if value not in (None, [])}


@dataclass(frozen=True, slots=True)
class SubscriptionPosition:
    """`server`: which server it was read from, '' for none yet."""

    places: Mapping[str, StreamPlace]
    server: str = ""

    def owes(self) -> bool:
        return any(place.owed for place in self.places.values())

    def with_place(self, stream: str, place: StreamPlace) -> "SubscriptionPosition":
        return replace(self, places={**self.places, stream: place})

    def document(self) -> str:
        places = {stream: place.document() for stream, place in self.places.items()}
        return json.dumps({"server": self.server, **places})


def read_position(document: Mapping[str, Any] | None) -> SubscriptionPosition:
    """Raises ValueError, TypeError, KeyError for what is no position."""
    found = document or {}
    places = {}
    for stream in STREAMS:
        if stream in found:
            one = found[stream]
            owed = tuple(int(number) for number in one.get("owed", ()))
            mark, xid = (None if one.get(key) is None else int(one[key]) for key in ("mark", "xid"))
            places[stream] = StreamPlace(int(one["seen"]), str(one.get("gaps", "{}")), owed, mark, xid)
    return SubscriptionPosition(places, str(found.get("server", "")))


@dataclass(frozen=True, slots=True)
class Listed:
    """A subscription that this worker could deliver. `trail`, `stream`: the highest ids of both streams."""

    name: str
    target: str
    mine: bool
    free: bool
    updated_at: datetime
    trail: int | None
    stream: int


@dataclass(frozen=True, slots=True)
class Held:
    """A subscription that this worker has taken. `looked_at`: when its position was written. `server`: which server answers now."""

    name: str
    events: tuple[str, ...]
    queue: str | None
    task_type: str | None
    target: str
    position: SubscriptionPosition
    failures: int
    looked_at: datetime | None
    updated_at: datetime
    server: str


@dataclass(frozen=True, slots=True)
class StreamLook:
    """What is new of one stream. `place`: up to where it is read then, with all of `events` owed. `more`: there may be more."""

    place: StreamPlace
    more: bool
    events: tuple[Event, ...] = field(default=())


class SubscriptionStore(Store):
    """Bound to one worker."""

    def __init__(self, lane: Lane, worker_id: str, *, lease: float) -> None:
        """`lease`: seconds for which a subscription is held, from each time that something is written of it."""
        super().__init__(lane)
        self._worker_id = worker_id
        self._lease = lease

    async def list(self, targets: Sequence[str]) -> list[Listed]:
        parameters = {"worker": self._worker_id, "targets": list(targets), "most": MOST_SUBSCRIPTIONS}
        return [Listed(*row) for row in await self._rows("subscriptions/list", parameters)]

    async def take(self, name: str, targets: Sequence[str]) -> Held | None:
        """Hold it from now on. None: another worker has it, or it is gone, paused, or locked by a person."""
        parameters = {"worker": self._worker_id, "name": name, "targets": list(targets), "lease": self._lease}
        for events, queue, task_type, target, position, failures, looked_at, updated_at, server in await self._rows(
            "subscriptions/take", parameters
        ):
            known = read_position(position)
            return Held(name, tuple(events), queue, task_type, target, known, failures, looked_at, updated_at, server)
        return None

    async def look(self, held: Held, stream: str, place: StreamPlace, walk: int) -> StreamLook:
        """Read on from `place`, at most `walk` rows further."""
        parameters: dict[str, object] = {
            "seen": place.seen,
            "gaps": place.gaps,
            "owed": list(place.owed),
            "mark": place.mark,
            "xid": place.xid,
            "walk": walk,
            "events": list(held.events),
        }
        if stream == "actions":
            parameters |= {"queue": held.queue, "task_type": held.task_type}
        seen, gaps, marked, more, found = (await self._rows(f"subscriptions/look_{stream}", parameters))[0]
        events = tuple(_event(stream, row) for row in found)
        mark, xid = (None, None) if marked else (place.mark, place.xid)
        return StreamLook(StreamPlace(seen, gaps, tuple(event.id for event in events), mark, xid), more, events)

    async def rewind(self, stream: str, since: datetime) -> int:
        """The last id from before that moment."""
        return int((await self._rows(f"subscriptions/rewind_{stream}", {"since": since}))[0][0])

    async def save(
        self,
        held: Held,
        position: SubscriptionPosition,
        waiting_since: datetime | None,
        *,
        delivered: int = 0,
        marking: Sequence[str] = (),
    ) -> int | None:
        """Write down how far it was read. `marking`: streams whose mark was set just now; their `xid` is what this returns. None: it is
        this worker's no more."""
        parameters = {
            **self._own(held),
            "position": position.document(),
            "waiting_since": waiting_since,
            "delivered": delivered,
            "marking": list(marking),
        }
        found = await self._rows("subscriptions/save", parameters)
        return int(found[0][0]) if found else None

    async def fail(
        self,
        held: Held,
        position: SubscriptionPosition,
        waiting_since: datetime | None,
        error: str,
        *,
        wait: float,
        release: bool,
    ) -> bool:
        """A delivery failed; nobody tries again for `wait` seconds. False: it is this worker's no more."""
        parameters = {
            **self._own(held),
            "position": position.document(),
            "waiting_since": waiting_since,
            "error": error,
            "wait": wait,
            "release": release,
        }
        return bool(await self._rows("subscriptions/fail", parameters))

    async def release(self) -> None:
        """Give up all that this worker holds."""
        await self._run("subscriptions/release", {"worker": self._worker_id})

    async def outputs(self, task_ids: Sequence[str]) -> dict[str, object]:
        """What tasks have put out, by id; cut to OUTPUT_BYTES."""
        rows = await self._rows("subscriptions/outputs", {"task_ids": list(task_ids), "most": OUTPUT_BYTES})
        return {task_id: output for task_id, output in rows if output is not None}

    def _own(self, held: Held) -> dict[str, object]:
        return {"worker": self._worker_id, "name": held.name, "updated_at": held.updated_at, "lease": self._lease}


def _event(stream: str, row: Mapping[str, Any]) -> Event:
    rest = {key: value for key, value in row.items() if key not in ("id", "event", "at")}
    return Event(stream, int(row["id"]), str(row["event"]), datetime.fromisoformat(str(row["at"])), rest)


def earlier(held: Held, by: timedelta) -> datetime | None:
    """So long before its position was written."""
    return None if held.looked_at is None else held.looked_at - by
