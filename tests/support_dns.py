"""A name server on loopback that says what a test wants, by UDP; RFC 1035 as far as A and AAAA records need it."""

import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

Answer = Callable[[str, int], list[str] | int | None]
"""Given a name and how often it was asked for: its addresses, an error code (2 fails, 3 no such name), or silence."""


@dataclass
class NameServer:
    """Where the server is, as settings name it, and how often each name was asked for."""

    address: str
    asked: Counter[str] = field(default_factory=Counter)


def _name(query: bytes) -> tuple[str, int]:
    """The name of a query's question, and where its type begins."""
    at, labels = 12, []
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels), at + 1


def _reply(query: bytes, found: list[str] | int, kind: int, end: int) -> bytes:
    addresses = [] if isinstance(found, int) else [ip_address(text) for text in found]
    records = [a.packed for a in addresses if (a.version == 4) == (kind == 1)]
    code = found if isinstance(found, int) else 0
    head = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(records), 0, 0)
    body = b"".join(struct.pack(">HHHIH", 0xC00C, kind, 1, 0, len(r)) + r for r in records)
    return head + query[12:end] + body


def _serve(sock: socket.socket, server: NameServer, answer: Answer) -> None:
    while True:
        try:
            query, sender = sock.recvfrom(4096)
        except OSError:
            return
        if not query:
            return
        name, at = _name(query)
        (kind,) = struct.unpack_from(">H", query, at)
        name = name.lower()
        server.asked[name] += kind == 1
        found = answer(name, server.asked[name])
        if found is not None:
            sock.sendto(_reply(query, found, kind, at + 4), sender)


@contextmanager
def name_server(answer: Answer) -> Iterator[NameServer]:
    """The server, in a thread, for the length of the block."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        server = NameServer(f"127.0.0.1:{sock.getsockname()[1]}")
        thread = threading.Thread(target=_serve, args=(sock, server, answer), daemon=True)
        thread.start()
        yield server
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", sock.getsockname())
        thread.join(5)
