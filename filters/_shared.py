"""What the filters of one worker compute of an image once for several steps: decoded pictures, a tower's output.

Entries are found by what they are of (a digest of the image's bytes) and how they were made, so a step gets what
another would have made, or makes it.  The least recently used go first where the limit is reached; nothing depends on
what is still there.  A look-up costs about 1 µs, a digest 0.1 ms a megabyte.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

import xxhash

T = TypeVar("T")
MOST_BYTES = 536_870_912
"""Of all entries of a worker: 1,000 pictures of 384 pixels, or some 250 outputs of a ViT-L/16 there in float32."""


def digest(data: bytes) -> bytes:
    """16 bytes that name an image's bytes (XXH3-128): equal images share, others do not within any pool's size."""
    return xxhash.xxh3_128_digest(data)


class Shared:
    """A bounded memory of the filters of one worker."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        """Empty."""
        self._most, self._held = most_bytes, 0
        self._found: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """What is held of a key, or None."""
        if key not in self._found:
            return None
        self._found.move_to_end(key)
        return self._found[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Hold a value of so many bytes; the least recently used make room, one too large is not held."""
        self._drop(key)
        if size > self._most:
            return
        self._found[key] = (value, size)
        self._held += size
        while self._held > self._most:
            self._drop(next(iter(self._found)))

    def take(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """What is held of a key, or what ``make`` gives."""
        held = self.get(key)
        if held is not None:
            return cast(T, held)
        made = make()
        self.put(key, made, size(made))
        return made

    def clear(self) -> None:
        """Forget everything."""
        self._found.clear()
        self._held = 0

    def _drop(self, key: Hashable) -> None:
        if key in self._found:
            self._held -= self._found.pop(key)[1]
