"""A webhook that gets notices: POST, signed as Standard Webhooks are (standardwebhooks.com), taken with any status from 200 to 299.

    webhook-id         the same when this notice is sent again
    webhook-timestamp  seconds since 1970, now
    webhook-signature  v1,<base64 of HMAC-SHA256 over "id.timestamp.body">; one for each secret, divided by spaces

The secret and, if it is one, the address are in the env file, which is read again whenever it has changed.
"""

import asyncio
import base64
import hmac
import os
import ssl
import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from turbo.config.notify import SECRET_VARIABLE, URL_VARIABLE, WebhookTarget, check_url
from turbo.domain.event import Notice
from turbo.domain.visible import visible, visible_json
from turbo.events.failure import DeliveryFailed
from turbo.events.http_post import Answer, post
from turbo.process.environment import EnvFile, EnvironmentRefused

SECRET_PREFIX = "whsec_"  # noqa: S105
SAID_CHARACTERS = 200


class WebhookDelivery:
    """See `Target`. Raises EnvironmentRefused: the env file cannot be used."""

    def __init__(self, name: str, section: WebhookTarget) -> None:
        self._file = EnvFile(Path(section.env_file)) if section.env_file is not None else None
        self._url = section.url
        self._format = section.format
        self._private = section.private
        self._seconds = section.timeout_seconds
        self._at = f"notify.{name}"
        if self._file is not None:
            self._file.values()
        self.fold_over = section.fold_over
        self.with_output = "output" in section.include

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def secrets(self) -> Iterable[str]:
        """See `Target`."""
        try:
            return () if self._file is None else tuple(self._file.values().values())
        except EnvironmentRefused:
            return ()

    def missing(self) -> str | None:
        """See `Target`."""
        try:
            values = self._values()
            self._address(values)
            _signatures(values, "", 0, b"")
        except DeliveryFailed as error:
            return str(error)
        return None

    async def deliver(self, notice: Notice) -> None:
        """See `Target`."""
        values = self._values()
        url = self._address(values)
        body, content_type = self._body(notice)
        moment = int(time.time())
        headers = {"Content-Type": content_type, "webhook-id": _header_id(notice.id), "webhook-timestamp": str(moment)}
        if signatures := _signatures(values, headers["webhook-id"], moment, body):
            headers["webhook-signature"] = signatures
        try:
            async with asyncio.timeout(self._seconds):
                answer = await post(url, body, headers, private=self._private, tls=self._tls)
        except TimeoutError:
            raise DeliveryFailed(f"no answer within {self._seconds:g} s (timeout_seconds)") from None
        except (OSError, ValueError) as error:
            raise DeliveryFailed(self._clean(_reason(error), values, url)) from error
        if not 200 <= answer.status < 300:
            raise DeliveryFailed(self._clean(_refusal(answer), values, url))

    def _values(self) -> Mapping[str, str]:
        try:
            return {} if self._file is None else self._file.values()
        except EnvironmentRefused as error:
            raise DeliveryFailed(str(error)) from error

    def _address(self, values: Mapping[str, str]) -> str:
        url = self._url or values.get(URL_VARIABLE, "")
        if not url:
            raise DeliveryFailed(f"{self._at} has no url, and its env_file no {URL_VARIABLE}")
        try:
            check_url(url)
        except ValueError as error:
            raise DeliveryFailed(f"{self._at}: its url {error}") from None
        if url.startswith("http:") and not self._private:
            raise DeliveryFailed(f"{self._at}: its url is plain http, which needs private: true")
        return url

    def _body(self, notice: Notice) -> tuple[bytes, str]:
        if self._format == "text":
            return notice.summary.encode("utf-8", "replace"), "text/plain; charset=utf-8"
        if self._format == "slack":  # its own marks: a text that others wrote must not mention @channel
            said = notice.summary.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            return visible_json({"text": said}).encode(), "application/json"
        return visible_json(notice.body).encode(), "application/json"

    def _clean(self, text: str, values: Mapping[str, str], url: str) -> str:
        """Without the secrets of the env file: a receiver may send back what it got."""
        hidden = [value for value in values.values() if len(value) >= 8]
        hidden += [url] if self._url is None else []
        for value in sorted(hidden, key=len, reverse=True):
            text = text.replace(value, "[redacted]")
        return visible(" ".join(text.split()))[: SAID_CHARACTERS * 2]


def _signatures(values: Mapping[str, str], notice_id: str, moment: int, body: bytes) -> str:
    """For the header; '' without a secret. Raises DeliveryFailed for a secret that is none."""
    made = []
    for secret in values.get(SECRET_VARIABLE, "").split():
        try:
            key = (
                base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
                if secret.startswith(SECRET_PREFIX)
                else secret.encode()
            )
        except ValueError:
            raise DeliveryFailed(f"{SECRET_VARIABLE} begins with whsec_ and is not base64 after it") from None
        if len(key) < 16:
            raise DeliveryFailed(f"{SECRET_VARIABLE} is shorter than 16 bytes: make one with openssl rand -base64 32")
        digest = hmac.digest(key, f"{notice_id}.{moment}.".encode() + body, "sha256")
        made.append(f"v1,{base64.b64encode(digest).decode()}")
    return " ".join(made)


def _header_id(notice_id: str) -> str:
    """Only ASCII, without spaces, and without the dot that divides what is signed; a subscription's name may be anything."""
    return "".join(
        char if char.isascii() and char.isprintable() and char not in " ." else f"%{ord(char):x}" for char in notice_id
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ssl.SSLError):
        return f"cannot connect: {os.strerror(error.errno) if error.errno > 0 else error.strerror}"
    return str(error) or type(error).__name__


def _refusal(answer: Answer) -> str:
    said = " ".join(answer.body.split())[:SAID_CHARACTERS]
    if 300 <= answer.status < 400:
        where = answer.location[:SAID_CHARACTERS] or "nowhere"
        return f"it answered {answer.status}, a redirect to {where}: none is followed; write the address itself"
    return f"it answered {answer.status} {answer.reason}".rstrip() + (f": {said}" if said else "")
