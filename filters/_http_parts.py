"""What an answer is made of: its header's lines by name, and the parts of its body as they come."""

from collections.abc import Sequence
from typing import TypeAlias

Part: TypeAlias = bytes | bytearray
SMALL = 4096
"""Bytes below which a part of a body is copied to the one before."""


class Headers:
    """Header lines by name, in whatever case; a line that begins with a blank goes on with the one before."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._values: dict[str, list[str]] = {}
        name = ""
        for line in lines:
            text = line.decode("utf-8", "surrogateescape")
            if text[:1] in " \t" and name:
                self._values[name][-1] += " " + text.strip()
                continue
            before, colon, after = text.partition(":")
            if colon:
                name = before.strip().lower()
                self._values.setdefault(name, []).append(after.strip())

    def get(self, name: str) -> str:
        """The first value, empty where there is none."""
        return next(iter(self.all(name)), "")

    def all(self, name: str) -> Sequence[str]:
        """Every value, in order."""
        return self._values.get(name.lower(), ())


def append(parts: list[Part], part: Part) -> None:
    """Put a part behind the others; small ones become one, else a body sent byte by byte takes forty times its size."""
    if len(part) >= SMALL:
        parts.append(part)
    elif parts and isinstance(last := parts[-1], bytearray):
        last += part
    else:
        parts.append(bytearray(part))
