"""Say which addresses an untrusted URL may lead to where a connection is made.

A check of the URL's text or of a DNS answer is not enough: redirects, IP literals and answers that
change between look-up and connect pass it.  ``Guard`` is asked for the socket of every connection,
with the resolved address, and refuses by raising.  It does not see through an HTTP proxy: use none.
"""

import errno
import ipaddress
import socket
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
AddressInfo: TypeAlias = tuple[
    int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int]
]

MARK = "refused by the address guard"
"""Part of every refusal's text: refusals of several addresses arrive as one plain ``OSError``."""
_KNOWN = 4096
"""Addresses of which a guard remembers what it said."""


class RefusedAddress(OSError):
    """The address is not one that a public image can lie at."""


def public(address: str) -> bool:
    """Whether an address is globally routable unicast, and no tunnel or metadata service.

    Of IPv6 only 2000::/3 counts, without Teredo and 6to4, which wrap IPv4 addresses, and NAT64 and
    ::ffff: where the wrapped address is public.
    """
    ip = unwrapped(address)
    if ip is None:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        unicast = ip in ipaddress.ip_network("2000::/3") and ip.sixtofour is None and ip.teredo is None
        return unicast and ip.is_global
    # 192.0.0.0/24 and 168.63.129.16 hold metadata services of two clouds, yet count as global.
    metadata = ip in ipaddress.ip_network("192.0.0.0/24") or ip == ipaddress.ip_address("168.63.129.16")
    return ip.is_global and not ip.is_multicast and not metadata


def unwrapped(address: str) -> Address | None:
    """The address that is meant: IPv4 inside ::ffff: or NAT64 comes out; null where it is no address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in ipaddress.ip_network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip


class Guard:
    """A socket factory that makes sockets for public addresses, and those of the networks given."""

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._networks: tuple[Network, ...] = tuple(ipaddress.ip_network(n) for n in networks)
        self.allows = lru_cache(_KNOWN)(self._allows)

    def _allows(self, address: str) -> bool:
        """Whether a connection to this address may be made."""
        ip = unwrapped(address)
        return any(ip in n for n in self._networks if ip and ip.version == n.version) or public(address)

    def __call__(self, info: AddressInfo) -> socket.socket:
        """The socket for one connection; raises ``RefusedAddress``."""
        family, kind, protocol, _, target = info
        if not self.allows(target[0]):
            raise RefusedAddress(errno.EACCES, f"{MARK}: {target[0]}")
        return socket.socket(family, kind, protocol)
