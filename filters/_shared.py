"""What the filters of one worker compute of an image once for several steps: decoded pictures, a tower's output.

Entries are found by what they are of (a digest of the image's bytes) and how they were made, so a step gets what
another would have made, or makes it; nothing depends on what is still there.  Steps say beforehand what they read:
one that is alone with a kind holds nothing and hashes nothing, and the last reader of an entry lets it go.

A pass goes through a chunk of 256 images step by step.  Were a chunk's entries more than the memory holds, the least
recently used would be exactly those that the next step asks for first, and nothing would ever be found; so entries
that make room are drawn, and as many are found as are held.  A look-up costs about 1 µs, a digest 0.05 ms a megabyte.
"""

from collections.abc import Callable, Hashable, Iterable
from threading import Lock
from typing import Any, TypeVar, cast

import xxhash

T = TypeVar("T")
MOST_BYTES = 536_870_912
"""Of all entries of a worker: 1,000 pictures of 384 pixels, or some 250 outputs of a ViT-L/16 there in float32."""


def digest(data: bytes) -> bytes:
    """16 bytes that name an image's bytes (XXH3-128): equal images share, others do not within any pool's size."""
    return xxhash.xxh3_128_digest(data)


class Shared:
    """A bounded memory of the filters of one worker; safe in threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        """Empty."""
        self._most, self._held, self._lock = most_bytes, 0, Lock()
        self._found: dict[Hashable, tuple[Any, int, int]] = {}  # with its place among the keys
        self._keys: list[Hashable] = []
        self._state = 1
        self.readers: list[Reader] = []

    def __reduce__(self) -> tuple[type["Shared"], tuple[int]]:
        """Another process begins with nothing."""
        return Shared, (self._most,)

    def get(self, key: Hashable) -> Any:
        """What is held of a key, or None."""
        found = self._found.get(key)
        return None if found is None else found[0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Hold a value of so many bytes; others, drawn, make room for it, and one too large is not held."""
        with self._lock:
            self._drop(key)
            if size > self._most:
                return
            while self._held + size > self._most:
                self._drop(self._keys[self._drawn(len(self._keys))])
            self._found[key] = (value, size, len(self._keys))
            self._keys.append(key)
            self._held += size

    def take(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """What is held of a key, or what ``make`` gives."""
        held = self.get(key)
        if held is not None:
            return cast(T, held)
        made = make()
        self.put(key, made, size(made))
        return made

    def drop(self, key: Hashable) -> None:
        """Forget a key, also one that is not held."""
        with self._lock:
            self._drop(key)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._found.clear()
            self._keys.clear()
            self._held = 0

    def _drop(self, key: Hashable) -> None:
        if key not in self._found:
            return
        _, size, place = self._found.pop(key)
        self._held -= size
        last = self._keys.pop()
        if last != key:
            self._keys[place] = last
            self._found[last] = (*self._found[last][:2], place)

    def _drawn(self, below: int) -> int:
        """A number below another, by Lehmer's generator: any would do."""
        self._state = self._state * 48_271 % 2_147_483_647
        return self._state % below


class Reader:
    """One step's view of entries of some kinds (how a value is made of an image); steps read in the order they join."""

    def __init__(self, shared: Shared, kinds: Iterable[Hashable]) -> None:
        """Join the readers, in ``open``."""
        self.kinds, self._shared = tuple(kinds), shared
        shared.readers.append(self)

    def others(self) -> set[Hashable]:
        """Kinds that other steps read, before or after this one."""
        return {kind for reader in self._shared.readers if reader is not self for kind in reader.kinds}

    def later(self) -> set[Hashable]:
        """Kinds that steps after this one read: what is worth holding."""
        readers = self._shared.readers
        place = readers.index(self) if self in readers else len(readers)
        return {kind for reader in readers[place + 1 :] for kind in reader.kinds}

    def get(self, kind: Hashable, name: bytes) -> Any:
        """What is held of an image by its digest, or None; the last reader takes it away."""
        found = self._shared.get((kind, name))
        if found is not None and kind not in self.later():
            self._shared.drop((kind, name))
        return found

    def put(self, kind: Hashable, name: bytes, value: Any, size: int) -> None:
        """Hold a value of so many bytes, if somebody is going to read it."""
        if kind in self.later():
            self._shared.put((kind, name), value, size)

    def leave(self) -> None:
        """Read no more, in ``close``."""
        if self in self._shared.readers:
            self._shared.readers.remove(self)
