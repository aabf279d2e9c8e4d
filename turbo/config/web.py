"""The `web:` section of worker.yaml: the web page, and the links to it in notifications."""

import ipaddress
import re
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from turbo.config.loader import Section, Whole, home

HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,80}")


class WebSection(Section):
    """`turbo web` reads all of it, a worker only `url`."""

    url: str | None = Field(
        default=None,
        description="Where people reach the page: https://turbo.example.com. Links in notifications begin with it. null: no links.",
    )
    host: str = Field(default="127.0.0.1", description="The address that turbo web listens on.")
    port: Whole = Field(default=9480, ge=0, le=65535, description="Its port. 0: any free port, which it prints.")
    read_only: bool = Field(default=False, description="true: the page changes nothing.")
    trusted_proxies: list[str] = Field(
        default=[], description="Addresses or networks of reverse proxies whose user_header counts: [10.0.0.5]."
    )
    user_header: str = Field(
        default="X-Forwarded-User",
        description="The header in which such a proxy names the person, for on_behalf_of in the audit trail.",
    )
    certfile: str | None = Field(default=None, description="A certificate, PEM: serve HTTPS. null: plain HTTP.")
    keyfile: str | None = Field(default=None, description="Its key, PEM.")
    _expand = field_validator("certfile", "keyfile", mode="after")(lambda v: home(v))

    @field_validator("url")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        """Without a slash at its end."""
        if url is None:
            return None
        parts = urlsplit(url)  # its own ValueError says what is wrong
        _ = parts.port
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("is not an address of a page: write http:// or https:// and a host")
        if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
            raise ValueError("has more than scheme, host and port: the page is at the top of its host")
        return url.rstrip("/")

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: list[str]) -> list[str]:
        for proxy in proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise ValueError(f"{proxy!r} is not an address or a network: 10.0.0.5, 10.0.0.0/24") from None
        return proxies

    @field_validator("user_header")
    @classmethod
    def _header(cls, name: str) -> str:
        if not HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a header")
        return name
