"""Which addresses a webhook may lead to. The address that was judged is the one that is connected to: a name is looked up once, so
that a server of names which answers differently the second time (DNS rebinding) changes nothing.

An address that is not on the public internet is refused unless the target says `private: true`: otherwise whoever controls a name
could have a worker speak to what only its own network reaches, such as a cloud's metadata service.
"""

import asyncio
import ipaddress
import socket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""NAT64: an IPv4 address in its last four bytes."""


class AddressRefused(OSError):
    """The host leads to no address that may be used. The text says why, and what to do."""


async def addresses_of(host: str, port: int, *, private: bool) -> list[str]:
    """The addresses of `host` that may be connected to, in the order of the resolver. Raises AddressRefused, OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_ADDRCONFIG
    )
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    if private:
        return addresses
    public = [one for one in addresses if is_public(one)]
    if not public:
        raise AddressRefused(
            f"{host} leads to {', '.join(addresses[:3]) or 'no address'}, which is not on the public internet; "
            "if that is meant, write private: true"
        )
    return public


def is_public(address: str) -> bool:
    """Whether it is a unicast address of the public internet, also inside the IPv6 forms that carry an IPv4 address."""
    try:
        parsed: Address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if inner is None and parsed in _TRANSLATED:
            inner = ipaddress.IPv4Address(parsed.packed[12:])
        if inner is None and parsed.teredo is not None:
            return False
        if inner is not None:
            return is_public(str(inner))
    return (
        parsed.is_global
        and not parsed.is_multicast
        and not parsed.is_reserved
        and not parsed.is_unspecified
        and not parsed.is_loopback
        and not parsed.is_link_local
    )
