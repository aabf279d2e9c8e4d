"""Who may open the page: whoever has opened a link that `turbo web` printed on this host, once, in this browser.

    turbo web ──prints──▶ http://…/sign-in#KEY ──POST of its script──▶ cookie, valid for a month
                           the link works once, within 15 minutes

The key is behind `#`, so that no browser sends it in a request line or a Referer. Links and sign-ins are files
in `<state_dir>/web/`, named by the hash of the secret: they survive a restart, `turbo web --link` makes another link for a page that
runs already, and deleting a file ends what it allows.
"""

import hashlib
import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path

LINK_SECONDS = 15 * 60
SESSION_SECONDS = 30 * 24 * 3600
USED_EVERY_SECONDS = 3600
"""A session lasts as long as it is used; its file is touched this often."""

SECRET = re.compile(r"[A-Za-z0-9_-]{20,100}")


class SignIns:
    """The links and sessions of one state directory. Raises OSError where it cannot be written."""

    def __init__(self, directory: Path) -> None:
        self._links = directory / "links"
        self._sessions = directory / "sessions"
        for one in (self._links, self._sessions):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)

    def new_link(self) -> str:
        """The key of a new link."""
        return self._new(self._links)

    def sign_in(self, key: str) -> str | None:
        """Use up a link: the secret of a new session. None: no such link, or it was used, or its time is over."""
        if self._take(key):
            self._sweep()
            return self._new(self._sessions)
        return None

    def signed_in(self, secret: str) -> bool:
        if not SECRET.fullmatch(secret):
            return False
        path = self._sessions / _name(secret)
        try:
            idle = time.time() - path.stat().st_mtime
        except OSError:
            return False
        if idle > SESSION_SECONDS:
            return False
        if idle > USED_EVERY_SECONDS:
            with suppress(OSError):
                path.touch()
        return True

    def sign_out(self, secret: str) -> None:
        if SECRET.fullmatch(secret):
            (self._sessions / _name(secret)).unlink(missing_ok=True)

    def _take(self, key: str) -> bool:
        if not SECRET.fullmatch(key):
            return False
        path = self._links / _name(key)
        try:
            fresh = time.time() - path.stat().st_mtime <= LINK_SECONDS
            path.unlink()  # of two who come at once, one gets it
        except OSError:
            return False
        return fresh

    def _sweep(self) -> None:
        """Delete what is over."""
        for directory, seconds in ((self._links, LINK_SECONDS), (self._sessions, SESSION_SECONDS)):
            for path in directory.iterdir():
                with suppress(OSError):
                    if time.time() - path.stat().st_mtime > seconds:
                        path.unlink()

    @staticmethod
    def _new(directory: Path) -> str:
        secret = secrets.token_urlsafe(32)
        os.close(os.open(directory / _name(secret), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return secret


def _name(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
