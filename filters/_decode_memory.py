"""A bound on what all threads of a worker decode at a time, by the sizes that files announce."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

BYTES_A_PIXEL = {"jpeg": 15, "png": 20, "gif": 20, "avif": 24, "webp": 30}
"""What decoding takes at most, whatever the file holds: measured on the worst kind of each format."""


class DecodeMemory:
    """So many bytes for pictures under way; one that needs more than all of them has them alone."""

    def __init__(self, most: int) -> None:
        """All is free."""
        self._most, self._held, self._changed = most, 0, Condition()

    @contextmanager
    def hold(self, kind: str, size: tuple[int, int]) -> Iterator[None]:
        """Wait until a picture of a format and size (width, height) fits, and count it within the block."""
        needed = BYTES_A_PIXEL[kind] * size[0] * size[1]
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + needed <= self._most)
            self._held += needed
        try:
            yield
        finally:
            with self._changed:
                self._held -= needed
                self._changed.notify_all()

    def __reduce__(self) -> tuple[type["DecodeMemory"], tuple[int]]:
        """Another process has its own."""
        return DecodeMemory, (self._most,)
