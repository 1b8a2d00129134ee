"""A run directory for trying things out: what is written or removed is so in a scratch folder only.

The shard functions of a run work on it unchanged, so a plan asks them what they would do instead of guessing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.pipelines.store import Store


class Overlay(Store):
    """A store whose root is only read; ``scratch`` is a local folder that holds what is new.

    It stays in one process: workers elsewhere would not know what was removed.
    """

    def __init__(self, root: str, scratch: str) -> None:
        """Nothing is removed yet; the root need not exist."""
        super().__init__(root)
        self._old, self._new = Store(root), Store(scratch)
        self._removed: set[str] = set()

    def __reduce__(self) -> Any:
        """Refuse to travel."""
        raise TypeError("an overlay stays in its process")

    def _hides(self, name: str) -> bool:
        """Whether a file of the root, or a folder above it, was removed."""
        parts = name.split("/")
        return bool(self._removed) and any("/".join(parts[: i + 1]) in self._removed for i in range(len(parts)))

    def _holder(self, name: str) -> Store:
        """Where a file is now; raises ``FileNotFoundError`` for one that was removed."""
        if self._new.exists(name):
            return self._new
        if self._hides(name):
            raise FileNotFoundError(name)
        return self._old

    def url(self, name: str) -> str:
        """See ``Store``."""
        return self._new.url(name) if self._new.exists(name) else self._old.url(name)

    def exists(self, name: str) -> bool:
        """See ``Store``."""
        return self._new.exists(name) or (not self._hides(name) and self._old.exists(name))

    def names(self, folder: str, suffix: str = "") -> list[str]:
        """See ``Store``."""
        old = [name for name in self._old.names(folder, suffix) if not self._hides(f"{folder}/{name}")]
        return sorted({*old, *self._new.names(folder, suffix)})

    def sizes(self, folder: str, suffix: str = "") -> dict[str, int]:
        """See ``Store``."""
        old = {n: size for n, size in self._old.sizes(folder, suffix).items() if not self._hides(f"{folder}/{n}")}
        return old | self._new.sizes(folder, suffix)

    def remove(self, name: str) -> None:
        """Hide it; see ``Store``."""
        self._new.remove(name)
        self._removed.add(name)

    def read(self, name: str) -> bytes:
        """See ``Store``."""
        return self._holder(name).read(name)

    @contextmanager
    def create(self, name: str, exclusive: bool) -> Iterator[IO[bytes]]:
        """See ``Store``."""
        with self._new.create(name, exclusive) as file:
            yield file

    @contextmanager
    def create_sealed(
        self, name: str, schema: pa.Schema, footer: Mapping[str, str], exclusive: bool = True
    ) -> Iterator[pq.ParquetWriter]:
        """See ``Store``."""
        with self._new.create_sealed(name, schema, footer, exclusive) as writer:
            yield writer

    def content(self, name: str) -> pa.Buffer:
        """See ``Store``."""
        return self._holder(name).content(name)

    def parquet(self, name: str) -> pq.ParquetFile:
        """See ``Store``."""
        return self._holder(name).parquet(name)

    def sealed(self, name: str, is_light: bool) -> pq.ParquetFile:
        """See ``Store``."""
        return self._holder(name).sealed(name, is_light)

    def clean(self) -> None:
        """Leave what other processes are writing."""
