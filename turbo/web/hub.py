"""Live sections of pages: one poller for each kind of page, however many have it open.

    first page opens ──▶ poller starts ──fragments──▶ every page with this key
    last page closes ──▶ poller ends

A fragment is the HTML of one section. It is sent when it differs from the last one; a page that comes later gets all that
there is. So the database is asked once for five hundred pages, and the HTML is made once.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

Publish = Callable[[str, str | None], None]
"""publish(section, html): `section` is the id of an element with the attribute data-live. None: pages that come later do not get it."""

Poller = Callable[[Publish], Awaitable[None]]
"""Asks the database and publishes, until it is cancelled. It survives errors of the database itself."""

KEEPALIVE_SECONDS = 15.0
STATE = "state"
"""The section that every page has: whether the database answers. '' if it does."""


class LiveChannel:
    """One running poller, its sections, and the pages that listen."""

    def __init__(self, poller: Poller) -> None:
        self.sections: dict[str, str] = {}
        self._events: dict[str, bytes] = {}
        self.listeners: set[asyncio.Event] = set()
        self.changes: dict[str, int] = {}
        self._version = 0
        self.task = asyncio.ensure_future(poller(self.publish))

    def publish(self, section: str, html: str | None) -> None:
        if html is None:
            self.sections.pop(section, None)
            self._events.pop(section, None)
            self.changes.pop(section, None)
            return
        if self.sections.get(section) == html:
            return
        self.sections[section] = html
        self._events[section] = f"data: {json.dumps({'section': section, 'html': html})}\n\n".encode()
        self._version += 1
        self.changes[section] = self._version
        for listener in self.listeners:
            listener.set()

    def since(self, version: int) -> tuple[int, bytes]:
        """The events of what changed after `version`, in the order of the changes."""
        changed = sorted((v, name) for name, v in self.changes.items() if v > version)
        return self._version, b"".join(self._events[name] for _, name in changed)


class Hub:
    """The channels, by key: ("front",), ("task", id), …"""

    def __init__(self) -> None:
        self._channels: dict[tuple[str, ...], LiveChannel] = {}
        self._closed = False

    async def listen(self, key: tuple[str, ...], poller: Poller) -> AsyncIterator[bytes]:
        """Server-sent events for one page: `data: {"section": id, "html": html}`."""
        if self._closed:
            return
        channel = self._channels.get(key)
        if channel is None or channel.task.done():
            channel = self._channels[key] = LiveChannel(poller)
        woken = asyncio.Event()
        channel.listeners.add(woken)
        version = 0
        try:
            yield b"retry: 2000\n\n"
            while not channel.task.done():
                version, changed = channel.since(version)
                if changed:
                    yield changed
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(KEEPALIVE_SECONDS):
                        await woken.wait()
                if woken.is_set():
                    woken.clear()
                else:
                    yield b": still here\n\n"
        finally:
            channel.listeners.discard(woken)
            if not channel.listeners:
                channel.task.cancel()
                if self._channels.get(key) is channel:
                    del self._channels[key]

    def sections(self, key: tuple[str, ...]) -> Mapping[str, str]:
        """The HTML of what is live now, by section: for a page that opens while others are open. Empty if there is none."""
        channel = self._channels.get(key)
        return {} if channel is None else channel.sections

    @property
    def pages(self) -> int:
        """How many pages listen."""
        return sum(len(channel.listeners) for channel in self._channels.values())

    async def close(self) -> None:
        """End all streams, so that nothing waits for pages that stay open. One that a page asks for later has nothing in it."""
        self._closed = True
        channels = list(self._channels.values())
        for channel in channels:
            channel.task.cancel()
        await asyncio.gather(*(channel.task for channel in channels), return_exceptions=True)
        for channel in channels:
            for listener in channel.listeners:
                listener.set()
